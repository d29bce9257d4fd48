"""First and second moments of a matrix whose rows come in blocks: one pass, mergeable, float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
ROWS = 64
"""Of a scatter that is corrected, at once: all of them would be another one in memory."""
TOGETHER = 64
"""Moments that are added one after another. Fixed, as the last bits depend on the order of additions."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of rows.

    Centred sums, not raw ones: XᵀX - n·mean·meanᵀ loses all digits where the mean is large against the spread.
    """

    count: int
    mean: Float64
    """(d,)"""
    scatter: Float64
    """(d, d): Σ (x - mean)(x - mean)ᵀ"""

    @classmethod
    def empty(cls, dimension: int) -> Moments:
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Moments:
        """Moments of a block of shape (n, d), any float dtype."""
        count, dimension = rows.shape
        if count == 0:
            return cls.empty(dimension)
        centred = rows.astype(np.float64)
        mean = centred.mean(axis=0)
        centred -= mean
        return cls(count, mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together.

        Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
        Addition rounds, so callers that want the same bits again add in the same order.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter
        for first in range(0, len(delta), ROWS):
            between = np.outer(delta[first : first + ROWS], delta)  # of the whole, symmetric to the bit
            between *= self.count * other.count / count
            scatter[first : first + ROWS] += between
        return Moments(count, self.mean + delta * (other.count / count), scatter)


def added(moments: Iterable[Moments]) -> Moments:
    """Moments of all together, one at least, in their order: TOGETHER of them, those sums again, and so on.

    Whoever adds each TOGETHER elsewhere, and then the sums, gets the same bits.
    """
    sums: list[Moments] = []
    for number, each in enumerate(moments):
        if number % TOGETHER:
            sums[-1] += each
        else:
            sums.append(each)
    assert sums, "there are some"
    return sums[0] if len(sums) == 1 else added(sums)


def upper_half(scatter: Float64) -> Float64:
    """The rows of a symmetric matrix (d, d), each from its diagonal on: d (d + 1) / 2 numbers."""
    return np.concatenate([row[number:] for number, row in enumerate(scatter)])


def symmetric(upper: Float64, dimension: int) -> Float64:
    """The matrix (d, d) of that half. Raises ValueError where it is of another length."""
    if len(upper) != dimension * (dimension + 1) // 2:
        raise ValueError(f"{len(upper)} numbers are not half of a symmetric matrix of {dimension} rows.")
    matrix = np.empty((dimension, dimension))
    first = 0
    for number in range(dimension):
        row = upper[first : first + dimension - number]
        matrix[number, number:] = matrix[number:, number] = row
        first += len(row)
    return matrix
