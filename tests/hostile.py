"""A corpus of images that break naive pipelines, small and made on the spot."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64


def picture(width: int = SIDE, height: int = SIDE // 2) -> Image.Image:
    """A smooth RGB picture that looks different whichever way it is turned."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    blue = np.where((x < width / 2) & (y < height / 2), 200.0, 60.0)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    return encode(image or picture(), "JPEG", **({"quality": 95, "subsampling": 0} | options))


def png(image: Image.Image | None = None, **options: object) -> bytes:
    return encode(image or picture(), "PNG", **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int = 50_000) -> bytes:
    """Less than a kilobyte that claims to be 2.5 thousand million pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(side))) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    """A GIF whose screen is one pixel and whose only frame is 60,000 pixels square."""
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 60_000, 60_000, 0)
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame + b"\x02\x02\x44\x01\x00\x3b"


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def turned(orientation: int) -> bytes:
    """The picture stored so that only with this EXIF orientation it is seen upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture()
    stored = image.transpose(undo[orientation]) if orientation in undo else image
    return jpeg(stored, exif=exif(orientation))


def grey16() -> Image.Image:
    """0 to 65535 from left to right."""
    row = np.linspace(0, 65535, SIDE).astype(np.uint16)
    return Image.fromarray(np.tile(row, (SIDE // 2, 1)))


def half_clear(mode: str) -> Image.Image:
    """Black, opaque on the left and transparent on the right."""
    alpha = np.zeros((SIDE // 2, SIDE), np.uint8)
    alpha[:, : SIDE // 2] = 255
    image = Image.new("RGBA", (SIDE, SIDE // 2), "black")
    image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


def palette_with_transparency() -> bytes:
    """Black on the left; on the right an index that is black, too, but transparent."""
    image = Image.new("P", (SIDE, SIDE // 2), 0)
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.paste(1, (SIDE // 2, 0, SIDE, SIDE // 2))
    return png(image, transparency=1)


def animation(kind: str) -> bytes:
    """A red frame, then a blue one."""
    first, second = (Image.new("RGB", (SIDE, SIDE // 2), colour) for colour in ("red", "blue"))
    return encode(
        first,
        kind,
        save_all=True,
        append_images=[second],
        duration=100,
        loop=0,
        **({"lossless": True} if kind == "WEBP" else {}),
    )


def phone() -> bytes:
    """Two JPEGs in one file, as phones write them under the name .jpg."""
    return encode(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE // 2), "blue")])


def float_tiff() -> bytes:
    return encode(Image.fromarray(np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)), "TIFF")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty.jpg": ("undecodable", lambda: b""),
    "truncated.jpg": ("undecodable", lambda: half(jpeg())),
    "truncated.png": ("undecodable", lambda: half(png())),
    "random.jpg": ("undecodable", lambda: np.random.default_rng(0).bytes(4096)),
    "text.png": ("undecodable", lambda: b"<html>404 Not Found</html>"),
    "float.tiff": ("undecodable", float_tiff),
    "bomb.png": ("too_large", png_bomb),
    "bomb.gif": ("too_large", gif_bomb),
    "thread.png": ("too_large", lambda: png(picture(20_000, 1))),
    "png named.jpg": ("ok", png),
    "phone.jpg": ("ok", phone),
    "cmyk.jpg": ("ok", lambda: jpeg(picture().convert("CMYK"))),
    "grey.jpg": ("ok", lambda: jpeg(picture().convert("L"))),
    "grey16.png": ("ok", lambda: png(grey16())),
    "bits.png": ("ok", lambda: png(picture().convert("1"))),
    "palette.png": ("ok", palette_with_transparency),
    "rgba.png": ("ok", lambda: png(half_clear("RGBA"))),
    "la.png": ("ok", lambda: png(half_clear("LA"))),
    "animated.gif": ("ok", lambda: animation("GIF")),
    "animated.webp": ("ok", lambda: animation("WEBP")),
    "pixel.png": ("ok", lambda: png(picture(1, 1))),
    "turned.jpg": ("ok", lambda: turned(6)),
    "upper case.JPG": ("ok", jpeg),
    "naïve 🍎 #1 100% <&>.jpg": ("ok", jpeg),
    "two\nlines.jpg": ("ok", jpeg),
    "-rf.jpg": ("ok", jpeg),
}
"""By file name: the status that it must come out with, and what makes its bytes."""


def make(folder: Path) -> dict[str, str]:
    """Write the corpus to a folder; return the status that each file name must come out with."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, content) in CASES.items():
        (folder / name).write_bytes(content())
    return {name: status for name, (status, _) in CASES.items()}


if __name__ == "__main__":
    print(f"{len(make(Path(sys.argv[1])))} images in {sys.argv[1]}")
