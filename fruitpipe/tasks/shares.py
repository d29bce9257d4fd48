"""Shares of rows: what each of many tasks has to do, in files of which it reads its own rows and a short footer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe.storage import layout
from fruitpipe.storage.store import Store

SHARES = 128
"""Row groups of a file. Every task reads its file's footer, of up to 300 bytes for each of them: of so many, it lies in
the 64 KiB at the end that a reader asks for first. In one file for all, it would grow with the tasks, what all of them
read with the tasks' square, and with either what the writer remembers until the file is whole."""


@dataclass(frozen=True)
class Shares:
    """Rows of a run's work, those of a task by the task's number, counted from 0."""

    store: Store
    run: str
    what: str
    """layout.TODO, INDEX, FURTHER or AGAIN"""

    def write(self, batches: Iterable[pa.RecordBatch], sizes: Sequence[int], scratch: Path) -> None:
        """Put rows, in their order, as shares of these sizes. scratch: a folder for files of a moment."""
        shares = enumerate(regroup(batches, sizes))
        for file, several in groupby(shares, lambda share: share[0] // SHARES):
            tables = (table for _, table in several)
            path, first = scratch / f"{self.what}.parquet", next(tables)
            with pq.ParquetWriter(path, first.schema, compression="zstd", write_statistics=False) as writer:
                for table in chain([first], tables):
                    writer.write_table(table, row_group_size=len(table))
            self.store.upload(path, layout.shares(self.run, self.what, file))

    def read(self, number: int) -> pa.Table:
        """The rows of a task."""
        file, group = divmod(number, SHARES)
        with self.store.open(layout.shares(self.run, self.what, file)) as opened:
            return pq.ParquetFile(opened).read_row_group(group)


def regroup(batches: Iterable[pa.RecordBatch], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """The rows of some batches again, in tables of the given sizes."""
    stream = iter(batches)
    held: pa.Table | None = None
    for size in sizes:
        while held is None or len(held) < size:
            batch = pa.Table.from_batches([next(stream)])
            held = batch if held is None else pa.concat_tables([held, batch])
        yield held.slice(0, size).combine_chunks()
        held = held.slice(size)
