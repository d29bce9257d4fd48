"""The nearest of many vectors, exactly: products in float32 choose, float64 decides.

A block of products says roughly how far vectors are from one another, within a bound of its rounding errors. Whatever
may be among the nearest by that bound is measured again, alone, so that no distance depends on the blocks, the order in
which they come, or the processor: a list that grew is that which is made from scratch, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fruitpipe.errors import UserError

Metric = Literal["cosine", "euclidean"]
ROWS, COLUMNS = 256, 4096
"""Of a block of products: 4 MiB, which a cache holds until it is looked through."""
MEASURED = 1 << 21
"""Numbers that are measured at once: 16 MiB of float64."""
LARGEST = 1e15
"""Length of a vector, at most: its square must be a float32."""
NOWHERE = -1
"""Position of no neighbour, where there are fewer than k."""
ULP = 2.0**-24
"""Relative error of rounding to float32."""


def prepared(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Vectors, shape (n, d), as they are compared: for cosine, (n, d + 1) of length 1. A vector of zeros, which has no
    direction, gets one of its own, at right angles to all others.

    Raises UserError as `lengths_of` does.
    """
    lengths = lengths_of(vectors)
    if metric == "euclidean":
        return vectors
    turned = np.column_stack([vectors, lengths == 0])
    return np.asarray(turned / np.where(lengths, lengths, 1)[:, None], np.float32)


