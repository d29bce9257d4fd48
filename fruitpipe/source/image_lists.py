"""Images that a file names: Parquet, CSV, JSON lines or text with their paths, or an inventory that S3 has made.

A column `path` is needed; `label`, `etag` and `size` are used where they are there, row by row. CSV may be separated by
commas, semicolons or tabs, or by what a first line `sep=` says, as Excel has it; texts may be in UTF-8 or UTF-16. Paths
that are not absolute start from the list's folder. Files on disk are looked at for their etags; an object whose etag
nobody says counts as one that never changes, so that a list costs no request for each image.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import BinaryIO, cast
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import SCHEME, S3Config, is_remote, local_path, location
from fruitpipe.errors import UserError, first_line
from fruitpipe.objects import open_bucket, split
from fruitpipe.source.files import size_and_etag
from fruitpipe.source.listing import LONGEST_TEXT, NAMELESS, SHOWN, are_images, parents_of, to_listing
from fruitpipe.source.parquet_lists import ParquetList
from fruitpipe.source.scope import Scope
from fruitpipe.source.text_lists import first_lines, header_of, plain, read_csv, read_json, read_lines

SCHEMA = {"path": pa.string(), "label": pa.string(), "etag": pa.string(), "size": pa.int64()}
REMOTE = rf"^{SCHEME.pattern}"
OBJECT = r"^(s3|gs|az)://[A-Za-z0-9]"
SIMILAR = 0.8
"""How alike (difflib) a column's name and one of ours are where it seems to be a slip."""
NOT_UTF_8 = re.compile("UTF-?8|surrogate|Invalid encoding")
"""How Arrow says so; that of a JSON list may be a byte of a name as Python's os.listdir has it."""
OTHER_TYPE = re.compile(r"JSON parse error: Column\(/(\w+)\) changed from (\w+) to (\w+) in row (\d+)")
"""How Arrow says that a row's column is of another type; it counts rows from 0, in a block."""
LARGEST_INVENTORY = 16 << 20
"""Bytes of an inventory's manifest, which names some hundreds of parts."""
INVENTORY = ("bucket", "key", "islatest", "isdeletemarker", "etag", "size")
"""Its columns that matter."""


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


