"""Fit and project, a vector part at a time: moments of features, then vectors. Spark tasks that import no Spark."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import read_features

BLOCK = 1024
"""Rows held as float64 at once. Fixed: the order of additions, and so the last bits, depend on it."""
GATHERED = 16 * BLOCK
"""Rows held as float32 at once. For as many, each feature part is read once; a vector part has more of them only where
a run has millions of images."""


@dataclass(frozen=True)
class Projected:
    """What came of one vector part."""

    files: list[File]
    errors: NDArray[np.float32]
    """(n,): reconstruction error of each image"""
    blank: int
    """images whose feature is zeros"""
    sample: list[tuple[str, float, float]]
    """label and first two components of some images, evenly spaced, for the report"""


class Index:
    """Row group `number` of an index file: which images a vector part holds, and where their features lie."""

    def __init__(self, store: Store, name: str, number: int) -> None:
        self._store = store
        with store.open(name) as file:
            self.rows = pq.ParquetFile(file).read_row_group(number)

    def features(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of some rows, at least one, in their order, shape (n, d). Reads only the parts that hold one.

        Raises FruitpipeError where a part is damaged.
        """
        where = self.rows.select(["part", "row"])
        where = where[chosen] if isinstance(chosen, slice) else where.take(chosen)
        return read_features(self._store, where["part"], where["row"])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Features of all rows in order, shape (at most BLOCK, d)."""
        for start in range(0, len(self.rows), GATHERED):
            gathered = self.features(slice(start, start + GATHERED))
            for first in range(0, len(gathered), BLOCK):
                yield gathered[first : first + BLOCK]


@dataclass(frozen=True)
class Fit:
    """The task: moments of one vector part, kept as a file until the driver adds them up in order."""

    store: Store
    run: str

    def __call__(self, number: int) -> None:
        with threadpool_limits(1):
            moments = moments_of(Index(self.store, layout.work(self.run, layout.INDEX), number).blocks())
        arrays = io.BytesIO()
        upper = moments.scatter[np.triu_indices(len(moments.mean))]
        np.savez(arrays, count=moments.count, mean=moments.mean, upper=upper)
        self.store.put(layout.work(self.run, f"moments-{number:05d}.npz"), arrays.getvalue())


def moments_of(blocks: Iterator[NDArray[np.float32]]) -> Moments:
    """Moments of all rows of some blocks, added in their order."""
    total: Moments | None = None
    for block in blocks:
        moments = Moments.of(block)
        total = moments if total is None else total + moments
    assert total is not None, "a vector part has rows"
    return total


def sum_moments(store: Store, run: str, parts: int) -> Moments:
    """Moments of all vector parts, added in the order of their numbers."""

    def read(number: int) -> Moments:
        with np.load(io.BytesIO(store.get(layout.work(run, f"moments-{number:05d}.npz")))) as arrays:
            mean = arrays["mean"]
            scatter = np.zeros((len(mean), len(mean)))
            scatter[np.triu_indices(len(mean))] = arrays["upper"]
            return Moments(int(arrays["count"]), mean, scatter + np.triu(scatter, 1).T)

    total = read(0)
    for number in range(1, parts):
        total += read(number)
    return total


@dataclass(frozen=True)
class Project:
    """The task: vectors of one vector part, published in every format asked for."""

    store: Store
    run: str
    formats: tuple[str, ...]
    metadata: dict[str, str]
    sample: int
    """images to return for the report"""

    def __call__(self, number: int, pca: Callable[[], Pca | Unreduced]) -> Projected:
        index = Index(self.store, layout.work(self.run, layout.INDEX), number)
        pairs, blank = [], 0
        with threadpool_limits(1):
            for block in index.blocks():
                pairs.append(pca().transform_with_error(block))
                blank += int((~block.any(axis=1)).sum())
        vectors, errors = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        table = to_table(index.rows["path"], index.rows["label"], vectors, self.metadata)
        files = [self._write(number, table, name) for name in self.formats]
        return Projected(files, errors, blank, sample_of(table, self.sample))

    def _write(self, number: int, table: pa.Table, format: str) -> File:
        data = SERIALISE[format](table)
        name = layout.vectors(self.run, number, format)
        self.store.put(name, data)
        return File.of(layout.within(self.run, name), data, len(table))


def join(store: Store, run: str, parts: Sequence[File], format: str, scratch: Path) -> File:
    """Put the parts of a format together as one object, in order and one after the other, and delete them.

    Only the first keeps its header, if there is one. `scratch` is a file that takes the whole meanwhile.
    """
    digest = hashlib.sha256()
    with scratch.open("wb") as file:
        for part in parts:
            data = store.get(layout.run(run, part.name))
            header = data.index(b"\n") + 1 if format == "csv" and part is not parts[0] else 0
            body = memoryview(data)[header:]
            digest.update(body)
            file.write(body)
        size = file.tell()
    name = layout.whole(run, format)
    store.upload(scratch, name)
    for part in parts:
        store.delete(layout.run(run, part.name))
    rows = sum(part.rows or 0 for part in parts)
    return File(name=layout.within(run, name), rows=rows, bytes=size, sha256=digest.hexdigest())


@dataclass(frozen=True)
class Sample:
    """The task: features and labels of some images of one vector part, evenly spaced, for the driver."""

    store: Store
    run: str
    most: int
    """images of a part"""

    def __call__(self, number: int) -> tuple[NDArray[np.float32], list[str]]:
        """Features, shape (n, d), and n labels; empty where an image has none."""
        index = Index(self.store, layout.work(self.run, layout.INDEX), number)
        chosen = spread(len(index.rows), self.most)
        return index.features(chosen), [label or "" for label in index.rows["label"].take(chosen).to_pylist()]


def spread(rows: int, most: int) -> NDArray[np.int64]:
    """At most so many numbers of rows, evenly spaced."""
    few = min(rows, most)
    return np.arange(few) * rows // max(few, 1)


def to_table(
    path: pa.ChunkedArray, label: pa.ChunkedArray, vectors: NDArray[np.float32], metadata: dict[str, str]
) -> pa.Table:
    """Columns path, label and vector, a fixed-size list of float32."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("vector", column.type, nullable=False),
        ],
        metadata=metadata,
    )
    return pa.table([path, label, column], schema=schema)


