"""Fit and project, a vector part at a time: moments of features, then vectors. Spark tasks that import no Spark."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.errors import UserError
from fruitpipe.numeric.arrays import read_arrays
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.moments import TOGETHER, Moments, added, symmetric, upper_half
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.sinks import Sink, to_table, vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.side_by_side import in_advance
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import read_features
from fruitpipe.tasks.part_record import PartRecord, digest_of_images, image_digests
from fruitpipe.tasks.shares import Shares

BLOCK = 1024
"""Rows held as float64 at once. Fixed: the order of additions, and so the last bits, depend on it."""
VECTOR_PART, FEW_PARTS = 4096, 256
"""Images of a vector part, while there are so few parts. Of more images, parts are larger ..."""
LARGEST_FEATURES = 80 << 20
"""... up to so many bytes of features, which a task holds at once; then there are more parts."""


def vector_parts(count: int, dimension: int) -> list[int]:
    """How many images each vector part of a run has, in order of their paths. dimension: of a feature.

    Their number, while it is small, is a power of two, as that of cores mostly is, which then have equal shares.
    """
    parts = math.ceil(count / most_images(count, dimension))
    return equal_parts(count, 1 << (parts - 1).bit_length() if 0 < parts <= FEW_PARTS else parts)


def most_images(count: int, dimension: int) -> int:
    """How many images a vector part has at most in a run of so many."""
    return min(max(math.ceil(count / FEW_PARTS), VECTOR_PART), largest_part(dimension))


def largest_part(dimension: int) -> int:
    """How many images a vector part has at most in any run."""
    return max(LARGEST_FEATURES // (4 * dimension), VECTOR_PART)


def equal_parts(count: int, parts: int) -> list[int]:
    """Sizes of so many parts, which differ by one at most."""
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)]


@dataclass(frozen=True)
class Projected:
    """Result of projecting one vector part."""

    files: list[File]
    """one of each sink"""
    errors: Distribution
    """reconstruction errors of its images"""
    blank: int
    """images whose feature is zeros"""
    sample: list[tuple[str, str, float, float]]
    """path, label and first two components of some images, evenly spaced, for the report"""


class Index:
    """Share `number` of an index: which images a vector part holds, and where their features lie."""

    def __init__(self, shares: Shares, number: int) -> None:
        self._store = shares.store
        self.rows = shares.read(number)

    def features(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of some rows, at least one, in their order, shape (n, d). Reads only the parts that hold one.

        Raises FruitpipeError where a part is damaged.
        """
        where = self.rows.select(["part", "row"])
        where = where[chosen] if isinstance(chosen, slice) else where.take(chosen)
        return read_features(self._store, where["part"], where["row"])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Features of all rows in order, shape (at most BLOCK, d). Each feature part is read once."""
        features = self.features(slice(None))
        return (features[first : first + BLOCK] for first in range(0, len(features), BLOCK))


@dataclass(frozen=True)
class Fit:
    """The task: moments of one vector part, kept as a file."""

    store: Store
    run: str

    def __call__(self, number: int) -> None:
        with one_thread():
            moments = moments_of(Index(Shares(self.store, self.run, layout.INDEX), number).blocks())
        write_moments(self.store, self.run, 0, number, moments)


@dataclass(frozen=True)
class AddMoments:
    """The task: the sum of TOGETHER moments of one level of a tree, kept as a file of the next one."""

    store: Store
    run: str
    level: int
    """0 are those of vector parts"""
    count: int
    """moments of that level"""

    def __call__(self, number: int) -> None:
        numbers = range(self.count)[number * TOGETHER : (number + 1) * TOGETHER]
        with one_thread():
            moments = added(read_moments(self.store, self.run, self.level, numbers))
        write_moments(self.store, self.run, self.level + 1, number, moments)


def fit_moments(store: Store, run: str, parts: int, each: Callable[[Callable[[int], None], int], object]) -> Moments:
    """Moments of all vector parts, added as a tree, in an order that depends on how many they are alone.

    each: runs a task for each number below a count, in any order.
    """
    each(Fit(store, run), parts)
    level = 0
    while parts > TOGETHER:
        each(AddMoments(store, run, level, parts), math.ceil(parts / TOGETHER))
        level, parts = level + 1, math.ceil(parts / TOGETHER)
    with one_thread():
        return added(read_moments(store, run, level, range(parts)))


def moments_of(blocks: Iterable[NDArray[np.floating]]) -> Moments:
    """Moments of the rows of a vector part, in blocks of BLOCK."""
    return added(map(Moments.of, blocks))


def write_moments(store: Store, run: str, level: int, number: int, moments: Moments) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, count=moments.count, mean=moments.mean, upper=upper_half(moments.scatter))
    store.put(moments_name(run, level, number), arrays.getbuffer())


def read_moments(store: Store, run: str, level: int, numbers: Iterable[int]) -> Iterator[Moments]:
    """Some moments of a level in turn; the next ones are fetched while one is used."""
    for _, data in in_advance(store.get, (moments_name(run, level, number) for number in numbers), 1):
        yield unpacked(data.result())


def unpacked(data: bytes) -> Moments:
    arrays = read_arrays(io.BytesIO(data), {"count": ("i8", 0), "mean": ("f8", 1), "upper": ("f8", 1)})
    return Moments(int(arrays["count"]), arrays["mean"], symmetric(arrays["upper"], len(arrays["mean"])))


def moments_name(run: str, level: int, number: int) -> str:
    return layout.work(run, f"moments-{level}-{number:05d}.npz")


@dataclass(frozen=True)
class Project:
    """The task: vectors of one vector part, given to all sinks of the run."""

    store: Store
    run: str
    sinks: tuple[Sink, ...]
    metadata: dict[str, str]
    sample: int
    """images to return for the report"""
    index: str = layout.INDEX
    numbers: tuple[int, ...] = ()
    """of the parts, where they are not those of the index' shares"""

    def __call__(self, number: int, pca: Callable[[], Pca | Unreduced]) -> Projected:
        index = Index(Shares(self.store, self.run, self.index), number)
        pairs, blank = [], 0
        with one_thread():
            for block in index.blocks():
                pairs.append(pca().transform_with_error(block))
                blank += int((~block.any(axis=1)).sum())
        vectors, errors = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        require_finite(vectors, index.rows["path"])
        record = PartRecord(digest_of_images(image_digests(index.rows)), Distribution.of(errors), blank)
        table = to_table(index.rows["path"], index.rows["label"], vectors, self.metadata | record.metadata)
        part = self.numbers[number] if self.numbers else number
        files = [sink.write(part, table) for sink in self.sinks]
        return Projected(files, record.errors, blank, sample_of(table, self.sample))


def require_finite(vectors: NDArray[np.float32], paths: pa.ChunkedArray) -> None:
    """Raise UserError where a number of a vector is beyond float32."""
    (beyond,) = np.nonzero(~np.isfinite(vectors).all(axis=1))
    if len(beyond):
        raise UserError(
            f"vectors of {len(beyond)} images or more, the first of them {paths[int(beyond[0])].as_py()}, are beyond "
            "float32: their features are too large, or too far from those that the model was fitted on. Fix the "
            "backbone, or set model: fit."
        )


@dataclass(frozen=True)
class Sample:
    """The task: features and labels of some images of one vector part, evenly spaced, for the driver."""

    store: Store
    run: str
    most: int
    """images of a part"""

    def __call__(self, number: int) -> tuple[NDArray[np.float32], list[str]]:
        """Features, shape (n, d), and n labels; empty where an image has none."""
        index = Index(Shares(self.store, self.run, layout.INDEX), number)
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
