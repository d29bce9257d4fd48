"""Images that a file names: Parquet, CSV, JSON lines or text with their paths, or an inventory that S3 has made.

A column `path` is needed; `label`, `etag` and `size` are used where they are there, row by row. CSV may be separated by
commas, semicolons or tabs, or by what a first line `sep=` says, as Excel has it; texts may be in UTF-8 or UTF-16.
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
from typing import BinaryIO

import pyarrow as pa

from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import UserError, first_line
from fruitpipe.objects import open_object
from fruitpipe.source import inventory
from fruitpipe.source.list_rows import SCHEMA, listing_of
from fruitpipe.source.listing import NAMELESS, SHOWN
from fruitpipe.source.parquet_lists import ParquetList
from fruitpipe.source.scope import Scope
from fruitpipe.source.text_lists import first_lines, header_of, plain, read_csv, read_json, read_lines

SIMILAR = 0.8
"""How alike (difflib) a column's name and one of ours are where it seems to be a slip."""
NOT_UTF_8 = re.compile("UTF-?8|surrogate|Invalid encoding")
"""How Arrow says so; that of a JSON list may be a byte of a name as Python's os.listdir has it."""
OTHER_TYPE = re.compile(r"JSON parse error: Column\(/(\w+)\) changed from (\w+) to (\w+) in row (\d+)")
"""How Arrow says that a row's column is of another type; it counts rows from 0, in a block."""


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


def list_named(
    name: str, by_parent: bool, s3: S3Config, others: Counter[str], allow: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Images of a list, as batches of LISTING; its rows without a path are counted among the others.

    allow: places whose images it may name besides its own, as `lists.allow` has it.

    Raises UserError where it is damaged, has no paths, or names what it may not.
    """
    scope, rows = Scope(name, allow), 0
    try:
        if name.lower().endswith(inventory.MANIFEST):
            with open_list(name, s3) as file:
                manifest = file.read(inventory.LARGEST_MANIFEST + 1)
            yield from inventory.list_inventory(name, manifest, by_parent, s3, scope)
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
        raise UserError(
            f"{name} has no column `path`, but {found}: rename the one that holds the images' paths to `path`{where}."
        )
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
