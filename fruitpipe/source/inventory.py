"""An inventory of a bucket, as S3 makes it: a manifest.json, which names files of objects, in Parquet or CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import S3Config
from fruitpipe.errors import UserError, first_line
from fruitpipe.objects import open_object
from fruitpipe.source.list_rows import listing_of
from fruitpipe.source.listing import are_images
from fruitpipe.source.parquet_lists import ParquetList
from fruitpipe.source.scope import Scope
from fruitpipe.source.text_lists import read_csv

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 16 << 20
"""Bytes; a manifest names some hundreds of parts."""
COLUMNS = ("bucket", "key", "islatest", "isdeletemarker", "etag", "size")
"""Those that matter."""


def list_inventory(name: str, manifest: bytes, by_parent: bool, s3: S3Config, scope: Scope) -> Iterator[pa.RecordBatch]:
    """Its images, as batches of LISTING: current versions of objects that end like images.

    name: of its manifest, whose text is given as far as it may go, and a byte more.

    Raises UserError where that is none, or a part that it names is missing.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
    """
    if len(manifest) > LARGEST_MANIFEST:
        raise UserError(f"{name} is no manifest of an S3 Inventory: it has more than {LARGEST_MANIFEST} bytes.")
    try:
        document = json.loads(manifest)
        form, parts = document["fileFormat"], [each["key"] for each in document["files"]]
        bucket = document["destinationBucket"].rpartition(":")[2]
        columns = [column.strip() for column in document["fileSchema"].split(",")]
    except KeyError as error:
        raise UserError(f"{name} has no {error}: give the {MANIFEST} that S3 wrote with an inventory.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name} is not the {MANIFEST} that S3 wrote with an inventory: {first_line(error)}."
        ) from error
    if form not in {"Parquet", "CSV"}:
        raise UserError(f"{name} is an inventory in {form}: have it made as Parquet or CSV.")
    urls = [f"s3://{bucket}/{key}" for key in parts]
    rows = 0
    for url in scope.checked(pa.array(urls, pa.string()), 0, "part").to_pylist():
        with open_part(url, name, s3) as file:
            if form == "Parquet":
                parquet = ParquetList(file)
                batches = parquet.batches([column for column in parquet.names if meant(column) in COLUMNS])
            else:
                texts = {column: pa.string() for column in columns if meant(column) in COLUMNS}
                batches = read_csv(pa.CompressedInputStream(file, "gzip"), texts, columns)
            for batch in batches:
                batch.validate(full=True)  # Parquet's readers look at no text
                yield listing_of(inventory_rows(batch, form == "CSV"), rows, scope, by_parent)
                rows += len(batch)


def open_part(part: str, name: str, s3: S3Config) -> BinaryIO:
    """Open a part of an inventory. Raises UserError where it is missing or cannot be read."""
    try:
        return open_object(part, s3)
    except FileNotFoundError:
        raise UserError(f"no {part}, which {name} names: take an inventory whose parts are still there.") from None


def meant(column: str) -> str:
    """A column's name in an inventory, which is another in Parquet than in CSV."""
    return column.lower().replace("_", "")


def inventory_rows(batch: pa.RecordBatch, quoted: bool) -> pa.RecordBatch:
    """Rows of an inventory as those of a list, without a path where they are no current versions of images."""
    columns = {meant(name): batch[name] for name in batch.schema.names}
    for name in ("bucket", "key"):
        if name not in columns:
            raise ValueError(f"it has no column {name}")
    keys = columns["key"]
    if quoted:
        keys = pa.array([key and unquote_plus(key) for key in keys.to_pylist()], pa.string())
    wanted = are_images(keys)
    for name, value in (("islatest", "true"), ("isdeletemarker", "false")):
        if name in columns:
            wanted = pc.and_(wanted, pc.equal(pc.utf8_lower(columns[name].cast(pa.string())), value))
    paths = pc.if_else(
        wanted, pc.binary_join_element_wise("s3:/", columns["bucket"], keys, "/"), pa.scalar(None, pa.string())
    )
    facts = {name: columns[name] for name in ("etag", "size") if name in columns}
    return pa.record_batch({"path": paths} | facts)
