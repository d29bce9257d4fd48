"""Decode image files to pixels, or say why one cannot be decoded."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fruitpipe.config import ImageConfig
from fruitpipe.vision.preprocess import preprocess

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DECODE_RULES = 1
"""Version of the rules here and in `steps`: a change of what they give for any image changes the features' identity."""
STEP_RULES = {"grey": 2}
"""Versions of steps whose rules have changed: features of configs without them stay what they are."""
ORIENTATION = 0x0112

OK = "ok"
TRANSIENT = ("missing", "forbidden", "unreadable", "changed")
"""Statuses of images whose bytes could not be had; another time they may."""
PERMANENT = ("undecodable", "too_large", "rejected")
"""Statuses of images that stay bad until their bytes or the config change; `rejected` by the backbone."""

# `max_pixels` is checked before anything is decoded; Pillow's own limit would warn and raise beside it.
Image.MAX_IMAGE_PIXELS = None


class BadImage(Exception):
    """Raised for an image that cannot become a feature, with a status of TRANSIENT or PERMANENT."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: NDArray[np.uint8]
    """RGB, shape (side, side, 3)"""
    width: int
    """of the original as seen, after its EXIF orientation, pixels"""
    height: int


def decode(data: bytes | memoryview, side: int, rules: ImageConfig) -> Picture:
    """Decode, orient, make RGB, and take the steps of `rules` to side x side.

    The first frame of an animation counts. Transparent pixels show white. Values of 16 bits are scaled to 8.

    Raises BadImage with status `undecodable` or `too_large`.
    """
    if not data:
        raise BadImage("undecodable", "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size, rules)
            oriented = orient(image)
            return Picture(preprocess(to_rgb(oriented), side, rules), *oriented.size)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("unreadable", "not enough memory to decode it") from None
    except UnidentifiedImageError:
        raise BadImage("undecodable", "not an image of a known format") from None
    except Exception as error:
        raise BadImage("undecodable", f"{type(error).__name__}: {error}") from error


def features_digest(backbone_digest: str, image: ImageConfig, precision: str = "float32") -> str:
    """Identity of features: the network, its precision, and all that decides which pixels it sees.

    Steps that are not taken are left out, so that a new kind of step leaves the features of others as they are.
    """
    steps = [f"{name} {value} {STEP_RULES.get(name, '')}".rstrip() for name, value in image.non_default_steps.items()]
    rules = [backbone_digest, f"decode {DECODE_RULES}", image.resample, *steps]
    rules += [precision] if precision != "float32" else []
    return hashlib.sha256("|".join(rules).encode()).hexdigest()


def check_size(width: int, height: int, rules: ImageConfig) -> None:
    if width * height > rules.max_pixels:
        raise BadImage("too_large", f"{width} x {height} pixels, more than image.max_pixels ({rules.max_pixels})")
    if max(width, height) > rules.max_aspect * max(min(width, height), 1):
        raise BadImage("too_large", f"{width} x {height} is beyond image.max_aspect ({rules.max_aspect:g})")


def orient(image: Image.Image) -> Image.Image:
    """Decode, and apply the EXIF orientation where there is one."""
    image.load()  # raises for truncated files; PNG's EXIF is known only then
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage("undecodable", f"pixel values of {values.min()} to {values.max()} do not fit 16 bits")
        return Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("undecodable", "floating-point pixels have no defined range")
    if image.has_transparency_data:
        see_through = image.convert("RGBA")
        white = Image.new("RGBA", see_through.size, "white")
        return Image.alpha_composite(white, see_through).convert("RGB")
    return image.convert("RGB")
