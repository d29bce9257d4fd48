"""How many times smaller a large JPEG is decoded: its transform computes 1/2, 1/4 or 1/8 of the pixels right away.

Other formats are decoded whole. Means of their pixels, as Pillow's `reducing_gap` takes them, save a tenth of the time
and change features more.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from PIL import Image, JpegImagePlugin

from fruitpipe.config import ImageConfig
from fruitpipe.vision.preprocess import Box, density

ENOUGH = 5
"""Pixels, across and down, for each that the backbone sees: with as many, features change less than by saving the
photograph again as JPEG of quality 95 (`benchmarks/photographs.py --rule`)."""
SCALES = (8, 4, 2)


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


def scale_for(image: Image.Image, box: Box, side: int, rules: ImageConfig) -> int:
    """How many times smaller an image may be decoded of which this box is seen, 1 to decode it whole."""
    if rules.decode == "exact" or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    return next((scale for scale in SCALES if density(box, side, rules) >= ENOUGH * scale), 1)


def load(image: Image.Image, scale: int) -> Box:
    """Decode an image so many times smaller; the box that it fills, whose last pixels may be fractions."""
    width, height = image.size
    if scale > 1:
        image.draft(None, (width // scale, height // scale))
    image.load()  # raises for truncated files; PNG's EXIF is known only then
    return 0, 0, width / scale, height / scale