def lengths_of(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Lengths of vectors, (n,). Raises UserError where one is longer than LARGEST, or not finite."""
    lengths = np.sqrt(squares(vectors))
    if not (lengths <= LARGEST).all():
        raise UserError(
            f"a vector is longer than {LARGEST:g} and cannot be compared with others: have the backbone give smaller "
            "features, or a PCA scale them (pca.scale: true)."
        )
    return lengths


def squares(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of the squares of each row, (n,): summed alike whatever rows stand beside it."""
    wide = np.ascontiguousarray(rows, np.float64)
    return np.asarray((wide * wide).sum(axis=1))


def shown(square: NDArray[np.float64], metric: Metric) -> NDArray[np.float32]:
    """Distances as they are told, of squared ones of prepared vectors.

    Of vectors of length 1, half the squared distance is 1 - cos.
    """
    return (square / 2 if metric == "cosine" else np.sqrt(square)).astype(np.float32)


def squared(distances: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """The largest squared distances that may be told so."""
    wide = distances.astype(np.float64)
    return np.asarray((2 * wide if metric == "cosine" else wide * wide) * (1 + 8 * ULP))


class Block(NamedTuple):
    """Some vectors that queries are compared with, ready for a product."""

    columns: NDArray[np.float32]
    """(n, d + 1). The last column takes away half the square: a product is then half of |x|² less the squared
    distance."""
    squares: NDArray[np.float64]
    """(n,), of their lengths"""
    positions: NDArray[np.int64]
    """(n,), rising"""


def blocks_of(vectors: NDArray[np.float32], positions: NDArray[np.int64]) -> Iterator[Block]:
    """Vectors, (n, d), prepared, at positions (n,) in rising order."""
    for first in range(0, len(vectors), COLUMNS):
        chosen = slice(first, first + COLUMNS)
        norms = np.einsum("ij,ij->i", vectors[chosen], vectors[chosen], dtype=np.float64)
        columns = np.column_stack([vectors[chosen], (-norms / 2).astype(np.float32)])
        yield Block(columns, norms, positions[chosen])


class Nearest:
    """The k nearest of each of some queries, among all vectors that were added. Ties go to the lower position."""

    def __init__(
        self,
        queries: NDArray[np.float32],
        positions: NDArray[np.int64],
        k: int,
        metric: Metric,
        known: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> None:
        """
        queries: (q, d), prepared.
        positions: (q,), where they are among all vectors: none is a neighbour of itself.
        known: distances and positions of neighbours that are known, (q, k) each, nearest first; inf and NOWHERE where
            there are fewer.
        """
        self._queries, self._own, self._metric = queries, positions, metric
        self._squares = squares(queries)
        shape = len(queries), k
        self.distances = np.full(shape, np.inf, np.float32)
        """(q, k), nearest first, inf where there are fewer"""
        self.positions = np.full(shape, NOWHERE, np.int64)
        """(q, k), of these neighbours, NOWHERE where there are fewer"""
        if known:
            self.distances[:], self.positions[:] = known

    @property
    def found(self) -> NDArray[np.int64]:
        """Positions of all neighbours, of one query after another, (m,)."""
        return np.asarray(self.positions[self.positions != NOWHERE])

    def add(self, blocks: Iterable[Block]) -> None:
        """Compare the queries with more vectors."""
        products = np.empty(ROWS * COLUMNS, np.float32)
        for block in blocks:
            for start in range(0, len(self._queries), ROWS):
                self._compare(slice(start, start + ROWS), block, products)

    def _compare(self, chosen: slice, block: Block, room: NDArray[np.float32]) -> None:
        vectors, positions = block.columns, block.positions
        queries = np.column_stack([self._queries[chosen], np.ones(len(self._queries[chosen]), np.float32)])
        products = room[: len(queries) * len(vectors)].reshape(len(queries), len(vectors))
        np.matmul(queries, vectors.T, out=products)
        error = bound(self._squares[chosen], block.squares.max(), vectors.shape[1])
        farthest, last = self.distances[chosen, -1], self.positions[chosen, -1]
        least = np.full(len(queries), -np.inf)
        full = np.isfinite(farthest)
        least[full] = ((self._squares[chosen] - squared(farthest, self._metric)) / 2 - error)[full]
        least[(farthest == 0) & (last < positions[0])] = np.inf  # nothing can be nearer, and ties go to those
        passing = products >= rounded_down(least)[:, None]
        self._tighten(passing, products, error)
        rows, columns = np.divmod(np.flatnonzero(passing), len(vectors))
        others = self._own[chosen][rows] != positions[columns]
        self._take(rows[others] + chosen.start, vectors[:, :-1], columns[others], positions)

    def _tighten(self, passing: NDArray[np.bool_], products: NDArray[np.float32], error: NDArray[np.float64]) -> None:
        """Of rows in which many pass, as at first, keep what may be among the k nearest of this block."""
        k = self.distances.shape[1]
        if passing.shape[1] <= k + 1 or np.count_nonzero(passing) <= 2 * k * len(passing):
            return
        (many,) = np.nonzero(np.count_nonzero(passing, axis=1) > 4 * k)
        if len(many):
            rank = passing.shape[1] - k - 1  # one of them may be the query itself
            least = np.partition(products[many], rank, axis=1)[:, rank] - 2 * error[many]
            passing[many] &= products[many] >= rounded_down(least)[:, None]

    def _take(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        columns: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        """Measure pairs, and merge those that are near into the lists. rows: in rising order."""
        size = max(MEASURED // vectors.shape[1], 1)
        for start in range(0, len(rows), size):
            row, column = rows[start : start + size], columns[start : start + size]
            between = self._queries[row].astype(np.float64) - vectors[column]
            distances = shown(squares(between), self._metric)
            near = distances <= self.distances[row, -1]
            self._merge(row[near], distances[near], positions[column[near]])

    def _merge(self, rows: NDArray[np.int64], distances: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        k = self.distances.shape[1]
        touched = np.unique(rows)
        row = np.concatenate([np.repeat(touched, k), rows])
        distance = np.concatenate([self.distances[touched].ravel(), distances])
        position = np.concatenate([self.positions[touched].ravel(), positions])
        order = np.lexsort((position, distance, row))
        starts = np.searchsorted(row[order], touched)
        kept = order[starts[:, None] + np.arange(k)]
        self.distances[touched], self.positions[touched] = distance[kept], position[kept]


def bound(squares: NDArray[np.float64], largest: float, terms: int) -> NDArray[np.float64]:
    """How far a product may be from what it stands for, (q,): the bound of any order of additions, with or without
    fused multiplication (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, 3.1), and of rounding.

    squares: of the queries' lengths. largest: that of the block's vectors.
    """
    length, longest = np.sqrt(squares), np.sqrt(largest)
    sums = (terms + 2) * ULP * (length * longest + largest / 2)
    return np.asarray(sums + 8 * ULP * (length + longest) ** 2 + terms * np.finfo(np.float32).tiny)


def rounded_down(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float32 below each number."""
    return np.nextafter(numbers.astype(np.float32), np.float32(-np.inf))
