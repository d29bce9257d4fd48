"""How many times smaller a large JPEG is decoded: its transform computes 1/2, 1/4 or 1/8 of the pixels right away.

Other formats are decoded whole. Means of their pixels, as Pillow's `reducing_gap` takes them, save a quarter of the
time or less, and change features more (`benchmarks/photographs.py --parts` and `--rule`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from PIL import Image, JpegImagePlugin

from fruitpipe.config import ImageConfig
from fruitpipe.vision.metadata import jpeg_segments
from fruitpipe.vision.preprocess import cropped, density
from fruitpipe.vision.resampling import Box

ENOUGH = 5
"""Pixels, across and down, for each that the backbone sees: with as many, features change less than by saving the
photograph again as JPEG of quality 95 (`benchmarks/photographs.py --rule`)."""
SCALES = (8, 4, 2)
LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
"""Markers of frames that are coded without a transform (ITU-T T.81, table B.1)."""


class Twin(NamedTuple):
    """Features of the same images under the other value of `image.decode`: those of small images are the same."""

    digest: str
    side: Literal["shorter", "longer"]
    """of an image, that decides"""
    below: int
    """pixels of that side with which an image is decoded whole either way"""


def smallest_scaled(side: int, rules: ImageConfig) -> tuple[Literal["shorter", "longer"], int]:
    """Which side of an image decides whether it may be decoded smaller, and from how many pixels on."""
    return "longer" if rules.resize == "pad" else "shorter", SCALES[-1] * ENOUGH * side


def scale_for(image: Image.Image, data: bytes | memoryview, side: int, rules: ImageConfig) -> int:
    """How many times smaller an image is decoded, 1 for whole.

    data: the file that was opened.
    """
    if not rules.scales or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    scale = scale_of(*image.size, side, rules)
    return scale if scale > 1 and can_be_scaled(image, data) else 1


def scale_of(width: int, height: int, side: int, rules: ImageConfig) -> int:
    """The same of a JPEG that can be decoded smaller, by its size in pixels."""
    if not rules.scales:
        return 1
    seen = density(cropped((0, 0, width, height), rules), side, rules)
    return next((scale for scale in SCALES if seen >= ENOUGH * scale), 1)


def can_be_scaled(image: JpegImagePlugin.JpegImageFile, data: bytes | memoryview) -> bool:
    """Not a JPEG without a transform, or with a colour for four pixels in a row, which is enlarged less than usual."""
    coarsest = max(max(across, down) for _, across, down, _ in image.layer)
    return coarsest <= 2 and not any(marker in LOSSLESS for marker, _ in jpeg_segments(data))


def load(image: Image.Image, scale: int) -> Box:
    """Decode an image so many times smaller; the box that it fills, whose last pixels may be fractions."""
    box: Box = (0, 0, *image.size)
    if scale > 1:
        width, height = image.size
        drafted = image.draft(None, (max(width // scale, 1), max(height // scale, 1)))
        box = drafted[1] if drafted else box
    image.load()  # raises for truncated files; PNG's EXIF is known only then
    return box