def list_named(
    name: str, by_parent: bool, s3: S3Config, others: Counter[str], allow: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Images of a list, as batches of LISTING; its rows without a path are counted among the others.

    allow: places whose images it may name besides its own, as `lists.allow` has it.

    Raises UserError where it is damaged, has no paths, or names what it may not.
    """
    scope, rows = Scope(name, allow), 0
    try:
        if name.lower().endswith("manifest.json"):
            yield from list_inventory(name, by_parent, s3, scope)
            return
        for batch in read_columns(name, s3):
            listing = listing_of(batch, rows, scope, by_parent)
            if nameless := len(batch) - len(listing):
                others[NAMELESS] += nameless
            yield listing
            rows += len(batch)
    except (ValueError, LookupError, RecursionError, OSError, csv.Error, pa.ArrowException) as error:
        found = OTHER_TYPE.sub(partial(in_our_words, before=rows), first_line(error))
        said = shorten(found, SHOWN, placeholder=" …").rstrip(".")
        if isinstance(error, UnicodeError) or NOT_UTF_8.search(str(error)):
            said = "it is not UTF-8 throughout. Save it so, and rename files whose own names are not"
        raise UserError(f"cannot read {name}: {said}.") from error


def in_our_words(found: re.Match[str], before: int) -> str:
    """What OTHER_TYPE has found, after so many rows of other blocks."""
    column, wanted, kind, row = found.groups()
    return f"row {before + int(row) + 1} has a {column} that is a {kind}, and no {wanted}"


def read_columns(name: str, s3: S3Config) -> Iterator[pa.RecordBatch]:
    """Batches of those of a list's columns that matter, by our names."""
    with open_list(name, s3) as file:
        match name.lower().rpartition(".")[2]:
            case "parquet":
                parquet = ParquetList(file)
                columns = columns_of(name, parquet.names)
                batches = parquet.batches(columns)
            case "csv":
                header, delimiter, before = header_of(file)
                columns = columns_of(name, header)
                texts = dict.fromkeys(columns, pa.string())  # `listing_of` knows the row of a size that is none
                batches = read_csv(file, texts, delimiter=delimiter, before=before)
            case "txt":
                columns, batches = {"path": "path"}, read_lines(file)
            case _:
                columns, types = columns_of_json(name, file)
                batches = read_json(file, types)
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
        exact = [column for column in columns if column == wanted]
        alike = exact or [column for column in columns if plain(column) == wanted]
        if len(alike) > 1:
            raise UserError(f"{name} has two columns `{wanted}`: give one of them another name.")
        ours |= dict.fromkeys(alike, wanted)
    if "path" not in ours.values():
        found, where = (
            shorten(", ".join(columns), SHOWN, placeholder=" …"),
            " in its first line" if name.lower().endswith(".csv") else "",
        )
        raise UserError(f"{name} has no column `path`, but {found}: name the column of the images' paths so{where}.")
    for column in columns:
        if slip := next((each for each in SCHEMA if each not in ours.values() and is_slip(plain(column), each)), None):
            raise UserError(f"{name} has a column `{column}`: name it `{slip}`, or less like it if it is none.")
    return ours


def is_slip(column: str, wanted: str) -> bool:
    """Whether a name is one of ours but for a letter more, less or elsewhere."""
    near = abs(len(column) - len(wanted)) <= 1 and column[:1] == wanted[0] and column.isalpha()
    return near and bool(get_close_matches(column, [wanted], 1, SIMILAR))


def columns_of_json(name: str, file: BinaryIO) -> tuple[dict[str, str], dict[str, pa.DataType]]:
    """Our names of the columns of JSON lines, and their types; the first rows say which columns there are.

    Labels may be whole numbers, where all of them are.
    """
    rows: list[dict[str, object]] = []
    for number, line in first_lines(file).items():
        if not rows and line.lstrip().startswith("["):
            raise UserError(f'{name} is a JSON array: write an object per line, such as {{"path": "a.jpg"}}.')
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
        if not isinstance(rows[-1], dict):
            raise UserError(f'{name} has no object in line {number}: write each such as {{"path": "a.jpg"}}.')
    columns = columns_of(name, list(dict.fromkeys(column for row in rows for column in row)))
    columns |= {ours: ours for ours in SCHEMA if ours not in columns.values()}  # which later rows may have
    types = {column: SCHEMA[ours] for column, ours in columns.items()}
    label = next(column for column, ours in columns.items() if ours == "label")
    if any(type(row.get(label)) is int for row in rows):
        types[label] = pa.int64()
    return columns, types


def listing_of(rows: pa.RecordBatch, before: int, scope: Scope, by_parent: bool) -> pa.RecordBatch:
    """Rows of a list, after so many others, as LISTING, without those that name nothing.

    Raises ValueError where one has a text that is too long or a size that is none, UserError where one names what the
    list may not.
    """

    def column(name: str) -> pa.Array:
        found = rows[name] if name in rows.schema.names else pa.nulls(len(rows), SCHEMA[name])
        if name == "size" and found.type == pa.string():  # of CSV, or as somebody's Parquet has it
            found = pc.utf8_trim_whitespace(found)
            no_size = pc.invert(pc.match_substring_regex(found, r"^-?\d{1,18}$"))
            if (row := pc.index(no_size, True).as_py()) >= 0:
                raise ValueError(f"row {before + row + 1} has a size that is no whole number: {found[row].as_py()!r}")
        found = found.cast(SCHEMA[name])
        if name == "size" and (row := pc.index(pc.less(found, 0), True).as_py()) >= 0:
            raise ValueError(f"row {before + row + 1} has a size below 0: {found[row].as_py()}")
        if found.type == pa.string() and (pc.max(pc.binary_length(found)).as_py() or 0) > LONGEST_TEXT:
            row = pc.index(pc.greater(pc.binary_length(found), LONGEST_TEXT), True).as_py()
            raise ValueError(f"row {before + row + 1} has a {name} of more than {LONGEST_TEXT} bytes")
        return found

    named, label, etag, size = (column(name) for name in SCHEMA)
    paths = scope.checked(absolute(named, scope.folder), before)
    wanted = pc.fill_null(pc.not_equal(named, ""), False)
    paths, labels, etags, sizes = (each.filter(wanted) for each in (paths, label, pc.utf8_trim(etag, '"'), size))
    on_disk = pc.and_(pc.is_null(etags), pc.starts_with(paths, "/"))
    facts = [size_and_etag(path.encode()) for path in paths.filter(on_disk).to_pylist()]
    sizes = pc.replace_with_mask(sizes, on_disk, pa.array([size for size, _ in facts], pa.int64()))
    etags = pc.replace_with_mask(etags, on_disk, pa.array([etag for _, etag in facts], pa.string()))
    labels = pc.coalesce(labels, parents_of(paths)) if by_parent else None
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
    below = pc.replace_substring_regex(paths, r"^(\./+)+", "")  # as `find .` writes it, of objects as well
    return pc.if_else(stays, paths, pc.binary_join_element_wise(folder, below, "/"))


def list_inventory(name: str, by_parent: bool, s3: S3Config, scope: Scope) -> Iterator[pa.RecordBatch]:
    """Images of an S3 Inventory: current versions of objects that end like images.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
    """
    with open_list(name, s3) as file:
        text = bytes(file.read(LARGEST_INVENTORY + 1))
    if len(text) > LARGEST_INVENTORY:
        raise UserError(f"{name} is no manifest of an S3 Inventory: it has more than {LARGEST_INVENTORY} bytes.")
    try:
        document = json.loads(text)
        form, parts = document["fileFormat"], [each["key"] for each in document["files"]]
        bucket = document["destinationBucket"].rpartition(":")[2]
        columns = [column.strip() for column in document["fileSchema"].split(",")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name} is no manifest of an S3 Inventory: {error!r}.") from error
    if form not in {"Parquet", "CSV"}:
        raise UserError(f"{name} is an inventory in {form}: have it made as Parquet or CSV.")
    urls = [f"s3://{bucket}/{key}" for key in parts]
    rows = 0
    for url in scope.checked(pa.array(urls, pa.string()), 0, "part").to_pylist():
        with open_part(url, name, s3) as file:
            if form == "Parquet":
                parquet = ParquetList(file)
                batches = parquet.batches([column for column in parquet.names if meant(column) in INVENTORY])
            else:
                texts = {column: pa.string() for column in columns if meant(column) in INVENTORY}
                batches = read_csv(pa.CompressedInputStream(file, "gzip"), texts, columns)
            for batch in batches:
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
    keys = columns["key"]
    if quoted:
        keys = pa.array([unquote_plus(key) for key in keys.to_pylist()], pa.string())
    wanted = are_images(keys)
    for name, value in (("islatest", "true"), ("isdeletemarker", "false")):
        if name in columns:
            wanted = pc.and_(wanted, pc.equal(pc.utf8_lower(columns[name].cast(pa.string())), value))
    paths = pc.if_else(
        wanted, pc.binary_join_element_wise("s3:/", columns["bucket"], keys, "/"), pa.scalar(None, pa.string())
    )
    facts = {name: columns[name] for name in ("etag", "size") if name in columns}
    return pa.record_batch({"path": paths} | facts)
