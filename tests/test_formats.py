"""Formats that phones and the web give, by their bytes whatever their names are."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile
import imagecodecs
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - Pillow writes the format once this is imported
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fruitpipe.config import ImageConfig
from fruitpipe.vision import jpeg_xl
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode
from fruitpipe.vision.metadata import TURNS

pillow_heif.register_heif_opener()

RULES = ImageConfig()
LOSSY: dict[str, Any] = {"quality": 95}
LOSSLESS: dict[str, Any] = {"lossless": True}
KINDS = {"AVIF": LOSSY, "HEIF": LOSSY, "WEBP": LOSSLESS}
TURNED_BY_CJXL = base64.b64decode(
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAEOanhsY/8KD4YFEopLAgASiAIA2ANd5RIAABUqo4wbvJzr+fJDh8W0"
    "jesMbbVtYQlj4hlgYYICuCPGxtgYRscYVBxcAyHcSEagtAdg78ODZymy74XueEe0C8J99N+0Diu2EG1usTRdqur8q/MxWHX2+bbs"
    "hcOZJkeQBrkFBOXKD3oIhjqYgkUhZxOymg+H3BLIk0SgTFAyZkx0GEVXuwgxJAD7FQCF7eooMBgcMEZCDBq8lHqeLQRwzU0Adjy2"
    "bpl2xS+cYgcQP9kWYlzRMHr19RuuukHAfuAg6g4ZoOkBU82icF8KURCIKDER9CMibtoPutDS4ZUM+S2q6aoahAWmn9AsAuRNH9IB"
    "EEI="
)
"""`hostile.turned(6)` through `cjxl --lossless_jpeg=0 -d 1`: what turns it is in the codestream."""


def pixels(data: bytes) -> NDArray[np.int16]:
    return decode(data, 32, RULES).pixels.astype(np.int16)


UPRIGHT = pixels(hostile.png())


def stored(orientation: int) -> Image.Image:
    """The picture as it lies in a file that is turned like this."""
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    return (
        hostile.picture().transpose(undo.get(orientation, TURNS.get(orientation)))
        if orientation > 1
        else hostile.picture()
    )


def icon(*pictures: bytes, side: int = 0, bits: int = 32) -> bytes:
    """An icon of PNGs or of bitmaps without their file headers.

    side, bits: what is said of each; a side of 0 says 256.
    """
    at = 6 + 16 * len(pictures)
    entries = b""
    for picture in pictures:
        entries += struct.pack("<BBBBHHII", side, side, 0, 0, 1, bits, len(picture), at)
        at += len(picture)
    return struct.pack("<HHH", 0, 1, len(pictures)) + entries + b"".join(pictures)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_seen_upright_in_every_format(kind: str, orientation: int) -> None:
    data = hostile.encode(stored(orientation), kind, exif=hostile.exif(orientation), **KINDS[kind])
    picture = decode(data, 32, RULES)
    assert np.abs(picture.pixels - UPRIGHT).mean() < 3
    assert (picture.width, picture.height) == hostile.picture().size


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize("exif", [b"", box(b"Exif", bytes(4) + hostile.exif(6).removeprefix(b"Exif\0\0"))])
def test_jpeg_xl_is_turned_by_its_header_alone(exif: bytes) -> None:
    at = TURNED_BY_CJXL.index(b"jxlc")
    data = TURNED_BY_CJXL[: at - 4] + exif + TURNED_BY_CJXL[at - 4 :]
    assert np.abs(pixels(data) - UPRIGHT).mean() < 3
    plain = hostile.encode(hostile.picture(), "JXL", exif=hostile.exif(6), **LOSSLESS)
    assert np.array_equal(pixels(plain), UPRIGHT), "EXIF says so, too, and is passed over as the format has it"


def test_a_jpeg_within_jpeg_xl_is_turned_by_its_exif() -> None:
    assert np.array_equal(pixels(imagecodecs.jpegxl_encode_jpeg(hostile.turned(6))), pixels(hostile.turned(6)))


@pytest.mark.parametrize("kind", ["PNG", "AVIF", "HEIF", "JXL"])
def test_transparent_pixels_show_white(kind: str) -> None:
    see_through = hostile.picture().convert("RGBA")
    see_through.paste((0, 0, 0, 0), (0, 0, 32, 32))
    found = pixels(hostile.encode(see_through, kind, **({"JXL": LOSSLESS} | KINDS).get(kind, {})))
    assert found[4:-4, 2:14].min() > 250
    assert np.abs(found[:, 18:] - UPRIGHT[:, 18:]).mean() < 3


def test_an_mpo_is_its_first_picture() -> None:
    sink = io.BytesIO()
    other = hostile.picture().transpose(Image.Transpose.ROTATE_180)
    hostile.picture().save(sink, "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    assert np.array_equal(pixels(sink.getvalue()), pixels(hostile.jpeg()))


@pytest.mark.parametrize("bitmap", ["png", "bmp"])
def test_an_icon_is_its_largest_picture(bitmap: str) -> None:
    square = hostile.picture(64, 64)
    data = hostile.encode(square, "ICO", sizes=[(16, 16), (64, 64), (32, 32)], bitmap_format=bitmap)
    picture = decode(data, 32, RULES)
    assert (picture.width, picture.height) == (64, 64)
    assert np.array_equal(picture.pixels.astype(np.int16), pixels(hostile.png(square)))


def test_the_picture_of_an_icon_may_be_larger_than_it_says() -> None:
    data = icon(hostile.png(hostile.picture(600, 300)), side=32)
    assert (decode(data, 32, RULES).width, decode(data, 32, RULES).height) == (600, 300)


def dib(pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> bytes:
    """A bitmap as icons hold it, of shape (height, width, 3 or 4), the first row at the top.

    mask: what is transparent, shape (height, width).
    """
    height, width, channels = pixels.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 8 * channels, 0, 0, 0, 0, 0, 0)
    order = [2, 1, 0, 3][:channels]
    rows = b"" if mask is None else np.packbits(mask[::-1], axis=1).tobytes()
    return header + pixels[::-1, :, order].tobytes() + rows


@pytest.mark.parametrize("said", [0, 24, 32])
def test_a_bitmap_of_an_icon_is_transparent_by_its_alpha_or_else_by_its_mask(said: int) -> None:
    colours = np.asarray(hostile.picture(32, 32))
    left = np.zeros((32, 32), bool)
    left[:, :16] = True
    opaque = np.zeros_like(left)
    alpha = np.where(left, 128, 255).astype(np.uint8)[..., np.newaxis]
    half = np.round(255 - (255 - colours.astype(float)) * alpha / 255)
    cut = np.where(left[..., np.newaxis], 255, colours)
    for data, expected in (
        (dib(np.dstack([colours, alpha]), opaque), half),
        (dib(np.dstack([colours, 0 * alpha]), opaque), colours),
        (dib(np.dstack([colours, 0 * alpha]), left), cut),
        (dib(colours, left), cut),
        (dib(colours, opaque), colours),
    ):
        assert np.abs(pixels(icon(data, side=32, bits=said)) - expected).max() <= 1


def test_what_is_no_icon_says_so() -> None:
    with pytest.raises(BadImage, match="an icon without pictures"):
        decode(icon(), 32, RULES)
    wide = dib(np.zeros((2, 300, 3), np.uint8), np.zeros((2, 320), bool))
    with pytest.raises(BadImage, match="an icon of 300 x 2, larger than icons can be") as caught:
        decode(icon(wide), 32, RULES)
    assert caught.value.status == "too_large"


FLAT = imagecodecs.jpegxl_encode(np.zeros((6000, 6000, 3), np.uint8), effort=1, lossless=True)
BOMBS = {"icon": icon(hostile.png(Image.new("RGB", (6000, 6000)))), "JPEG XL": FLAT}
MEMORY = """
import re, sys
from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode
data = sys.stdin.buffer.read()
try:
    decode(data, 32, ImageConfig(max_pixels=1_000_000))
