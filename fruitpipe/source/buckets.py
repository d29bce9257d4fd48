"""Images of a bucket: everything below a prefix, or what a glob says."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import S3Config
from fruitpipe.objects import list_pages, open_bucket, split
from fruitpipe.source.listing import are_images, split_glob, to_listing


def folder_of(url: str) -> str:
    """The key prefix that a URL or glob lists."""
    return split_glob(split(url)[2])[0]


def list_bucket(url: str, by_parent: bool, s3: S3Config) -> Iterator[pa.RecordBatch]:
    bucket = open_bucket(url, s3)
    folder, pattern = split_glob(split(url)[2])
    start = len(folder) + 1 if folder else 0
    for page in list_pages(bucket, folder):
        images = page.filter(are_images(pc.utf8_slice_codeunits(page["key"], start)))
        if pattern is not None:
            images = images.filter(
                pa.array([bool(pattern.match(key)) for key in images["key"].to_pylist()], pa.bool_())
            )
        if len(images):
            paths = pc.binary_join_element_wise(bucket.url, images["key"], "/")
            yield to_listing(paths, images["etag"], images["size"], None, by_parent)
