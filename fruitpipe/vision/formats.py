"""Formats of image files. The bytes decide which one a file has; how its name ends is a hint for listing folders."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from PIL import AvifImagePlugin, Image
from PIL.IcoImagePlugin import IcoFile, IconHeader

from fruitpipe.vision import jpeg_xl
from fruitpipe.vision.bad_image import BadImage

EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".avif", ".heic", ".heif", ".hif", ".jxl", ".ico",
})  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""that Pillow opens by itself; a JPEG with several pictures (MPO) is one"""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICON = b"\0\0\1\0"
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
HEVC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
"""Brands of an HEIF file whose pictures are coded by HEVC, as phones do."""
AV1 = frozenset({b"avif", b"avis"})
LONGEST_BRANDS = 256
LARGEST_ICON = 256
"""pixels a side"""

# As many workers as cores decode at once.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@cache
def heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, decode_threads=1)


def jxl() -> None:
    from pillow_jxl import JpegXLImagePlugin

    JpegXLImagePlugin.DECODE_THREADS = 0


class Library(NamedTuple):
    """What opens a format that Pillow by itself does not."""

    format: str
    """its name for Pillow"""
    shown: str
    """its name for people"""
    register: Callable[[], None]
    """makes it known to Pillow; raises ModuleNotFoundError where it is not installed"""
    extra: str
    """of fruitpipe, that installs it"""


HEIF = Library("HEIF", "HEIC", heif, "heif")
JXL = Library("JXL", "JPEG XL", jxl, "jxl")


def open_image(data: bytes | memoryview) -> Image.Image:
    """An image of any format, not decoded yet, but for JPEG XL and icons, whose sizes are known before.

    Raises BadImage, and whatever Pillow does.
    """
    if data[: len(ICON)] == ICON:
        return open_icon(data)
    library = library_of(data)
    if library is None:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    try:
        library.register()
    except ModuleNotFoundError:
        how = f"pip install 'fruitpipe[{library.extra}]'"
        raise BadImage("unreadable", f"{library.shown} needs a library: {how}") from None
    except ImportError as error:
        raise BadImage("unreadable", f"the library for {library.shown} does not load: {error}") from None
    try:
        image = Image.open(io.BytesIO(data), formats=(library.format,))
    except RuntimeError as error:  # JPEG XL's, which says the same of whatever is wrong
        raise BadImage("undecodable", "damaged, or it takes more memory than image.max_memory") from error
    if library is JXL and image.mode == "LA" and len(image._data) > 2 * image.width * image.height:  # type: ignore[attr-defined]
        raise BadImage("undecodable", "grey with alpha of 16 bits, which the library for JPEG XL takes for 8")
    return image


def library_of(data: bytes | memoryview) -> Library | None:
    """What opens these bytes; None where Pillow itself does, or nothing."""
    if data[4:8] == b"ftyp":
        (length,) = struct.unpack_from(">I", data)
        brands = bytes(data[8 : min(length, LONGEST_BRANDS)])
        found = {brands[at : at + 4] for at in range(0, len(brands), 4)}
        return HEIF if found & HEVC and not found & AV1 else None
    return JXL if data[:2] == jpeg_xl.CODESTREAM or data[: len(jpeg_xl.CONTAINER)] == jpeg_xl.CONTAINER else None


def stated_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height of an image that is decoded on opening it; None for all others.

    Raises BadImage where it has none, or is an animation.
    """
    return jpeg_xl.stated_size(data) if library_of(data) is JXL else None


def largest(data: bytes | memoryview) -> bytes | memoryview:
    """Of an icon, its largest picture where that is a PNG, a file like any other; all else as it is.

    Raises BadImage for an icon without pictures.
    """
    if data[: len(ICON)] != ICON:
        return data
    entry = largest_entry(IcoFile(io.BytesIO(data)))
    picture = data[entry.offset : entry.offset + entry.size]
    return picture if picture[: len(PNG)] == PNG else data


def open_icon(data: bytes | memoryview) -> Image.Image:
    """The largest picture of an icon, which is a bitmap; transparent by its alpha or, where that is 0, by its mask.

    Raises BadImage where it is larger than an icon can be, and whatever Pillow does.
    """
    icon = IcoFile(io.BytesIO(data))
    entry = largest_entry(icon)
    width, twice_the_height, _, bits = struct.unpack_from("<iiHH", data, entry.offset + 4)
    if max(abs(width), abs(twice_the_height) // 2) > LARGEST_ICON:
        raise BadImage("too_large", f"an icon of {abs(width)} x {abs(twice_the_height) // 2}, larger than icons can be")
    icon.entry[0] = entry._replace(bpp=bits)  # which the entry often leaves at 0
    image = icon.frame(0)
    if bits == 32 and image.getchannel("A").getextrema() == (0, 0):
        icon.entry[0] = entry._replace(bpp=24)  # for Pillow, one with a mask
        image = icon.frame(0)
    return image


def largest_entry(icon: IcoFile) -> IconHeader:
    if not icon.entry:
        raise BadImage("undecodable", "an icon without pictures")
    return icon.entry[0]
