"""Columns of numbers and texts as a page holds them: compressed, in base64, unpacked by the browser."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LEVELS = 32767
"""int16 from one end of the range to zero."""
BLOCK = 32
"""Texts that are coded each by the one before it; the first is whole, so that one is read by reading at most 32."""
LONGEST = 0xFFFF
"""Bytes of a text; what is longer is cut. No path is."""

Numbers = NDArray[np.int16] | NDArray[np.uint32] | NDArray[np.uint16] | NDArray[np.uint8]


def packed(data: bytes) -> str:
    """Gzip without a time, so that equal columns are equal texts."""
    return b64encode(gzip.compress(data, 6, mtime=0)).decode()


def numbers(values: Numbers) -> str:
    """A column. Of longer numbers than bytes, first all low bytes and then all next ones, which compress better."""
    size = values.dtype.itemsize
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    return packed(little.view(np.uint8).reshape(-1, size).T.tobytes())


def quantised(values: NDArray[np.floating]) -> tuple[NDArray[np.int16], float]:
    """Numbers as int16, and the step between two of them: `values` is about their product."""
    step = float(np.abs(values).max(initial=0)) / LEVELS or 1.0
    return np.rint(values / step).astype(np.int16), step


def codes(values: NDArray[np.integer], most: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Numbers from 0 to `most`, 65,535 at most, in as few bytes as that takes."""
    return values.astype(np.uint8) if most < 1 << 8 else values.astype(np.uint16)


def alike(one: bytes, other: bytes) -> int:
    """Bytes that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def texts(values: Iterable[str]) -> dict[str, str]:
    """A column of texts, as three: bytes shared with the text before, bytes of the rest, and the rests, UTF-8."""
    shared, rests = [], []
    before = b""
    for number, text in enumerate(values):
        data = text.encode()[:LONGEST]
        common = alike(before, data) if number % BLOCK else 0
        shared.append(common)
        rests.append(data[common:])
        before = data
    lengths = np.fromiter(map(len, rests), np.uint16, len(rests))
    return {
        "shared": numbers(np.array(shared, np.uint16)),
        "lengths": numbers(lengths),
        "rests": packed(b"".join(rests)),
    }
