"""Decode image files to pixels, or say why one cannot be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage, OutOfMemory
from fruitpipe.vision.colours import to_rgb
from fruitpipe.vision.formats import TIFF, largest, open_image, stated_size
from fruitpipe.vision.metadata import SWAPPED, turn, turned, without_metadata
from fruitpipe.vision.preprocess import preprocess
from fruitpipe.vision.scale import ENOUGH, Twin, load, scale_for, smallest_scaled

DECODE_RULES = 1
"""Version of the rules here and in `colours`: a change of what ordinary pictures give changes the features' identity.
One that mends pictures that came out wrong does not: it would make all others, and all models, useless."""
STEP_RULES = {"grey": 2, "decode": ENOUGH}
"""Versions of steps whose rules have changed: features of configs without them stay what they are."""
NO_MEMORY = ("Out of memory", "decoder error -9")
"""What libavif, and Pillow of other libraries, say where they get none."""

# `max_pixels` is checked before anything is decoded; Pillow's own limit would warn and raise beside it.
Image.MAX_IMAGE_PIXELS = None


class Look(NamedTuple):
    """How a backbone sees images."""

    side: int
    """of the square that it takes, pixels"""
    rules: ImageConfig


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

    Raises BadImage with status `undecodable` or `too_large`; `unreadable` where memory or a library is missing.
    """
    (picture,) = decode_for(data, [Look(side, rules)])
    return picture


def decode_for(data: bytes | memoryview, looks: Sequence[Look]) -> list[Picture]:
    """The pictures that `decode` gives for some looks, whose limits are the same. Raises BadImage as it does.

    What all of one scale have in common is done once: all but the steps of their rules.
    """
    if not data:
        raise BadImage("undecodable", "empty file")
    try:
        return read_pictures(largest(data), looks)
    except BadImage:
        raise
    except MemoryError:
        raise OutOfMemory from None
    except UnidentifiedImageError:
        known = "a TIFF that is damaged or has values of a kind that is not read"
        reason = known if data[:4] in TIFF else "not an image of a known format"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if any(words in reason for words in NO_MEMORY):
            raise OutOfMemory from None
        if "image file is truncated" in reason:
            raise BadImage("undecodable", reason) from error
    # Outside the handlers, whose exceptions hold what has been decoded.
    pixels_alone = without_metadata(data)
    if pixels_alone is None:
        raise BadImage("undecodable", reason)
    return decode_for(pixels_alone, looks)


def read_pictures(data: bytes | memoryview, looks: Sequence[Look]) -> list[Picture]:
    """Raises BadImage, and whatever Pillow does."""
    limits = looks[0].rules
    if stated := stated_size(data):
        check_size(*stated, limits)
    pictures: dict[int, Picture] = {}
    while len(pictures) < len(looks):
        with open_image(data) as image:
            width, height = image.size
            check_size(width, height, limits)
            scales = [scale_for(image, data, *look) for look in looks]
            scale = next(each for number, each in enumerate(scales) if number not in pictures)
            whole = load(image, scale)
            picture = to_rgb(image, data)
            if (upward := turn(image)) is not None:
                whole = turned(whole, picture.size, upward)
                picture = picture.transpose(upward)
                width, height = (height, width) if upward in SWAPPED else (width, height)
            for number, look in enumerate(looks):
                if scales[number] == scale:
                    pictures[number] = Picture(preprocess(picture, whole, *look), width, height)
    return [pictures[number] for number in range(len(looks))]


def features_digest(backbone_digest: str, image: ImageConfig, precision: str = "float32") -> str:
    """Identity of features: the network, its precision, and all that decides which pixels it sees.

    Steps that are not taken are left out, so that a new kind of step leaves the features of others as they are.
    """
    steps = [f"{name} {value} {STEP_RULES.get(name, '')}".rstrip() for name, value in image.steps_taken.items()]
    rules = [backbone_digest, f"decode {DECODE_RULES}", image.resample, *steps]
    rules += [precision] if precision != "float32" else []
    return hashlib.sha256("|".join(rules).encode()).hexdigest()


def twin_features(backbone_digest: str, image: ImageConfig, precision: str, side: int) -> Twin:
    """The features that the other value of `image.decode` gives."""
    other = image.model_copy(update={"decode": "exact" if image.decode == "scaled" else "scaled"})
    return Twin(features_digest(backbone_digest, other, precision), *smallest_scaled(side, image))


def check_size(width: int, height: int, rules: ImageConfig) -> None:
    if width * height > rules.max_pixels:
        raise BadImage("too_large", f"{width} x {height} pixels, more than image.max_pixels ({rules.max_pixels})")
    if max(width, height) > rules.max_aspect * max(min(width, height), 1):
        raise BadImage("too_large", f"{width} x {height} is beyond image.max_aspect ({rules.max_aspect:g})")
