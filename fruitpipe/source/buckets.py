"""Images of a bucket: everything below a prefix, or what a glob says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import S3Config
from fruitpipe.objects import below, list_pages, open_bucket, prefix_of
from fruitpipe.source.listing import HIDDEN, are_hidden, are_images, count_other, split_glob, to_listing


def listed_prefix(url: str) -> str:
    """The key prefix that a URL or glob lists."""
    return split_glob(prefix_of(url))[0]


def list_bucket(url: str, by_parent: bool, s3: S3Config, others: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Images below a prefix or of a glob; what is there besides is counted among the others, by extension."""
    bucket = open_bucket(url, s3)
    folder, pattern = split_glob(prefix_of(url))
    start = len(below(folder))
    for page in list_pages(bucket, folder):
        meant = page if pattern is None else page.filter(matches(pattern, page["key"]))
        names = pc.utf8_slice_codeunits(meant["key"], start)
        wanted = are_images(names)
        images = meant.filter(wanted)
        hidden = are_hidden(names)
        # Consoles make empty objects that stand for folders.
        rest = names.filter(pc.and_not(pc.greater(meant["size"], 0), pc.or_(wanted, hidden)))
        for name in rest.to_pylist():
            count_other(others, name)
        if found := pc.sum(hidden).as_py():
            others[HIDDEN] += found
        if len(images):
            paths = pc.binary_join_element_wise(bucket.url, images["key"], "/")
            yield to_listing(paths, images["etag"], images["size"], None, by_parent)


def matches(pattern: re.Pattern[str], keys: pa.Array) -> pa.Array:
    return pa.array([bool(pattern.match(key)) for key in keys.to_pylist()], pa.bool_())
