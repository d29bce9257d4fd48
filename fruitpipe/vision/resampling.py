"""Resampling as Pillow does it, to the bit, but several times as fast where its compiled code was built.

Weights are those of Pillow's `Resample.c`: same operations, in the same order. Compilers for ARM may fuse some of
Pillow's, which has changed no weight that was looked at.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import warnings
from functools import cache, lru_cache
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""left, upper, right, lower, pixels"""
Pixels = NDArray[np.uint8]
"""(height, width, 3), or (height, width) of a grey picture"""
Filter = Literal["bicubic", "bilinear"]
FILTERS: dict[Filter, Image.Resampling] = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
ONE = 1 << 22
"""The weight 1."""
STRIP = 200_000
"""Pixels copied at once. More would be memory that is new to the process, which costs more than the sums."""
SOURCE = Path(__file__).with_name("resample.c")
COMPILING = "python -m fruitpipe.vision.compile"


def resample(image: Image.Image, size: tuple[int, int], name: Filter, box: Box) -> Pixels:
    """A box of an RGB or L picture, as (width, height) pixels. Raises ValueError where it is not within the picture."""
    if (compiled := library()) is None:
        return np.asarray(image.resize(size, FILTERS[name], box))
    width, height = image.size
    left, upper, right, lower = box
    across = filtering(name, width, left, right, size[0])
    down = filtering(name, height, upper, lower, size[1])
    # Pillow rounds to whole levels between both, so their order counts: this is its own.
    if height - size[1] > max(2 * (width - size[0]), 0):
        strips = [(start, 0, end, height) for start, end in strips_of(range(width), height)]
        made = [compiled.down(pixels_of(image, strip), down) for strip in strips]
        return compiled.across(joined(made, axis=1), across)
    first = int(down.first[0])
    used = range(first, int(down.first[-1]) + down.taps)
    strips = [(0, start, width, end) for start, end in strips_of(used, width)]
    made = [compiled.across(pixels_of(image, strip), across) for strip in strips]
    return compiled.down(joined(made, axis=0), down._replace(first=down.first - first))


def strips_of(lines: range, length: int) -> list[tuple[int, int]]:
    """First lines, and those after the last, of strips of some STRIP pixels, one line at least."""
    together = max(STRIP // length, 1)
    return [(first, min(first + together, lines.stop)) for first in lines[::together]]


def pixels_of(image: Image.Image, strip: tuple[int, int, int, int]) -> Pixels:
    """A copy of a strip's pixels."""
    return np.asarray(image if strip == (0, 0, *image.size) else image.crop(strip))


def joined(strips: list[Pixels], axis: int) -> Pixels:
    return strips[0] if len(strips) == 1 else np.concatenate(strips, axis)


class Filtering(NamedTuple):
    """How each of n new pixels along an axis is made of the same number of old ones."""

    first: NDArray[np.int32]
    """(n,), the first old one, rising"""
    weights: NDArray[np.int32]
    """(n, taps), in units of 1 / ONE"""

    @property
    def taps(self) -> int:
        return int(self.weights.shape[1])


@lru_cache(64)
def filtering(name: Filter, length: int, start: float, end: float, count: int) -> Filtering:
    """How `count` pixels are made of those between two edges, on an axis of so many. Pillow takes edges as float32.

    Raises ValueError where these are not in their order, or beyond the axis.
    """
    low, high = np.float32(start), np.float32(end)
    if not 0 <= low <= high <= length:
        raise ValueError(f"from {low} to {high} is not within {length} pixels.")
    scale = float(high - low) / count
    stretch = max(scale, 1.0)
    reach = REACH[name] * stretch
    centres = float(low) + (np.arange(count) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    places = first[:, None] + np.arange(ceil(reach) * 2 + 1)
    shares = SHAPES[name](np.abs((places - centres[:, None] + 0.5) * (1.0 / stretch)))
    shares[places >= last[:, None]] = 0.0
    shares /= np.add.accumulate(shares, axis=1)[:, -1:]
    whole = np.trunc(np.where(shares < 0, -0.5, 0.5) + shares * ONE).astype(np.int32)
    # All are made of as many as the one that needs most; where these would end beyond the axis, they begin earlier.
    taps = int((last - first).max())
    begin = np.minimum(first, length - taps)
    weights = np.zeros((count, taps), np.int32)
    rows, columns = np.nonzero(whole)
    weights[rows, columns + (first - begin)[rows]] = whole[rows, columns]
    return Filtering(begin.astype(np.int32), weights)


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of distances; Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.5."""
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 1, 1 - x, 0.0)


SHAPES = {"bicubic": bicubic, "bilinear": bilinear}
REACH = {"bicubic": 2.0, "bilinear": 1.0}
"""Old pixels on either side that have a weight, where there are no fewer new ones."""


class Library:
    """The compiled code."""

    def __init__(self, file: Path) -> None:
        loaded = ctypes.CDLL(str(file))
        array, number = ctypes.c_void_p, ctypes.c_int64
        self._across, self._down = loaded.across, loaded.down
        self._across.argtypes = [array, number, number, number, array, array, number, number, array]
        self._down.argtypes = [array, number, array, array, number, number, array]
        self._down.restype = None

    def across(self, pixels: Pixels, by: Filtering) -> Pixels:
        """With other columns."""
        height, width, *bands = pixels.shape
        made = np.empty((height, len(by.first), *bands), np.uint8)
        source = at(pixels), height, width, *(bands or [1])
        if self._across(*source, at(by.first), at(by.weights), *by.weights.shape, at(made)):
            raise MemoryError
        return made

    def down(self, pixels: Pixels, by: Filtering) -> Pixels:
        """With other rows."""
        made = np.empty((len(by.first), *pixels.shape[1:]), np.uint8)
        self._down(at(pixels), made[0].size, at(by.first), at(by.weights), *by.weights.shape, at(made))
        return made


def at(array: NDArray[np.generic]) -> int:
    """Where its numbers lie, one after another."""
    assert array.flags.c_contiguous
    return int(array.__array_interface__["data"][0])


@cache
def library() -> Library | None:
    """None where it was not compiled for this machine."""
    file = compiled_file()
    if not file.exists():
        return None
    try:
        return Library(file)
    except OSError as error:
        advice = f"Compile it again: {COMPILING}"
        warnings.warn(f"Pillow resamples, in the same bits, but it takes longer: {error}. {advice}", stacklevel=2)
        return None


def compiled_file() -> Path:
    """What `python -m fruitpipe.vision.compile` makes: of this source alone, for this kind of machine."""
    version = f"{crc32(SOURCE.read_bytes()):08x}"
    return SOURCE.with_name(f"resample-{sys.platform}-{platform.machine()}-{version}.so")
