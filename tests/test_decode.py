from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import PERMANENT, TRANSIENT, BadImage
from fruitpipe.vision.decode import Picture, decode

RULES = ImageConfig()
SMALL = ImageConfig(max_pixels=1_000_000)
JPEG, PNG = hostile.jpeg(), hostile.png()
FLIPS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), min_size=1, max_size=8)
WIDTH, HEIGHT = hostile.picture().size
MAGIC = (
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"RIFF\x40\x00\x00\x00WEBP",
)


def pixels(data: bytes, side: int = 32) -> NDArray[np.int16]:
    return decode(data, side, RULES).pixels.astype(np.int16)


def status(data: bytes, rules: ImageConfig = RULES) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, 32, rules)
    assert str(caught.value)
    return caught.value.status


@pytest.mark.parametrize("data", [b"<html>", bytes(100), hostile.CASES["random.jpg"][1]()])
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(BadImage, match="not an image of a known format"):
        decode(data, 32, RULES)


def decode_or_refuse(data: bytes) -> None:
    """Whatever the bytes: a picture, or BadImage with a status that lasts and a message that Parquet can hold."""
    outcome: Picture | BadImage
    try:
        outcome = decode(data, 8, SMALL)
    except BadImage as error:
        outcome = error
    if isinstance(outcome, BadImage):
        assert outcome.status in PERMANENT
        assert str(outcome).encode()
    else:
        assert outcome.pixels.shape == (8, 8, 3)
        assert outcome.pixels.dtype == np.uint8
        assert 1 <= outcome.width * outcome.height <= SMALL.max_pixels


@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_image_comes_out_as_it_must(name: str) -> None:
    expected, content = hostile.CASES[name]
    if expected == "ok":
        assert pixels(content()).shape == (32, 32, 3)
    else:
        assert status(content()) == expected


def test_plain_photographs_become_the_pixels_that_keras_loads(fruits: Path) -> None:
    import keras

    for path in sorted(fruits.rglob("*.jpg"))[::16]:
        expected = np.asarray(keras.utils.load_img(path, target_size=(224, 224), interpolation="bicubic"))
        assert np.array_equal(decode(path.read_bytes(), 224, RULES).pixels, expected)


def test_bilinear_is_keras_bilinear_and_not_bicubic(fruits: Path) -> None:
    import keras

    path = next(fruits.rglob("*.jpg"))
    expected = np.asarray(keras.utils.load_img(path, target_size=(224, 224), interpolation="bilinear"))
    found = decode(path.read_bytes(), 224, ImageConfig(resample="bilinear")).pixels
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, decode(path.read_bytes(), 224, RULES).pixels)


@pytest.mark.parametrize("size", [(64, 32), (31, 77), (1, 1), (1, 100)])
def test_width_and_height_are_those_of_the_original(size: tuple[int, int]) -> None:
    picture = decode(hostile.png(hostile.picture(*size)), 16, RULES)
    assert (picture.width, picture.height) == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_seen_upright_whatever_its_exif_orientation(orientation: int) -> None:
    picture = decode(hostile.turned(orientation), 32, RULES)
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    difference = np.abs(picture.pixels.astype(np.int16) - pixels(PNG))
    assert difference.mean() < 3
    if orientation > 1:  # so that the comparison can tell
        assert (
            np.abs(pixels(hostile.jpeg(Image.open(io.BytesIO(hostile.turned(orientation))))) - pixels(PNG)).mean() > 20
        )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_other_formats_are_turned_by_their_exif_too(kind: str) -> None:
    stored = hostile.picture().transpose(Image.Transpose.ROTATE_90)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    picture = decode(hostile.encode(stored, kind, exif=hostile.exif(6), **options), 32, RULES)
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    assert np.array_equal(picture.pixels, pixels(PNG))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(orientation: int) -> None:
    assert np.array_equal(pixels(hostile.jpeg(exif=hostile.exif(orientation))), pixels(JPEG))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_photograph_with_a_broken_exif_block_is_still_a_photograph(block: bytes) -> None:
    assert np.array_equal(pixels(hostile.jpeg(exif=block)), pixels(JPEG))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", range(15))
