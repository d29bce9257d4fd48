"""Images that a file names: Parquet, CSV, JSON lines or text with their paths, or an inventory that S3 has made.

A column `path` is needed; `label`, `etag` and `size` are used where they are there. Paths that are not absolute start
from the manifest's folder. Files on disk are looked at for their etags; an object whose etag nobody says counts as one
that never changes, so that a manifest costs no request for each image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import UserError
from fruitpipe.source.files import size_and_etag
from fruitpipe.source.listing import BATCH, IMAGE, to_listing
from fruitpipe.store import open_store

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson", ".txt", "manifest.json")
SCHEMA = {"path": pa.string(), "label": pa.string(), "etag": pa.string(), "size": pa.int64()}
REMOTE = r"^[a-z0-9]+://"
BLOCK = 8 << 20
"""Bytes of CSV or JSON read at once."""


def open_manifest(name: str, s3: S3Config) -> BinaryIO:
    """Raises UserError where it is not there or cannot be read."""
    folder, file = split_name(name)
    try:
        return open_store(folder, s3).open(file)
    except FileNotFoundError:
        raise UserError(f"no manifest {name}: check its path.") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}.") from error


def split_name(name: str) -> tuple[str, str]:
    """Folder and file name of a manifest, the folder absolute."""
    if is_remote(name):
        folder, _, file = name.rpartition("/")
        return folder, file
    path = Path(local_path(name)).absolute()
    return str(path.parent), path.name


def list_manifest(name: str, by_parent: bool, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Images of a manifest, as batches of LISTING. Raises UserError where it is damaged or has no paths."""
    try:
        if name.endswith("manifest.json"):
            yield from list_inventory(name, by_parent, s3)
            return
        for table in read(name, s3):
            if "path" not in table.column_names:
                found = ", ".join(table.column_names)
                raise UserError(f"{name} has no column `path`, but {found}: name the column of the images' paths so.")
            yield from listing_of(table, split_name(name)[0], by_parent)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {name}: {str(error).splitlines()[0]}.") from error


def read(name: str, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Batches of a manifest's columns as they are."""
    with open_manifest(name, s3) as file:
        suffix = name.lower().rpartition(".")[2]
        if suffix == "parquet":
            yield from pq.ParquetFile(file).iter_batches(BATCH)
        elif suffix == "csv":
            yield from read_csv(file, None)
        elif suffix == "txt":
            yield from read_lines(file)
        else:
            # Columns may be missing from some rows; naming their types makes them null there.
            options = pa.json.ParseOptions(
                explicit_schema=pa.schema(list(SCHEMA.items())), unexpected_field_behavior="ignore"
            )
            yield from pa.json.open_json(file, pa.json.ReadOptions(block_size=BLOCK), options)


def read_csv(file: BinaryIO, names: list[str] | None) -> Iterator[pa.RecordBatch]:
    """CSV with a header line, or with the names given."""
    return iter(
        pa.csv.open_csv(
            file,
            pa.csv.ReadOptions(block_size=BLOCK, column_names=names),
            pa.csv.ParseOptions(newlines_in_values=True),
            pa.csv.ConvertOptions(
                column_types=SCHEMA if names is None else dict.fromkeys(names, pa.string()), strings_can_be_null=True
            ),
        )
    )


def read_lines(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """A path a line. Lines may be of any length and hold anything but line ends."""
    lines = [line for line in file.read().decode().splitlines() if line.strip()]
    for start in range(0, len(lines), BATCH):
        yield pa.record_batch({"path": pa.array(lines[start : start + BATCH], pa.string())})


def listing_of(rows: pa.RecordBatch, folder: str, by_parent: bool) -> Iterator[pa.RecordBatch]:
    """Rows of a manifest as LISTING."""

    def column(name: str) -> pa.Array | None:
        return rows[name].cast(SCHEMA[name]) if name in rows.schema.names else None

    rows = rows.filter(pc.is_valid(rows["path"]))
    paths = absolute(column("path"), folder)
    etags, sizes = column("etag"), column("size")
    if etags is None:
        sizes, etags = facts_of(paths, sizes)
    else:
        etags = pc.utf8_trim(pc.fill_null(etags, ""), '"')
    sizes = pc.fill_null(sizes, 0) if sizes is not None else pa.array([0] * len(paths), pa.int64())
    labels = column("label") if by_parent else None
    yield to_listing(paths, etags, sizes, labels, by_parent)


def absolute(paths: pa.Array, folder: str) -> pa.Array:
    """Paths from the manifest's folder, where they are not absolute; file:// taken off."""
    paths = pc.replace_substring_regex(paths, "^file:///", "/")
    stays = pc.or_(pc.match_substring_regex(paths, REMOTE), pc.and_(pc.starts_with(paths, "/"), not is_remote(folder)))
    return pc.if_else(stays, paths, pc.binary_join_element_wise(folder, paths, "/"))


def facts_of(paths: pa.Array, sizes: pa.Array | None) -> tuple[pa.Array, pa.Array]:
    """Sizes and etags: of files on disk from the disk, of objects as given and empty."""
    given = sizes.to_pylist() if sizes is not None else [0] * len(paths)
    facts = [
        (size, "") if is_remote(path) else size_and_etag(Path(path))
        for path, size in zip(paths.to_pylist(), given, strict=True)
    ]
    return pa.array([size for size, _ in facts], pa.int64()), pa.array([etag for _, etag in facts], pa.string())


def list_inventory(name: str, by_parent: bool, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Images of an S3 Inventory: current versions of objects that end like images.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
    """
    with open_manifest(name, s3) as file:
        try:
            document = json.loads(bytes(file.read()))
            form, parts = document["fileFormat"], [each["key"] for each in document["files"]]
            bucket = document["destinationBucket"].rpartition(":")[2]
            columns = [column.strip() for column in document["fileSchema"].split(",")]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name} is no manifest of an S3 Inventory: {error!r}.") from error
    if form not in {"Parquet", "CSV"}:
        raise UserError(f"{name} is an inventory in {form}: have it made as Parquet or CSV.")
    for key in parts:
        with open_manifest(f"s3://{bucket}/{key}", s3) as file:
            if form == "Parquet":
                rows = pq.ParquetFile(file).iter_batches(BATCH)
            else:
                rows = read_csv(pa.CompressedInputStream(file, "gzip"), columns)
            for batch in rows:
                yield from inventory_rows(batch, form == "CSV", by_parent)


def inventory_rows(batch: pa.RecordBatch, quoted: bool, by_parent: bool) -> Iterator[pa.RecordBatch]:
    columns = {name.lower().replace("_", ""): batch[name] for name in batch.schema.names}
    wanted = pc.match_substring_regex(columns["key"], IMAGE)
    for name, value in (("islatest", "true"), ("isdeletemarker", "false")):
        if name in columns:
            wanted = pc.and_(wanted, pc.equal(pc.utf8_lower(columns[name].cast(pa.string())), value))
    chosen = pa.table({name: column for name, column in columns.items() if name in {"bucket", "key", "size", "etag"}})
    chosen = chosen.filter(wanted).combine_chunks()
    if not len(chosen):
        return
    keys: Any = chosen["key"].combine_chunks()
    if quoted:
        keys = pa.array([unquote_plus(key) for key in keys.to_pylist()], pa.string())
    paths = pc.binary_join_element_wise("s3:/", chosen["bucket"].combine_chunks(), keys, "/")
    rows = {"path": paths, **{name: chosen[name].combine_chunks() for name in ("etag", "size") if name in columns}}
    yield from listing_of(pa.record_batch(rows), "s3://", by_parent)