except BadImage as error:
    print(error.status)
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""
"""Not getrusage, which begins with what the parent had when it forked."""


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_be_huge_is_not_decoded(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], input=BOMBS[name], capture_output=True, check=True)
    status, kilobytes = done.stdout.split()
    assert status == b"too_large"
    assert int(kilobytes) < 90_000, "its pixels alone have 108,000"


def in_boxes(stream: bytes, first: int) -> bytes:
    """A codestream in two boxes, so many bytes of it in the first."""
    parts = stream[:first], stream[first:]
    boxes = [box(b"jxlp", struct.pack(">I", number | number << 31) + part) for number, part in enumerate(parts)]
    return jpeg_xl.CONTAINER + box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(boxes)


def test_a_codestream_may_lie_in_several_boxes() -> None:
    stream = imagecodecs.jpegxl_encode(np.asarray(hostile.picture()), lossless=True, usecontainer=False)
    for first in range(20):
        assert np.array_equal(pixels(in_boxes(stream, first)), UPRIGHT), first


def test_a_jpeg_xl_that_moves_is_refused() -> None:
    frames = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (10, 120, 240)])
    with pytest.raises(BadImage, match="moves"):
        decode(imagecodecs.jpegxl_encode(frames), 32, RULES)


def test_an_avif_is_not_turned_by_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    picture = decode(hostile.encode(hostile.picture(), "AVIF", xmp=xmp), 32, RULES)
    assert (picture.width, picture.height) == hostile.picture().size