@pytest.mark.parametrize("tag", [0x0100, 0x010E, 0x8769])
def test_a_photograph_is_seen_upright_whatever_else_its_exif_has(order: str, kind: int, tag: int) -> None:
    """A tag whose value lies beyond the block, or is of another type than Pillow thinks."""
    entries = sorted([(tag, kind, 4, 0xFF, 0xFE01), (0x0112, 3, 1, 6, 0)])
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    block += b"".join(struct.pack(f"{order}HHIHH", *entry) for entry in entries) + bytes(4)
    lying = hostile.picture().transpose(Image.Transpose.ROTATE_90)
    assert np.abs(pixels(hostile.jpeg(lying, exif=b"Exif\0\0" + block)) - pixels(JPEG)).mean() < 1


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """The PNG with a chunk behind its header."""
    return PNG[:33] + hostile.chunk(kind, data) + PNG[33:]


NOISE = np.random.default_rng(0).bytes(3_000_000)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tEXt", b"Comment\0" + NOISE),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(NOISE)),
        (b"iTXt", b"no end"),
        (b"iCCP", b"profile\0\0" + zlib.compress(NOISE)),
        (b"iCCP", b"profile\0\0garbage"),
        (b"eXIf", b"garbage"),
        (b"pHYs", b"?"),
        (b"gAMA", b""),
        (b"acTL", b"?"),
    ],
)
def test_a_png_is_read_whatever_its_texts_and_profiles_are(kind: bytes, data: bytes) -> None:
    assert np.array_equal(pixels(with_chunk(kind, data)), pixels(PNG))


def test_a_png_whose_texts_hinder_reading_is_turned_by_its_exif() -> None:
    lying = hostile.png(hostile.picture().transpose(Image.Transpose.ROTATE_90), exif=hostile.exif(6))
    assert np.array_equal(pixels(lying[:33] + hostile.chunk(b"iTXt", b"no end") + lying[33:]), pixels(PNG))


@pytest.mark.parametrize("marker", [*range(0xE1, 0xF0), 0xFE])
@pytest.mark.parametrize(
    "data", [b"", b"\0", b"Photoshop 3.0\0\xff", b"MPF\0II*\0\xff\xff\xff\xff", b"ICC_PROFILE\0\1\2"]
)
def test_a_jpeg_is_read_whatever_its_comments_and_application_data_are(marker: int, data: bytes) -> None:
    segment = struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data
    assert np.array_equal(pixels(JPEG[:2] + segment + JPEG[2:]), pixels(JPEG))


def test_a_webp_is_read_whatever_its_exif_is() -> None:
    plain = hostile.encode(hostile.picture(), "WEBP", lossless=True)
    assert np.array_equal(
        pixels(hostile.encode(hostile.picture(), "WEBP", lossless=True, exif=b"garbage")), pixels(plain)
    )


def test_an_extension_that_lies_does_not_matter() -> None:
    assert np.array_equal(
        pixels(hostile.CASES["png named.jpg"][1]()),
        np.asarray(hostile.picture().resize((32, 32), Image.Resampling.BICUBIC)),
    )


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("TIFF", "I")])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str, mode: str) -> None:
    image = hostile.grey16() if mode == "I;16" else hostile.grey16().convert("I").convert(mode)
    row = decode(hostile.encode(image, kind), hostile.SIDE, RULES).pixels[0].astype(int)
    assert np.abs(row[:, 0] - np.linspace(0, 255, hostile.SIDE)).max() <= 1
    assert (row[:, 0] == row[:, 1]).all()
    assert (row[:, 0] == row[:, 2]).all()


@pytest.mark.parametrize("value", [-1, 65536])
def test_values_beyond_sixteen_bits_are_undecodable(value: int) -> None:
    image = Image.fromarray(np.full((8, 8), value, np.int32))
    assert status(hostile.encode(image, "TIFF")) == "undecodable"


