"""Images that a file names: Parquet, CSV, JSON lines or text with their paths, or an inventory that S3 has made.

A column `path` is needed; `label`, `etag` and `size` are used where they are there, row by row. CSV may be separated by
commas, semicolons or tabs, or by what a first line `sep=` says, as Excel has it; texts may be in UTF-8 or UTF-16. Paths
that are not absolute start from the list's folder. Files on disk are looked at for their etags; an object whose etag
nobody says counts as one that never changes, so that a list costs no request for each image.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from fruitpipe.config import SCHEME, S3Config, is_remote, local_path, location
from fruitpipe.errors import UserError
from fruitpipe.objects import open_bucket, split
from fruitpipe.source.files import size_and_etag
from fruitpipe.source.listing import BATCH, are_images, parents_of, to_listing

SCHEMA = {"path": pa.string(), "label": pa.string(), "etag": pa.string(), "size": pa.int64()}
REMOTE = rf"^{SCHEME.pattern}"
OBJECT = r"^(s3|gs|az)://[A-Za-z0-9]"
SIMILAR = 0.8
"""How alike (difflib) a column's name and one of ours are where it seems to be a slip."""
DELIMITERS = ",;\t"
SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""First line of a CSV file by which Excel is told what separates the columns."""
NOT_UTF_8 = re.compile("UTF-?8|surrogate|Invalid encoding")
"""How Arrow says so; that of a JSON list may be a byte of a name as Python's os.listdir has it."""
FIRST = 1000
"""Rows of JSON that say which columns there are."""
BLOCK = 8 << 20
"""Bytes of CSV or JSON read at once."""


def open_list(name: str, s3: S3Config) -> BinaryIO:
    """Open a list of images. Raises UserError where it is missing or cannot be read."""
    try:
        if is_remote(name):
            return open_object(name, s3)
        return Path(local_path(name)).open("rb")
    except FileNotFoundError:
        raise UserError(f"no list of images {name}: check its path.") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}.") from error


def open_object(url: str, s3: S3Config) -> BinaryIO:
    return cast(BinaryIO, open_bucket(url, s3).open(split(url)[2]))


def folder_of(name: str) -> str:
    """The folder that a list is in, absolute."""
    return name.rpartition("/")[0] if is_remote(name) else str(Path(local_path(name)).absolute().parent)


