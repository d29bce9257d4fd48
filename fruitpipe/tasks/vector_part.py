"""Published vectors of a run, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError
from fruitpipe.sinks import vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store

LARGEST = 1 << 22
"""Rows of a vector part, at most."""


@dataclass(frozen=True)
class Vectors:
    """Parts of vectors, ordered by path: positions of images count through all of them. Pickles."""

    store: Store
    run: str
    files: tuple[File, ...]
    """as the manifest has them, with their rows"""
    width: int
    """k, numbers of a vector"""

    @classmethod
    def among(cls, store: Store, run: str, files: list[File], width: int) -> Vectors:
        """Those among the files of a run."""
        folder = f"{layout.FOLDER['parquet']}/"
        return cls(store, run, tuple(file for file in files if file.name.startswith(folder)), width)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of the first image of each part and, last, the number of all images."""
        return np.cumsum([0, *(file.rows or 0 for file in self.files)])

    def positions(self, number: int) -> NDArray[np.int64]:
        """Of the images of a part."""
        return np.arange(*self.starts[number : number + 2])

    def table(self, number: int, columns: list[str]) -> pa.Table:
        """Columns of a part. Raises FruitpipeError where it is damaged, or not as the manifest has it."""
        return pa.concat_tables(self._batches(number, columns, LARGEST))

    def _batches(self, number: int, columns: list[str], most: int) -> Iterator[pa.Table]:
        """Columns of a part, so many rows at once at most. Raises FruitpipeError as `table` does."""
        file = self.files[number]
        name = layout.run(self.run, file.name)
        try:
            with (
                self.store.open(name) as opened,
                pq.ParquetFile(opened, pre_buffer=True, page_checksum_verification=True) as part,
            ):
                require_rows(part.metadata.num_rows, file)
                rows = 0
                for batch in part.iter_batches(most, columns=columns, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    require_plain(table, columns, self.width)
                    rows += len(table)
                    yield table
                require_rows(rows, file)  # a damaged footer may say one number of its groups, and another of them all
        except layout.UNREADABLE as error:
            raise FruitpipeError(
                f"{self.store.location(name)} is damaged or missing: put back what was there, or run again."
            ) from error

    def vectors(self, number: int) -> NDArray[np.float32]:
        """Of a part, shape (n, k)."""
        return vectors_of(self.table(number, ["vector"]))

    def paths(self, number: int) -> pa.Array:
        return self.table(number, ["path"])["path"].combine_chunks()

    def each(self, columns: list[str], most: int = LARGEST) -> Iterator[pa.Table]:
        """Columns of each part in turn, so many rows at once at most."""
        return (table for number in range(len(self.files)) for table in self._batches(number, columns, most))

    def rows_at(self, positions: NDArray[np.int64], columns: list[str]) -> pa.Table:
        """Columns of images, in the order of their positions as given. Holds those of one part beside the result."""
        distinct, inverse = np.unique(positions, return_inverse=True)
        found = [
            self.table(number, columns).take(indices(distinct[first:last] - self.starts[number]))
            for number, (first, last) in enumerate(bounds(distinct, self.starts))
            if last > first
        ]
        if not found:
            return self.table(0, columns).slice(0, 0)
        return pa.concat_tables(found).combine_chunks().take(indices(inverse))

    def positions_of(self, paths: pa.Array) -> NDArray[np.int64]:
        """Positions of images by their paths; -1 for those that are none of this run."""
        encoded = paths.dictionary_encode()
        found = np.full(len(encoded.dictionary), -1)
        for number in range(len(self.files)):
            within = pc.index_in(encoded.dictionary, value_set=self.paths(number)).fill_null(-1).to_numpy()
            here = within >= 0
            found[here] = within[here] + self.starts[number]
        return np.asarray(found[encoded.indices.to_numpy()])


def indices(numbers: NDArray[np.int64]) -> pa.Array:
    """Numbers as Arrow has them. `pa.array` does the same, but imports pandas, which takes as long as a search."""
    return pa.Int64Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def bounds(positions: NDArray[np.int64], starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where in rising positions those of each part begin and end."""
    return pairwise(np.searchsorted(positions, starts).tolist())


def require_rows(count: int, file: File) -> None:
    """Raise ValueError where a part has other rows than the manifest says, none, or more than there may be."""
    if count != file.rows or not 0 < count <= LARGEST:
        raise ValueError("it has another number of rows than the manifest says")


def require_plain(table: pa.Table, columns: list[str], width: int) -> None:
    """Raise ValueError where a table is not as `to_table` makes it: of other types, with nulls, or not finite."""
    for name in columns:
        column = table[name]
        kind = column.type
        is_vector = pa.types.is_fixed_size_list(kind) and (kind.value_type, kind.list_size) == (pa.float32(), width)
        if not (is_vector if name == "vector" else pa.types.is_string(kind)):
            raise ValueError(f"{name} is of another type")
        if name != "label" and column.null_count:
            raise ValueError(f"{name} has nulls")
        if name == "vector" and not np.isfinite(vectors_of(table)).all():
            raise ValueError("a vector is not finite")
