"""Pictures that take much memory or time to decode, made on the spot."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import hostile
import numpy as np
from hostile import encode
from PIL import Image


def noise(mode: str, width: int, height: int) -> Image.Image:
    small = Image.effect_noise((64, 64), 80).resize((width, height), Image.Resampling.NEAREST)
    return Image.merge(mode, [small] * len(mode)) if mode in ("LA", "RGB", "RGBA") else small.convert(mode)


def deep(side: int) -> Image.Image:
    return Image.fromarray(np.asarray(noise("L", side, side)).astype(np.uint16) * 256)


def with_scans(count: int) -> bytes:
    """A progressive JPEG of 1,000 x 1,000 pixels whose last scan, a few bytes, comes again and again."""
    data = hostile.jpeg(Image.new("L", (1000, 1000)), progressive=True)
    last = data.rindex(b"\xff\xda")
    scans = data.count(b"\xff\xda")
    return data[:-2] + (count - scans) * data[last:-2] + data[-2:]


def huge_tile(side: int = 16384) -> bytes:
    """A TIFF of 64 x 64 pixels, in one tile of so many (TIFF 6.0, section 15)."""
    tile = zlib.compress(bytes(1 << 16))
    tags = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 0), (325, 0)]
    start = 8 + 2 + 12 * len(tags) + 4
    values = {324: start, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, values.get(tag, value)) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def exif_bomb(size: int = 60_000) -> bytes:
    """An EXIF block each of whose entries says that all of the block is its value."""
    count = (size - 14) // 12
    entries = b"".join(struct.pack("<HHII", 0x8000 + tag, 7, size - 8, 8) for tag in range(count))
    block = b"II*\0" + struct.pack("<IH", 8, count) + entries
    return b"Exif\0\0" + block + bytes(size - len(block))


LARGE: dict[str, Callable[[int], bytes]] = {
    "JPEG, progressive": lambda side: hostile.jpeg(noise("RGB", side, side), progressive=True),
    "JPEG, CMYK, progressive": lambda side: hostile.jpeg(noise("CMYK", side, side), progressive=True),
    "PNG": lambda side: hostile.png(noise("RGB", side, side), compress_level=1),
    "PNG with alpha": lambda side: hostile.png(noise("RGBA", side, side), compress_level=1),
    "PNG, grey with alpha": lambda side: hostile.png(noise("LA", side, side), compress_level=1),
    "PNG, palette with alpha": lambda side: hostile.png(noise("P", side, side), transparency=bytes(range(256))),
    "PNG, 16 bits": lambda side: hostile.png(deep(side), compress_level=1),
    "BMP": lambda side: encode(noise("RGB", side, side), "BMP"),
    "GIF": lambda side: encode(noise("P", side, side), "GIF"),
    "WebP": lambda side: encode(Image.new("RGB", (side, side)), "WEBP", lossless=True),
    "AVIF": lambda side: encode(noise("RGB", side, side), "AVIF", speed=10),
    "TIFF, CMYK": lambda side: encode(noise("CMYK", side, side), "TIFF", compression="tiff_lzw"),
    "TIFF, 16 bits": lambda side: encode(deep(side), "TIFF", compression="tiff_lzw"),
}
"""Pictures of so many pixels a side, none of which is decoded smaller."""