@pytest.mark.parametrize("name", ["palette.png", "rgba.png", "la.png"])
def test_what_is_transparent_is_seen_white(name: str) -> None:
    found = decode(hostile.CASES[name][1](), hostile.SIDE, RULES).pixels
    left, right = found[:, : hostile.SIDE // 2 - 4], found[:, hostile.SIDE // 2 + 4 :]
    assert not left.any()
    assert (right == 255).all()


def test_a_transparent_colour_of_an_rgb_or_grey_png_is_seen_white() -> None:
    for mode, clear in (("RGB", (10, 20, 30)), ("L", 7)):
        image = Image.new(mode, (16, 16), clear)
        assert (pixels(hostile.png(image, transparency=clear)) == 255).all()


def test_half_transparent_is_mixed_with_white() -> None:
    assert np.abs(pixels(hostile.png(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    assert (pixels(hostile.CASES[name][1]()) == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_any_colour_model_gives_the_colours_of_its_rgb_conversion(mode: str) -> None:
    image = hostile.picture().convert(mode)
    expected = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    found = pixels(hostile.encode(image, "PNG" if mode in {"L", "1", "P"} else "TIFF"))
    assert np.array_equal(found, np.asarray(expected))


def test_a_cmyk_photograph_has_the_colours_of_the_original() -> None:
    assert np.abs(pixels(hostile.CASES["cmyk.jpg"][1]()) - pixels(PNG)).mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_colour_profiles_are_passed_over_as_keras_does(kind: str, tmp_path: Path) -> None:
    import keras

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # in which colours are quite others
    plain, profiled = (hostile.encode(hostile.picture(), kind, **more) for more in ({}, {"icc_profile": profile}))
    with Image.open(io.BytesIO(profiled)) as image:
        assert image.info["icc_profile"] == profile
    assert np.array_equal(pixels(profiled, 224), pixels(plain, 224))
    (tmp_path / "image").write_bytes(profiled)
    expected = keras.utils.load_img(tmp_path / "image", target_size=(224, 224), interpolation="bicubic")
    assert np.array_equal(pixels(profiled, 224), np.asarray(expected))


def test_limits_hold_at_their_edges() -> None:
    data = hostile.png(hostile.picture(40, 10))
    assert decode(data, 8, ImageConfig(max_pixels=400, max_aspect=4)).width == 40
    assert status(data, ImageConfig(max_pixels=399)) == "too_large"
    assert status(data, ImageConfig(max_aspect=3.99)) == "too_large"
    assert status(hostile.png(hostile.picture(10, 40)), ImageConfig(max_aspect=3.99)) == "too_large"


def test_other_formats_of_pillow_are_not_tried() -> None:
    for kind in ("PPM", "ICNS", "PDF", "TGA"):
        assert status(hostile.encode(hostile.picture(), kind)) == "undecodable"


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_a_picture_or_a_bad_image(magic: bytes, data: bytes) -> None:
    decode_or_refuse(magic + data)


@given(st.sampled_from(sorted(hostile.CASES)), st.floats(0, 1, exclude_max=True))
@settings(max_examples=300)
def test_any_truncated_file_is_a_picture_or_a_bad_image(name: str, share: float) -> None:
    data = hostile.CASES[name][1]()
    decode_or_refuse(data[: int(len(data) * share)])


@given(st.sampled_from(sorted(hostile.CASES.keys() - {"empty.jpg"})), FLIPS)
@settings(max_examples=400)
def test_any_flipped_bits_give_a_picture_or_a_bad_image(name: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(hostile.CASES[name][1]())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    decode_or_refuse(bytes(data))


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_a_file_that_lacks_its_second_half_is_undecodable(data: bytes) -> None:
    assert status(data[: len(data) // 2]) == "undecodable"


SHORT_OF_MEMORY = """
import resource, sys
import psutil
from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode
data = open(sys.argv[1], "rb").read()
decode(data, 8, ImageConfig(decode="exact"))
limit = psutil.Process().memory_info().vms + 20_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    decode(data, 8, ImageConfig(decode="exact"))
except BadImage as error:
    print(error.status)
except MemoryError:
    print("MemoryError")
"""


def test_an_image_for_which_there_was_no_memory_is_not_called_bad_for_ever(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(hostile.jpeg(Image.new("RGB", (4000, 4000))))
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path / "large.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"MemoryError", *TRANSIENT}
