"""Lists in Parquet, read so that a small file cannot become much in memory.

Arrow unpacks a page of a column at once, whatever it unpacks to, and writes a value of a dictionary as often as rows
have it. So the pages of a column are looked at as it reads them, before they are unpacked.

https://github.com/apache/parquet-format
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe.source.listing import BATCH, LONGEST_TEXT
from fruitpipe.units import size

LARGEST_PAGE = 256 << 20
"""Bytes that a page may unpack to."""
DENSE, FEW = 100, 100_000
"""Rows per byte of the column with most bytes, and beyond so many, that only the same row again and again has."""
TEXT = "BYTE_ARRAY"
DAMAGED = "its pages are damaged"
DELTA_BYTE_ARRAY = 7
"""An encoding in which each value may repeat the one before, and so unpack to more than any page holds."""


class ParquetList:
    """A list in Parquet."""

    def __init__(self, file: BinaryIO) -> None:
        self._watched = Watched(file)
        self._file = pq.ParquetFile(self._watched, pre_buffer=False)
        self.schema: pa.Schema = self._file.schema_arrow
        self.names: list[str] = self.schema.names

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Some columns, in batches. Raises ValueError where they hold what no list of images does."""
        for column in columns:
            kind = self._file.schema_arrow.field(column).type
            if pa.types.is_nested(kind) or (pa.types.is_fixed_size_binary(kind) and kind.byte_width > LONGEST_TEXT):
                raise ValueError(f"its column `{column}` is of type {kind}")
        metadata, rows = self._file.metadata, 0
        numbers = [index for index in range(metadata.num_columns) if metadata.schema.column(index).path in columns]
        for group in range(metadata.num_row_groups):
            self._watched.expect(rows, [metadata.row_group(group).column(number) for number in numbers])
            for batch in self._file.iter_batches(BATCH, [group], list(columns)):
                assert not self._watched.expected, "Arrow reads columns whole, so that their pages were looked at"
                rows += len(batch)
                yield batch


class Watched(io.RawIOBase):
    """A file that looks at the pages of columns as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows = 0
        self.expected: dict[int, Any] = {}
        """metadata of the columns that are to be read, by their offsets"""

    def expect(self, rows: int, chunks: list[Any]) -> None:
        """Columns of the next row group, after so many rows. Raises ValueError where they have too many themselves."""
        self._rows = rows
        count, packed = (
            max(getattr(chunk, name) for chunk in chunks) for name in ("num_values", "total_compressed_size")
        )
        if count > DENSE * packed + FEW:
            raise ValueError(f"it has {count} rows in {packed} bytes, which can only say the same")
        for chunk in chunks:
            self.expected[min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))] = chunk

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int | None = -1) -> bytes:
        chunk = self.expected.pop(self._file.tell(), None)
        data = self._file.read(-1 if count is None else count)
        if chunk is not None:
            check_pages(chunk, data[: chunk.total_compressed_size], self._rows)
        return data


def check_pages(chunk: Any, data: bytes, rows: int) -> None:
    """Raise ValueError where a page of a column, which begins after so many rows, unpacks to too much."""
    column, position = chunk.path_in_schema, 0
    while position < len(data):
        header, position = read_struct(data, position)
        unpacked, packed = header[2], header[3]
        facts = header.get(5) or header.get(7) or header.get(8)  # of data, a dictionary, or data in a later version
        if not facts or min(facts[1], packed, unpacked) < 0:
            raise ValueError(DAMAGED)
        dictionary, encoding = 7 in header, facts.get(2 if 5 in header else 4)
        where = f"from row {rows + 1} on, its column `{column}`"
        if unpacked > LARGEST_PAGE:
            raise ValueError(f"{where} unpacks to {size(unpacked)} at once: write it in smaller pages or row groups")
        if chunk.physical_type == TEXT:
            if unpacked > (LONGEST_TEXT + 8) * facts[1] + 1024:
                raise ValueError(f"{where} has texts of more than {LONGEST_TEXT} bytes")
            if dictionary and longest_of(unpack(chunk, data[position : position + packed], unpacked)) > LONGEST_TEXT:
                raise ValueError(f"{where} has texts of more than {LONGEST_TEXT} bytes")
            if encoding == DELTA_BYTE_ARRAY and not dictionary:
                raise ValueError(f"{where} is encoded as DELTA_BYTE_ARRAY: write it as PLAIN")
        if not dictionary:
            rows += facts[1]
        position += packed


def unpack(chunk: Any, page: bytes, count: int) -> bytes:
    name = {"LZ4": "lz4_raw"}.get(chunk.compression, chunk.compression)
    return page if name == "UNCOMPRESSED" else pa.decompress(page, count, name, asbytes=True)


def longest_of(page: bytes) -> int:
    """Length of the longest of texts in a row, each of which has its length before it."""
    position = longest = 0
    while position < len(page):
        length = int.from_bytes(page[position : position + 4], "little")
        longest = max(longest, length)
        position += 4 + length
    return longest


def read_struct(data: bytes, position: int) -> tuple[dict[int, Any], int]:
    """Fields of a struct by their numbers, in Thrift's compact protocol, and where it ends.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

    Raises IndexError or ValueError where it is none.
    """
    fields: dict[int, Any] = {}
    number = 0
    while head := data[position]:
        position += 1
        if head >> 4:
            number += head >> 4
        else:
            number, position = read_number(data, position)
        fields[number], position = read_value(data, position, head & 15)
    return fields, position + 1


def read_value(data: bytes, position: int, kind: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:  # a truth
            return kind == 1, position
        case 3:
            return data[position], position + 1
        case 4 | 5 | 6:
            return read_number(data, position)
        case 7:
            return None, position + 8
        case 8:  # bytes
            length, position = read_varint(data, position)
            return None, position + length
        case 12:
            return read_struct(data, position)
    raise ValueError(DAMAGED)  # or have lists, which no header of a page does


def read_number(data: bytes, position: int) -> tuple[int, int]:
    value, position = read_varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(data[position : position + 10]):  # of 64 bits
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, position + number + 1
    raise ValueError(DAMAGED)
