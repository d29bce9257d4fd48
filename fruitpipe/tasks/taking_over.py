"""Vector parts of an earlier run become a later run's, byte for byte. A Spark task that imports no Spark."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe.errors import UserError
from fruitpipe.sinks import Sink
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store
from fruitpipe.tasks.part_record import IMAGES, PartRecord
from fruitpipe.tasks.reduce import Projected, sample_of
from fruitpipe.tasks.vector_part import require_plain, require_rows

COLUMNS = ["path", "label", "vector"]


@dataclass(frozen=True)
class Members:
    """The images of a part of an earlier run, as the part has them."""

    images: str
    """their digest"""
    paths: pa.ChunkedArray


def read_members(store: Store, run: str, file: File) -> Members | None:
    """Read a part's footer and paths; None where it is damaged, too large, or of an earlier fruitpipe."""
    try:
        with store.open(layout.run(run, file.name)) as opened, pq.ParquetFile(opened, pre_buffer=True) as part:
            require_rows(part.metadata.num_rows, file)
            images = (part.schema_arrow.metadata or {})[IMAGES.encode()].decode()
            paths = part.read(["path"], use_threads=False)["path"].cast(pa.string())
    except (*layout.UNREADABLE, UserError):  # a link in the way
        return None
    return Members(images, paths) if not paths.null_count else None


@dataclass(frozen=True)
class TakeOver:
    """The task: make a part of an earlier run one of this run, for Parquet as it is, for other sinks row by row."""

    store: Store
    run: str
    earlier: str
    """id of the earlier run"""
    files: tuple[File, ...]
    """its parts, as its manifest has them, in the order in which they are to be this run's"""
    width: int
    """k, numbers of a vector"""
    sinks: tuple[Sink, ...]
    """of this run, that of Parquet first"""
    metadata: dict[str, str]
    """of this run's tables"""
    sample: int
    """images to return for the report"""

    def __call__(self, number: int) -> Projected | None:
        """As if it had been projected; None, and nothing is written, where it is not as the manifest has it."""
        there = self.files[number]
        name = layout.run(self.earlier, there.name)
        try:
            data = self.store.get(name)
            if File.of(there.name, data, there.rows) != there:
                return None
            table = pq.read_table(pa.BufferReader(data), use_threads=False)
            require_rows(len(table), there)
            if table.column_names != COLUMNS:
                return None
            require_plain(table, COLUMNS, self.width)
            record = PartRecord.of(table.schema.metadata or {}, len(table))
        except (*layout.UNREADABLE, UserError):  # a link in the way
            return None
        mine = layout.vectors(self.run, number)
        self.store.copy(name, mine)
        files = [there.model_copy(update={"name": layout.within(self.run, mine)})]
        if others := self.sinks[1:]:
            table = table.replace_schema_metadata(self.metadata)
            files += [sink.write(number, table) for sink in others]
        return Projected(files, record.errors, record.blank, sample_of(table, self.sample))
