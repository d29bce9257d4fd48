"""Vectors as files of a run: Parquet, JSON lines and CSV, in parts or, but for Parquet, as one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fruitpipe.sinks.table import vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store

FORMULA = "^('*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-])"
"""Beginnings of texts that spreadsheets take for formulas (OWASP, "CSV Injection"), also in full width, with any
apostrophes before them."""


@dataclass(frozen=True)
class Files(ABC):
    """A sink whose parts are objects of the run, each put whole. Readers find them by the manifest."""

    store: Store
    run: str
    one_file: bool = False
    format: ClassVar[str]

    @abstractmethod
    def serialise(self, table: pa.Table) -> memoryview:
        """The file of a part."""

    def write(self, number: int, table: pa.Table) -> File:
        data = self.serialise(table)
        name = layout.vectors(self.run, number, self.format)
        self.store.put(name, data)
        return File.of(layout.within(self.run, name), data, len(table))

    def commit(self, parts: Sequence[File], scratch: Path) -> list[File]:
        return [self._join(parts, scratch / "whole")] if self.one_file else list(parts)

    def abort(self) -> None:  # noqa: B027 - that is all
        """Nothing is left to do: without a manifest no reader looks here, and `gc` clears it away."""

    def _join(self, parts: Sequence[File], scratch: Path) -> File:
        """Put all parts together as one object, in order and one after the other, and delete them."""
        with scratch.open("wb") as file:
            for number, part in enumerate(parts):
                file.write(self.body(self.store.get(layout.run(self.run, part.name)), first=number == 0))
        name = layout.joined_vectors(self.run, self.format)
        whole = File.at(layout.within(self.run, name), scratch, sum(part.rows or 0 for part in parts))
        self.store.upload(scratch, name)
        self.store.delete_all(layout.run(self.run, part.name) for part in parts)
        return whole

    def body(self, data: bytes, first: bool) -> memoryview:
        """What a part adds to the whole."""
        return memoryview(data)


class Parquet(Files):
    """Always in parts, which every reader of Parquet takes for one table."""

    format = "parquet"

    def serialise(self, table: pa.Table) -> memoryview:
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", use_dictionary=["label"], row_group_size=8192, write_page_checksum=True
        )
        return memoryview(sink.getvalue())

    def commit(self, parts: Sequence[File], scratch: Path) -> list[File]:
        return list(parts)


class JsonLines(Files):
    """One JSON object per line, with keys path, label and vector."""

    format = "json"

    def serialise(self, table: pa.Table) -> memoryview:
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        rows = zip(table["path"].to_pylist(), table["label"].to_pylist(), vectors_of(table), strict=True)
        lines = (orjson.dumps({"path": p, "label": lb, "vector": v}, option=option) for p, lb, v in rows)
        return memoryview(b"".join(lines))


class RawCsv(Files):
    """Columns path, label, c0, c1 …, with a header."""

    format = "csv-raw"

    def serialise(self, table: pa.Table) -> memoryview:
        vectors = vectors_of(table)
        texts = {name: self.cells(table[name]) for name in ("path", "label")}
        numbers = {f"c{i}": np.ascontiguousarray(vectors[:, i]) for i in range(vectors.shape[1])}
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(pa.table({**texts, **numbers}), sink)
        return memoryview(sink.getvalue())

    def cells(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """How texts are written."""
        return texts

    def body(self, data: bytes, first: bool) -> memoryview:
        """All but the header, which only the first keeps."""
        return memoryview(data)[0 if first else data.index(b"\n") + 1 :]


class Csv(RawCsv):
    """The same, with an apostrophe before each text that a spreadsheet would compute, such as the folder `=1+1`."""

    format = "csv"

    def cells(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """With apostrophes that can be told from a text's own: take the first away wherever FORMULA matches."""
        return pc.replace_substring_regex(texts, FORMULA, r"'\1")
