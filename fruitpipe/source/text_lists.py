"""Lists in text: CSV, JSON lines or a path a line, none of whose lines is held before it is known to be short."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from fruitpipe.source.listing import BATCH, LONGEST_TEXT

DELIMITERS = ",;\t"
SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""First line of a CSV file by which Excel is told what separates the columns."""
FIRST = 1000
"""Lines of JSON that say which columns there are."""
BLOCK = 8 << 20
"""Bytes of CSV or JSON read at once."""
LONGEST_LINE = 1 << 20
"""Bytes of a line, at most."""
HEAD = 2 * LONGEST_LINE
"""Bytes of the beginning that says what is in a file."""
PIECE = 1 << 16
CSV_ENDS = b"\r\n"


class Lines(io.RawIOBase):
    """The bytes of a text in UTF-8, also where it is in UTF-16, without a byte order mark.

    ends: bytes each of which ends a line.

    Reading raises ValueError where a line has more than LONGEST_LINE bytes.
    """

    def __init__(self, file: BinaryIO, ends: bytes) -> None:
        self._file, self._ends = file, ends
        self._line, self._length = 1, 0
        self._rest = b""
        begins = file.read(3)
        self._decode = None
        if begins[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            self._decode = codecs.getincrementaldecoder("utf-16")()
        self._next = begins.removeprefix(codecs.BOM_UTF8)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = self._next or self._file.read(PIECE)
            self._next = b""
            text = self._decode.decode(piece, not piece).encode() if self._decode else piece
            if not piece and not text:
                return 0
            self._count(text)
            self._rest = text
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _count(self, text: bytes) -> None:
        """Pieces are shorter than lines may be, so that only the lines at their ends can be longer."""
        first = min((at for end in self._ends if (at := text.find(end)) >= 0), default=len(text))
        if self._length + first > LONGEST_LINE:
            raise ValueError(f"line {self._line} has more than {LONGEST_LINE} bytes")
        last = max(map(text.rfind, self._ends))
        self._line += text.count(b"\n")
        self._length = len(text) - last - 1 if last >= 0 else self._length + len(text)


def text_of(file: BinaryIO, ends: bytes = b"\n") -> BinaryIO:
    """As Lines has it."""
    return cast(BinaryIO, io.BufferedReader(Lines(file, ends), PIECE))


def head_of(file: BinaryIO, ends: bytes = b"\n") -> str:
    """The whole lines among the first HEAD bytes of a text; the file is at its start again."""
    head = text_of(file, ends).read(HEAD)
    file.seek(0)
    return (head if len(head) < HEAD else head[: max(map(head.rfind, ends)) + 1]).decode()


def header_of(file: BinaryIO) -> tuple[list[str], str, int]:
    """Names of the columns of a CSV file, what separates them, and how many lines come before.

    A first line `sep=;` says what separates them, else the one of DELIMITERS that gives a path, and most.
    """
    head = head_of(file, CSV_ENDS)
    said = SEPARATOR.fullmatch(next(io.StringIO(head, ""), "").rstrip("\r\n"))
    delimiters, before = (said[1], 1) if said else (DELIMITERS, 0)
    headers = {}
    for delimiter in delimiters:
        rows = csv.reader(islice(io.StringIO(head, ""), before, None), delimiter=delimiter)
        headers[delimiter] = next(filter(None, rows), [])
    delimiter = max(delimiters, key=lambda each: ("path" in map(plain, headers[each]), len(headers[each])))
    return headers[delimiter], delimiter, before


def plain(column: str) -> str:
    """A column's name in lower case, without the spaces and quotes around it."""
    return column.strip(" \"'\t").lower()


def read_csv(
    file: BinaryIO, types: dict[str, pa.DataType], names: list[str] | None = None, delimiter: str = ",", before: int = 0
) -> Iterator[pa.RecordBatch]:
    """The columns of these types of a CSV file, which has a header line after some others where no names are given."""
    options = pa.csv.ConvertOptions(
        column_types=types, include_columns=list(types), strings_can_be_null=True, null_values=[""]
    )
    reading = pa.csv.ReadOptions(block_size=BLOCK, column_names=names, skip_rows=before)
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    return iter(pa.csv.open_csv(text_of(file, CSV_ENDS), reading, parsing, options))


def read_lines(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """One path per line, of any characters but line ends. Raises ValueError where one is too long."""
    text = io.TextIOWrapper(text_of(file), "utf-8", newline="\n")
    paths = filter(str.strip, (path_in(line, number) for number, line in enumerate(text, 1)))
    while chunk := list(islice(paths, BATCH)):
        yield pa.record_batch({"path": pa.array(chunk, pa.string())})


def path_in(line: str, number: int) -> str:
    path = line.rstrip("\r\n")
    if len(path) > LONGEST_TEXT:  # each character has a byte or more
        raise ValueError(f"line {number} has more than {LONGEST_TEXT} bytes")
    return path


def first_lines(file: BinaryIO) -> dict[int, str]:
    """The FIRST lines that are not empty, by their numbers from 1 on; fewer where they are long."""
    lines = enumerate(head_of(file).split("\n"), 1)
    return dict(islice(((number, line) for number, line in lines if line.strip()), FIRST))


def read_json(file: BinaryIO, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """The columns of these types of JSON lines, null where a row has none."""
    options = pa.json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore")
    return iter(pa.json.open_json(text_of(file), pa.json.ReadOptions(block_size=BLOCK), options))