def list_named(name: str, by_parent: bool, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Images of a list, as batches of LISTING. Raises UserError where it is damaged or has no paths."""
    try:
        if name.lower().endswith("manifest.json"):
            yield from list_inventory(name, by_parent, s3)
            return
        for rows in read_columns(name, s3):
            yield listing_of(rows, folder_of(name), by_parent)
    except (ValueError, KeyError, OSError, csv.Error, pa.ArrowException) as error:
        said = str(error).splitlines()[0].rstrip(".")
        if isinstance(error, UnicodeError) or NOT_UTF_8.search(said):
            said = "it is not UTF-8 throughout. Save it so, and rename files whose own names are not"
        raise UserError(f"cannot read {name}: {said}.") from error


def read_columns(name: str, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Batches of those of a list's columns that matter, by our names."""
    with open_list(name, s3) as file:
        match name.lower().rpartition(".")[2]:
            case "parquet":
                parquet = pq.ParquetFile(file)
                columns = columns_of(name, parquet.schema_arrow.names)
                batches = parquet.iter_batches(BATCH, columns=list(columns))
            case "csv":
                header, delimiter, before = header_of(file)
                columns = columns_of(name, header)
                types = {column: SCHEMA[ours] for column, ours in columns.items()}
                batches = read_csv(in_utf8(file), types, delimiter=delimiter, before=before)
            case "txt":
                columns, batches = {"path": "path"}, read_lines(file)
            case _:
                columns, batches = read_json(name, file)
        for batch in batches:
            batch.validate(full=True)  # Parquet's readers look at no text
            yield pa.record_batch([batch[column] for column in columns], list(columns.values()))


def columns_of(name: str, columns: Sequence[str]) -> dict[str, str]:
    """Our names of those of a list's columns that matter, whatever their case and the spaces and quotes around them.

    Raises UserError where the paths are not among them, where two are one of ours, or where one seems to be meant so.
    """
    if not columns:
        raise UserError(f"{name} is empty: it must name images.")
    ours: dict[str, str] = {}
    for wanted in SCHEMA:
        alike = [wanted] if wanted in columns else [column for column in columns if plain(column) == wanted]
        if len(alike) > 1:
            raise UserError(f"{name} has two columns `{wanted}`: give one of them another name.")
        ours |= dict.fromkeys(alike, wanted)
    if "path" not in ours.values():
        found, where = ", ".join(columns), " in its first line" if name.lower().endswith(".csv") else ""
        raise UserError(f"{name} has no column `path`, but {found}: name the column of the images' paths so{where}.")
    for column in columns:
        if slip := next((each for each in SCHEMA if each not in ours.values() and is_slip(plain(column), each)), None):
            raise UserError(f"{name} has a column `{column}`: name it `{slip}`, or less like it if it is none.")
    return ours


def plain(column: str) -> str:
    return column.strip(" \"'\t").lower()


def is_slip(column: str, wanted: str) -> bool:
    """Whether a name is one of ours but for a letter more, less or elsewhere."""
    near = abs(len(column) - len(wanted)) <= 1 and column[:1] == wanted[0] and column.isalpha()
    return near and bool(get_close_matches(column, [wanted], 1, SIMILAR))


def encoding_of(file: BinaryIO) -> str:
    """Encoding of a text, by its first bytes; the file is at its start again."""
    begins = file.read(2)
    file.seek(0)
    return "utf-16" if begins in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextmanager
def as_text(file: BinaryIO, newline: str = "") -> Iterator[io.TextIOWrapper]:
    """The text of a file, which is at its start again after the block."""
    text = io.TextIOWrapper(file, encoding_of(file), newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach().seek(0)


def in_utf8(file: BinaryIO) -> BinaryIO | pa.NativeFile:
    """The bytes of a text as Arrow reads it."""
    if encoding_of(file) == "utf-16":
        return pa.transcoding_input_stream(pa.PythonFile(file, "r"), "utf-16", "utf-8")
    return file


def header_of(file: BinaryIO) -> tuple[list[str], str, int]:
    """Names of the columns of a CSV file, what separates them, and how many lines come before.

    A first line `sep=;` says what separates them, else the one of DELIMITERS that gives a path, and most.
    """
    with as_text(file) as text:
        said = SEPARATOR.fullmatch(next(text, "").rstrip("\r\n"))
    delimiters, before = (said[1], 1) if said else (DELIMITERS, 0)
    headers = {}
    for delimiter in delimiters:
        with as_text(file) as text:
            rows = csv.reader(islice(text, before, None), delimiter=delimiter)
            headers[delimiter] = next(filter(None, rows), [])
    delimiter = max(delimiters, key=lambda each: ("path" in map(plain, headers[each]), len(headers[each])))
    return headers[delimiter], delimiter, before


def read_csv(
    file: BinaryIO | pa.NativeFile,
    types: dict[str, pa.DataType],
    names: list[str] | None = None,
    delimiter: str = ",",
    before: int = 0,
) -> Iterator[pa.RecordBatch]:
    """The columns of these types of a CSV file, which has a header line after some others where no names are given."""
    options = pa.csv.ConvertOptions(
        column_types=types, include_columns=list(types), strings_can_be_null=True, null_values=[""]
    )
    reading = pa.csv.ReadOptions(block_size=BLOCK, column_names=names, skip_rows=before)
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    return iter(pa.csv.open_csv(file, reading, parsing, options))


def read_lines(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """One path per line, of any length and any characters but line ends."""
    with as_text(file, newline="\n") as text:
        lines = (line.rstrip("\r\n") for line in text)
        while chunk := list(islice(filter(str.strip, lines), BATCH)):
            yield pa.record_batch({"path": pa.array(chunk, pa.string())})


def read_json(name: str, file: BinaryIO) -> tuple[dict[str, str], Iterator[pa.RecordBatch]]:
    """Our names of the columns of JSON lines, and their batches; the first rows say which columns there are.

    Labels may be whole numbers, where all of them are.
    """
    with as_text(file) as text:
        lines = list(islice(filter(str.strip, text), FIRST))
    if lines and lines[0].lstrip().startswith("["):
        raise UserError(f'{name} is a JSON array: write an object per line, such as {{"path": "a.jpg"}}.')
    rows = [json.loads(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{name} has lines that are no objects: write each such as {{"path": "a.jpg"}}.')
    columns = columns_of(name, list(dict.fromkeys(column for row in rows for column in row)))
    columns |= {ours: ours for ours in SCHEMA if ours not in columns.values()}  # which later rows may have
    types = {column: SCHEMA[ours] for column, ours in columns.items()}
    label = next(column for column, ours in columns.items() if ours == "label")
    if any(type(row.get(label)) is int for row in rows):
        types[label] = pa.int64()
    # Columns may be missing from some rows; naming their types makes them null there.
    options = pa.json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore")
    return columns, iter(pa.json.open_json(in_utf8(file), pa.json.ReadOptions(block_size=BLOCK), options))


def listing_of(rows: pa.RecordBatch, folder: str, by_parent: bool) -> pa.RecordBatch:
    """Rows of a list as LISTING, without those that name nothing."""

    def column(name: str) -> pa.Array:
        return rows[name].cast(SCHEMA[name]) if name in rows.schema.names else pa.nulls(len(rows), SCHEMA[name])

    rows = rows.filter(pc.not_equal(column("path"), ""))
    paths = absolute(column("path"), folder)
    etags = pc.utf8_trim(column("etag"), '"')
    on_disk = pc.and_(pc.is_null(etags), pc.starts_with(paths, "/"))
    facts = [size_and_etag(Path(path)) for path in paths.filter(on_disk).to_pylist()]
    sizes = pc.replace_with_mask(column("size"), on_disk, pa.array([size for size, _ in facts], pa.int64()))
    etags = pc.replace_with_mask(etags, on_disk, pa.array([etag for _, etag in facts], pa.string()))
    labels = pc.coalesce(column("label"), parents_of(paths)) if by_parent else None
    return to_listing(paths, pc.fill_null(etags, ""), pc.fill_null(sizes, 0), labels, by_parent)


def absolute(paths: pa.Array, folder: str) -> pa.Array:
    """Paths from the list's folder, where they are not absolute; file:// taken off.

    Raises ValueError where one is a URL of no object store.
    """
    paths = pc.replace_substring_regex(paths, "^file:///", "/")
    remote = pc.match_substring_regex(paths, REMOTE)
    for path in paths.filter(pc.and_not(remote, pc.match_substring_regex(paths, OBJECT))).to_pylist():
        try:
            location(path)
        except ValueError as error:
            raise ValueError(f"for a path in it, {error}") from error
    stays = pc.or_(remote, pc.starts_with(paths, "/"))
    return pc.if_else(stays, paths, pc.binary_join_element_wise(folder, paths, "/"))


def list_inventory(name: str, by_parent: bool, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Images of an S3 Inventory: current versions of objects that end like images.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
    """
    with open_list(name, s3) as file:
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
        with open_part(f"s3://{bucket}/{key}", name, s3) as file:
            if form == "Parquet":
                rows = pq.ParquetFile(file).iter_batches(BATCH)
            else:
                rows = read_csv(pa.CompressedInputStream(file, "gzip"), dict.fromkeys(columns, pa.string()), columns)
            for batch in rows:
                yield inventory_rows(batch, form == "CSV", by_parent)


def open_part(part: str, name: str, s3: S3Config) -> BinaryIO:
    """Open a part of an inventory. Raises UserError where it is missing or cannot be read."""
    try:
        return open_object(part, s3)
    except FileNotFoundError:
        raise UserError(f"no {part}, which {name} names: take an inventory whose parts are still there.") from None


def inventory_rows(batch: pa.RecordBatch, quoted: bool, by_parent: bool) -> pa.RecordBatch:
    """Current versions of images, as LISTING."""
    columns = {name.lower().replace("_", ""): batch[name] for name in batch.schema.names}
    keys = columns["key"]
    if quoted:
        keys = pa.array([unquote_plus(key) for key in keys.to_pylist()], pa.string())
    wanted = are_images(keys)
    for name, value in (("islatest", "true"), ("isdeletemarker", "false")):
        if name in columns:
            wanted = pc.and_(wanted, pc.equal(pc.utf8_lower(columns[name].cast(pa.string())), value))
    paths = pc.binary_join_element_wise("s3:/", columns["bucket"], keys, "/")
    facts = {name: columns[name] for name in ("etag", "size") if name in columns}
    return listing_of(pa.record_batch({"path": paths, **facts}).filter(wanted), "s3://", by_parent)
