"""What is done to a picture before a network sees it, in a fixed order: trim, crop, grey, resize, denoise, equalise,
contrast.

The first two only move a box over the picture, and one resampling of that box is the fourth: no colours are copied at
full size. Grey comes before that, a byte for each pixel, as one channel is resampled faster than three. The others see
side x side pixels, so their cost does not depend on the picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageOps

from fruitpipe.config import ImageConfig
from fruitpipe.vision.resampling import Box, Pixels, resample

TOLERANCE = 24
"""Levels of 255 by which a channel of the background may differ: more than JPEG's noise on it, less than a shadow."""
SKETCH = 256
"""Pixels a side, or up to twice as many, on which the background is looked for; of larger pictures they are means,
in which noise and dust disappear."""
CENTRE = 224 / 256
CUTOFF = 0.5
"""Percent of the darkest and of the brightest pixels that a stretch of the contrast passes over."""
TILES, LIMIT = 8, 2.0
"""Of adaptive equalisation (Zuiderveld, 1994): tiles a side, and how many times the mean a level may count."""


def density(box: Box, side: int, rules: ImageConfig) -> float:
    """Pixels of a box for each that the backbone sees, across or down, where they are fewer."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (max(width, height) if rules.resize == "pad" else min(width, height)) / side


def preprocess(image: Image.Image, whole: Box, side: int, rules: ImageConfig) -> Pixels:
    """An RGB picture of any size as the backbone is to see it, (side, side, 3), which may not be written to.

    What is grey is one channel in memory, seen three times.

    whole: the box that the picture fills, whose edges may be fractions.
    """
    box = cropped(trimmed(image) if rules.background == "trim" else whole, rules)
    pixels = resized(image.convert("L") if rules.grey else image, box, side, rules)
    if rules.denoise:
        from fruitpipe.vision.opencv import cv2

        pixels = np.asarray(cv2.medianBlur(pixels, 3), np.uint8)
    if rules.equalise != "none":
        pixels = np.asarray(equalised(Image.fromarray(pixels), adaptive=rules.equalise == "adaptive"))
    if rules.contrast:
        pixels = np.asarray(ImageOps.autocontrast(Image.fromarray(pixels), CUTOFF, preserve_tone=True))
    pixels.flags.writeable = False
    return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., np.newaxis], (*pixels.shape, 3))


def cropped(box: Box, rules: ImageConfig) -> Box:
    """What cropping leaves of a box."""
    return central(box, CENTRE * (box[2] - box[0]), CENTRE * (box[3] - box[1])) if rules.crop == "centre" else box


def factors(image: Image.Image) -> tuple[int, int]:
    """How many times smaller, across and down, a picture is when its background is looked for."""
    return max(image.width // SKETCH, 1), max(image.height // SKETCH, 1)


def background(small: Image.Image) -> tuple[int, ...]:
    """Levels of the background: the median of the four corners, so that one of them may show something else."""
    corners = np.asarray(small)[np.ix_([0, -1], [0, -1])]
    return tuple(int(level) for level in np.atleast_1d(np.median(corners, axis=(0, 1))))


def trimmed(image: Image.Image) -> Box:
    """The box of all that differs from the background, to 1/256 of a side; the whole picture if nothing does."""
    across, down = factors(image)
    small = image.reduce((across, down))
    beyond = ImageChops.difference(small, Image.new("RGB", small.size, background(small)))
    box = beyond.point(3 * [level > TOLERANCE for level in range(256)]).getbbox()
    if box is None:
        return (0, 0, *image.size)
    return box[0] * across, box[1] * down, min(box[2] * across, image.width), min(box[3] * down, image.height)


def central(box: Box, width: float, height: float) -> Box:
    """The box of this size in the middle of another."""
    left, upper = (box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2
    return left, upper, left + width, upper + height


def resized(image: Image.Image, box: Box, side: int, rules: ImageConfig) -> Pixels:
    """A box of an RGB or L picture as side x side pixels."""
    width, height = box[2] - box[0], box[3] - box[1]
    match rules.resize:
        case "stretch":
            return resample(image, (side, side), rules.resample, box)
        case "crop":
            short = min(width, height)
            return resample(image, (side, side), rules.resample, central(box, short, short))
        case "pad":
            scale = side / max(width, height)
            across, down = max(round(width * scale), 1), max(round(height * scale), 1)
            square = np.array(Image.new(image.mode, (side, side), background(image.reduce(factors(image)))))
            left, upper = (side - across) // 2, (side - down) // 2
            square[upper : upper + down, left : left + across] = resample(image, (across, down), rules.resample, box)
            return square


def equalised(image: Image.Image, adaptive: bool) -> Image.Image:
    """Luminance with a flat histogram, of the whole or tile by tile; colours (Cb and Cr) as they were."""
    luminance, *colours = image.convert("YCbCr").split() if image.mode == "RGB" else [image]
    if adaptive:
        from fruitpipe.vision.opencv import cv2

        even = Image.fromarray(cv2.createCLAHE(LIMIT, (TILES, TILES)).apply(np.asarray(luminance)))
    else:
        even = ImageOps.equalize(luminance)
    return Image.merge("YCbCr", (even, *colours)).convert("RGB") if colours else even
