"""Thumbnails: images as their backbone sees them, small, upright, in their own proportions, many in one WebP.

A sheet is a square of square cells, filled row by row, an image in the upper left of each.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin  # noqa: F401 - or the first one saved would have Pillow load all its formats

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.cost import webp_size
from fruitpipe.vision.decode import Picture
from fruitpipe.vision.decoder import decode_within_limits

Cells = NDArray[np.uint8]
"""Shape (n, side, side, 3), RGB."""


MEMORY = 32
"""Bytes for each pixel of a sheet that is decoded: of Pillow, libwebp, and the file."""


class Shape(NamedTuple):
    """Size of a thumbnail in its cell, pixels."""

    width: int
    height: int


def shape_of(width: int, height: int, side: int, rules: ImageConfig) -> Shape:
    """The shape of a thumbnail, by the image's size as seen: square, where the backbone sees a part of it or more."""
    if rules.resize != "stretch" or rules.background == "trim":
        return Shape(side, side)
    scale = side / max(width, height)
    return Shape(max(round(width * scale), 1), max(round(height * scale), 1))


def thumbnail(picture: Picture, side: int, rules: ImageConfig) -> Image.Image:
    """What a backbone sees, small: means of some pixels, and then the exact size."""
    shape = shape_of(picture.width, picture.height, side, rules)
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    return image.resize(shape, Image.Resampling.BILINEAR, reducing_gap=1)


class Sheet:
    """Thumbnails of some images."""

    def __init__(self, count: int, side: int) -> None:
        self.side = side
        self.across = across(count)
        self._picture = Image.new("RGB", 2 * (self.across * side,), "white")

    def place(self, number: int, picture: Image.Image) -> None:
        """Put a thumbnail into a cell."""
        down, right = divmod(number, self.across)
        self._picture.paste(picture, (right * self.side, down * self.side))

    def encoded(self, quality: int = 75, method: int = 0) -> bytes:
        """As a WebP. method: from 0, fast, to 6, small."""
        sink = io.BytesIO()
        self._picture.save(sink, "WEBP", quality=quality, method=method)
        return sink.getvalue()


def across(count: int) -> int:
    """Cells in a row, and in a column, of a sheet with so many."""
    return math.isqrt(max(count, 1) - 1) + 1


def cells(data: bytes, count: int, side: int) -> Cells:
    """The cells of a sheet that somebody may have made, decoded within limits.

    Raises BadImage where it is no WebP of the size that so many cells have.
    """
    number = across(count)
    whole = number * side
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or webp_size(data) != (whole, whole):
        raise BadImage("undecodable", f"not a WebP of {whole} x {whole} pixels")
    rules = ImageConfig(decode="exact", max_pixels=whole**2, max_memory=max(MEMORY * whole**2, 64 << 20))
    pixels = decode_within_limits(data, whole, rules).pixels
    found = pixels.reshape(number, side, number, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    return found[:count]