SIZES = st.one_of(
    st.tuples(st.integers(1, 32), st.integers(1, 32)).map(lambda sides: (8 * sides[0], 8 * sides[1])),
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.integers(1, 60).map(lambda n: (16 * n, 9 * n)),
)


@given(SIZES, st.booleans())
def test_jpeg_xl_says_its_size_before_it_is_decoded(size: tuple[int, int], boxed: bool) -> None:
    data = imagecodecs.jpegxl_encode(np.zeros((size[1], size[0], 3), np.uint8), effort=1, usecontainer=boxed)
    assert jpeg_xl.stated_size(data) == size


@given(st.binary(max_size=64))
def test_any_bytes_behind_the_magic_of_jpeg_xl_are_a_picture_or_a_bad_image(data: bytes) -> None:
    for magic in (jpeg_xl.CODESTREAM, jpeg_xl.CONTAINER, b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif", b"\0\0\1\0"):
        with suppress(BadImage):
            decode(magic + data, 8, ImageConfig(max_pixels=1_000_000))


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode
for path in sys.argv[2:]:
    try:
        decode(open(path, "rb").read(), 32, ImageConfig())
    except BadImage as error:
        print(error.status, error)
"""


def test_a_library_that_is_not_installed_is_named_and_may_be_another_time(tmp_path: Path) -> None:
    paths = []
    for kind in ("HEIF", "JXL", "AVIF"):
        paths.append(tmp_path / f"image.{kind.lower()}")
        paths[-1].write_bytes(hostile.encode(hostile.picture(), kind))
    command = [sys.executable, "-c", WITHOUT, "pillow_heif pillow_jxl", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "unreadable HEIC needs a library: pip install 'fruitpipe[heif]'",
        "unreadable JPEG XL needs a library: pip install 'fruitpipe[jxl]'",
    ]


def test_a_library_that_does_not_load_may_do_so_another_time(tmp_path: Path) -> None:
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('libde265.so.0: no such file')")
    (tmp_path / "a.heic").write_bytes(hostile.encode(hostile.picture(), "HEIF"))
    command = [sys.executable, "-c", WITHOUT, "", tmp_path / "a.heic"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.stdout == "unreadable the library for HEIC does not load: libde265.so.0: no such file\n"
