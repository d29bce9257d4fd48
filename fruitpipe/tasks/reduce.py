"""Fit and project, a vector part at a time: moments of features, then vectors. Spark tasks that import no Spark."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.numeric.arrays import read_arrays
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.sinks import Sink, to_table, vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import read_features

BLOCK = 1024
"""Rows held as float64 at once. Fixed: the order of additions, and so the last bits, depend on it."""
GATHERED = 16 * BLOCK
"""Rows held as float32 at once. For as many, each feature part is read once; a vector part has more of them only where
a run has millions of images."""
VECTOR_PART, MOST_VECTOR_PARTS = 4096, 256


def vector_parts(count: int) -> list[int]:
    """How many images each vector part of a run has, in order of their paths."""
    parts = min(max(math.ceil(count / VECTOR_PART), 1), MOST_VECTOR_PARTS)
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)] if count else []


@dataclass(frozen=True)
class Projected:
    """Result of projecting one vector part."""

    files: list[File]
    """one of each sink"""
    errors: NDArray[np.float32]
    """(n,): reconstruction error of each image"""
    blank: int
    """images whose feature is zeros"""
    sample: list[tuple[str, str, float, float]]
    """path, label and first two components of some images, evenly spaced, for the report"""


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
        with one_thread():
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
        with store.open(layout.work(run, f"moments-{number:05d}.npz")) as file:
            arrays = read_arrays(file, {"count": ("i8", 0), "mean": ("f8", 1), "upper": ("f8", 1)})
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
    """The task: vectors of one vector part, given to all sinks of the run."""

    store: Store
    run: str
    sinks: tuple[Sink, ...]
    metadata: dict[str, str]
    sample: int
    """images to return for the report"""

    def __call__(self, number: int, pca: Callable[[], Pca | Unreduced]) -> Projected:
        index = Index(self.store, layout.work(self.run, layout.INDEX), number)
        pairs, blank = [], 0
        with one_thread():
            for block in index.blocks():
                pairs.append(pca().transform_with_error(block))
                blank += int((~block.any(axis=1)).sum())
        vectors, errors = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        table = to_table(index.rows["path"], index.rows["label"], vectors, self.metadata)
        files = [sink.write(number, table) for sink in self.sinks]
        return Projected(files, errors, blank, sample_of(table, self.sample))


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


def sample_of(table: pa.Table, count: int) -> list[tuple[str, str, float, float]]:
    """Path, label and first two components of at most `count` evenly spaced rows."""
    some = table.take(spread(len(table), count))
    vectors = vectors_of(some)
    second = vectors[:, 1] if vectors.shape[1] > 1 else np.zeros(len(some))
    labels = [label or "" for label in some["label"].to_pylist()]
    return list(zip(some["path"].to_pylist(), labels, vectors[:, 0].tolist(), second.tolist(), strict=True))
