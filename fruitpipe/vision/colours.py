"""What the values of a decoded picture mean: the RGB that a viewer shows.

Pillow's mode says how values lie in memory. Where it does not say what they mean, the container does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, PngImagePlugin, TiffImagePlugin

from fruitpipe.vision.bad_image import BadImage

BITS, COMPRESSION, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 259, 262, 284, 339
"""Tags of a TIFF."""
UNCOMPRESSED = (1,)
WHITE_IS_ZERO = (0,)
SEPARATE = (2,)
SIGNED = 2
STRIP = 1 << 17
"""Pixels that are converted at once."""
PNG_DEPTH = 24
"""Where the header of a PNG says how many bits a sample has."""


def to_rgb(image: Image.Image, data: bytes | memoryview) -> Image.Image:
    """An RGB picture. Transparent pixels show white, values of more than 8 bits are scaled, profiles are passed over.

    data: the file that the picture was decoded from.

    Raises BadImage for values that no container says how to show.
    """
    if image.mode == "F":
        raise BadImage("undecodable", "floating-point pixels have no defined range")
    match image:
        case TiffImagePlugin.TiffImageFile():
            require_known_values(image)
        case BmpImagePlugin.BmpImageFile() if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            return image.convert("RGB")  # what wrote it left the fourth byte of pixels at 0 and meant nothing by it
        case PngImagePlugin.PngImageFile() if image.mode in ("L", "RGB") and "transparency" in image.info:
            scale_transparency(image, depth=data[PNG_DEPTH])
        case GifImagePlugin.GifImageFile() if "transparency" not in image.info:
            return on_canvas(image)
    if image.mode.startswith("I"):
        return deep_grey(image)
    if image.has_transparency_data:
        return in_strips(image, on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def require_known_values(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise BadImage for a TIFF whose values Pillow takes for others."""
    if SIGNED in tag(image, SAMPLE_FORMAT) and 32 not in tag(image, BITS):
        raise BadImage("undecodable", "signed values of 8 or 16 bits have no defined range")
    if tag(image, PLANES) == SEPARATE and 16 in tag(image, BITS) and tag(image, COMPRESSION) == UNCOMPRESSED:
        raise BadImage("undecodable", "separate planes of 16 bits can be read only where they are compressed")


def deep_grey(image: Image.Image) -> Image.Image:
    """Of one channel of 12 or 16 bits; 32 bits, signed or not, are taken as 16 where all values fit."""
    white, white_is_zero, clear = 0xFFFF, False, image.info.get("transparency")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = 0xFFF if tag(image, BITS) == (12,) else white
        white_is_zero = tag(image, PHOTOMETRIC) == WHITE_IS_ZERO

    def shown(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        if values.min() < 0 or values.max() > white:
            raise BadImage("undecodable", f"pixel values of {values.min()} to {values.max()} do not fit 16 bits")
        levels = (values / (white / 255) + 0.5).astype(np.uint8)
        if white_is_zero:
            levels = 255 - levels
        levels[values == clear] = 255
        return Image.fromarray(levels).convert("RGB")

    return in_strips(image, shown)


def scale_transparency(image: Image.Image, depth: int) -> None:
    """Give the transparent colour of a PNG 8 bits, as its pixels have: Pillow leaves it as the file has it."""
    clear = image.info["transparency"]
    if depth > 8:
        raise BadImage("undecodable", "a transparent colour of 16 bits cannot be told from its neighbours in 8")
    image.info["transparency"] = clear * 255 // (2**depth - 1) if isinstance(clear, int) else clear


def on_white(image: Image.Image) -> Image.Image:
    """What shows in front of white."""
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow knows no shorter way
    see_through = straight.convert("RGBA")
    white = Image.new("RGBA", see_through.size, "white")
    return Image.alpha_composite(white, see_through).convert("RGB")


def on_canvas(image: GifImagePlugin.GifImageFile) -> Image.Image:
    """The first frame of a GIF, white around it: where nothing is, Pillow leaves the first colour of the palette."""
    frame, whole = image.dispose_extent, (0, 0, *image.size)
    if frame is None or frame == whole:
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.crop(frame).convert("RGB"), frame)
    return canvas


def in_strips(image: Image.Image, converted: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB picture, converted some rows at a time: what lies between needs no memory for all of them."""
    rows = max(STRIP // image.width, 1)
    if rows >= image.height:
        return converted(image)
    whole = Image.new("RGB", image.size)
    for upper in range(0, image.height, rows):
        strip = (0, upper, image.width, min(upper + rows, image.height))
        whole.paste(converted(image.crop(strip)), strip)
    return whole


def tag(image: TiffImagePlugin.TiffImageFile, number: int) -> tuple[int, ...]:
    """The values of a tag, () where there is none."""
    values = image.tag_v2.get(number, ())
    return values if isinstance(values, tuple) else (values,)
