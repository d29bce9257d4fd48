"""How many numbers are spread, in a space that does not grow with them."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

BITS = 13
"""Of a float32's 23 bits of mantissa, those that are dropped: 1,024 buckets between a number and its double."""
RELATIVE_ERROR = 2.0 ** (BITS - 23)
"""By which a quantile may be above the true one, at most; of numbers that are no normal float32, 1.2e-41 instead."""
INFINITY = 0x7F800000 >> BITS
"""The bucket after the last of finite numbers."""
TOTAL, BUCKET = 8, 12
"""Bytes of the total and of each bucket with its count, before they are packed."""


@dataclass(frozen=True)
class Distribution:
    """Numbers that are not negative, counted in buckets by their first bits. That of two sets is the sum of theirs.

    The buckets are those of an HDR histogram (Tene), with as many as there are different ones among the numbers: a few
    thousand for errors of one kind. Numbers of the first one, below 1.2e-41, count as 0. Counts have no order of
    additions, so that they are the same however tasks end.
    """

    total: float
    buckets: NDArray[np.uint32]
    """(b,), rising: first bits of the numbers"""
    counts: NDArray[np.int64]
    """(b,)"""

    @classmethod
    def of(cls, numbers: NDArray[np.float32]) -> Self:
        """numbers: shape (n,). Raises ValueError where one is negative or not finite."""
        if not ((numbers >= 0) & np.isfinite(numbers)).all():
            raise ValueError("a number of a distribution is negative or not finite")
        found, counts = np.unique(np.abs(numbers).view(np.uint32) >> BITS, return_counts=True)
        return cls(float(numbers.sum(dtype=np.float64)), found.astype(np.uint32), counts.astype(np.int64))

    def __add__(self, other: Distribution) -> Distribution:
        """Of both together. The total alone depends on the order of additions, in its last bits."""
        buckets, places = np.unique(np.concatenate([self.buckets, other.buckets]), return_inverse=True)
        counts = np.zeros(len(buckets), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Distribution(self.total + other.total, buckets, counts)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.total / len(self)

    def quantile(self, share: float) -> float:
        """A number that so many are at most: the least such, or larger by RELATIVE_ERROR at most."""
        place = int(np.searchsorted(np.cumsum(self.counts), share * len(self)))
        return float(ends(self.buckets[place : place + 1])[0])

    def share_above(self, limit: float) -> float:
        """Share of the numbers that are larger than a limit: exact where that is a quantile of any distribution; for
        others, those count, too, that are smaller by RELATIVE_ERROR at most.
        """
        return float(self.counts[ends(self.buckets) > limit].sum() / len(self))

    def packed(self) -> str:
        """As a text: some two bytes for each bucket."""
        steps = np.diff(self.buckets, prepend=np.uint32(0))
        data = b"".join(array.tobytes() for array in (np.array([self.total], "<f8"), steps.astype("<u4"), self.counts))
        return base64.b64encode(zlib.compress(data)).decode()

    @classmethod
    def unpacked(cls, text: str, count: int) -> Self:
        """That of so many numbers from its text, which anybody may have made. Raises ValueError where it is none."""
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(base64.b64decode(text, validate=True), TOTAL + BUCKET * count + 1)
        except zlib.error as error:
            raise ValueError("a distribution is damaged") from error
        size, rest = divmod(len(data) - TOTAL, BUCKET)
        if rest or not 1 <= size <= count or not unpacker.eof:
            raise ValueError("a distribution has another length")
        (total,) = np.frombuffer(data, "<f8", 1).tolist()
        buckets = np.cumsum(np.frombuffer(data, "<u4", size, TOTAL), dtype=np.int64)
        counts = np.frombuffer(data, "<i8", size, TOTAL + 4 * size)
        rising = (np.diff(buckets) > 0).all() and buckets[0] >= 0 and buckets[-1] < INFINITY
        if not rising or counts.min() < 1 or counts.max() > count or counts.sum() != count:
            raise ValueError("a distribution is of other numbers")
        if not (math.isfinite(total) and total >= 0):
            raise ValueError("numbers of a distribution have no sum")
        return cls(total, buckets.astype(np.uint32), counts.astype(np.int64))


def ends(buckets: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The largest number of each bucket; of the first one 0."""
    largest = ((buckets + np.uint32(1)) << np.uint32(BITS)) - np.uint32(1)
    return np.where(buckets, largest, np.uint32(0)).view(np.float32)