def sample_of(table: pa.Table, count: int) -> list[tuple[str, float, float]]:
    """Label and first two components of at most `count` evenly spaced rows."""
    some = table.take(spread(len(table), count))
    vectors = vectors_of(some)
    second = vectors[:, 1] if vectors.shape[1] > 1 else np.zeros(len(some))
    labels = [label or "" for label in some["label"].to_pylist()]
    return list(zip(labels, vectors[:, 0].tolist(), second.tolist(), strict=True))


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """The vectors of a published table, shape (n, k)."""
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def to_parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["label"], row_group_size=8192)
    return memoryview(sink.getvalue())


def to_json_lines(table: pa.Table) -> memoryview:
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    rows = zip(table["path"].to_pylist(), table["label"].to_pylist(), vectors_of(table), strict=True)
    lines = (orjson.dumps({"path": p, "label": lb, "vector": v}, option=option) for p, lb, v in rows)
    return memoryview(b"".join(lines))


def to_csv(table: pa.Table) -> memoryview:
    vectors = vectors_of(table)
    columns = {f"c{i}": np.ascontiguousarray(vectors[:, i]) for i in range(vectors.shape[1])}
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(pa.table({"path": table["path"], "label": table["label"], **columns}), sink)
    return memoryview(sink.getvalue())


SERIALISE: dict[str, Callable[[pa.Table], memoryview]] = {
    "parquet": to_parquet,
    "json": to_json_lines,
    "csv": to_csv,
}
