"""What is done to pixels before a network sees them, against drawn pictures and other ways to compute the same."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fruitpipe.config import ImageConfig
from fruitpipe.vision.decode import decode, features_digest
from fruitpipe.vision.preprocess import equalised, preprocess, trimmed

STEPS: dict[str, list[Any]] = {
    "decode": ["exact"],
    "background": ["trim"],
    "crop": ["centre"],
    "resize": ["pad", "crop"],
    "resample": ["bilinear"],
    "grey": [True],
    "denoise": [True],
    "equalise": ["histogram", "adaptive"],
    "contrast": [True],
}
"""Values other than the defaults."""
FIRST = ("background", "crop", "grey", "resize")
ANY = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in STEPS.items()})
COLOURS = st.tuples(*3 * [st.integers(0, 255)])


def prepare(image: Image.Image, side: int, rules: ImageConfig) -> NDArray[np.uint8]:
    return preprocess(image, (0, 0, *image.size), side, rules)


def prepared(image: Image.Image, side: int, **rules: Any) -> NDArray[np.int16]:
    return prepare(image, side, ImageConfig(**rules)).astype(np.int16)


def on_ground(content: Image.Image, size: tuple[int, int], at: tuple[int, int], colour: Any = "white") -> Image.Image:
    """A picture somewhere on a ground of one colour."""
    ground = Image.new("RGB", size, colour)
    ground.paste(content, at)
    return ground


def blot(width: int, height: int) -> Image.Image:
    """A picture no edge of which looks like white or navy."""
    return hostile.picture(width, height).point(lambda level: 60 + level // 2)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(hostile.jpeg(image, quality=quality, subsampling=2))).convert("RGB")


@pytest.mark.parametrize("colour", ["white", "black", "navy", (250, 248, 251)])
def test_trim_leaves_what_is_not_background(colour: Any) -> None:
    content = blot(64, 64)
    image = on_ground(content, (190, 140), (31, 60), colour)
    assert np.array_equal(prepared(image, 64, background="trim"), np.asarray(content))


@given(st.integers(30, 250), st.integers(30, 250), st.integers(0, 60), st.integers(0, 60), st.integers(40, 95))
@settings(max_examples=60)
def test_trim_is_not_misled_by_the_noise_of_jpeg(width: int, height: int, left: int, upper: int, quality: int) -> None:
    """Within the blocks of 16 pixels that the content touches, at most, where JPEG spreads it."""
    image = on_ground(Image.new("RGB", (width, height), (150, 40, 30)), (width + 90, height + 90), (left, upper))
    box = trimmed(through_jpeg(image, quality))
    for found, true in zip(box, (left, upper, left + width, upper + height), strict=True):
        assert abs(found - true) <= 8


def test_trim_finds_the_fruit_in_real_photographs(data: Path) -> None:
    """Against the box of all that is darker than white by more than the noise around the fruits."""
    different = 0
    for path in sorted((data / "fruits-360" / "Sample").rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        seen = (255 - np.asarray(image)).max(axis=2) > 24
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert trimmed(image) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        different += trimmed(image) != (0, 0, 100, 100)
    assert different > 400


@pytest.mark.parametrize(("width", "height"), [(3000, 2000), (700, 90), (1, 400)])
def test_trim_is_right_to_a_256th_of_each_side_of_large_pictures(width: int, height: int) -> None:
    left, upper, size = width // 3, height // 4, (max(width // 2, 1), height // 2)
    box = trimmed(on_ground(Image.new("RGB", size, "red"), (width, height), (left, upper)))
    for found, true, length in zip(
        box, (left, upper, left + size[0], upper + size[1]), 2 * (width, height), strict=True
    ):
        assert abs(found - true) <= length / 256


def test_trim_passes_over_dust_on_large_pictures() -> None:
    image = on_ground(blot(900, 900), (2000, 2000), (600, 600))
    image.putpixel((5, 1990), (90, 90, 90))
    assert trimmed(image)[0] >= 595


@given(COLOURS, st.integers(1, 600), st.integers(1, 600))
@settings(max_examples=30)
def test_what_is_all_background_stays_whole(colour: tuple[int, ...], width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), colour)
    assert trimmed(image) == (0, 0, width, height)
    assert (prepared(image, 8, background="trim") == colour).all()


def test_trim_does_not_cut_a_photograph_without_a_plain_border(data: Path) -> None:
    for name in ("cat_720p.jpg", "parrot.jpg"):
        image = Image.open(data / "imagenet-check" / name)
        assert trimmed(image) == (0, 0, *image.size)


def test_one_corner_may_show_something_else() -> None:
    image = on_ground(blot(40, 40), (100, 100), (0, 0))
    assert trimmed(image) == (0, 0, 40, 40)
    image = on_ground(Image.new("RGB", (599, 299), "red"), (1199, 799), (600, 500))
    assert trimmed(image) == (600, 498, 1199, 799), "in blocks of 4 x 3, and not beyond the picture"


def test_what_is_transparent_is_background() -> None:
    image = Image.new("RGBA", (128, 128), (200, 0, 0, 0))
    image.paste(blot(64, 64), (40, 20))
    assert np.array_equal(decode(hostile.png(image), 64, ImageConfig(background="trim")).pixels, blot(64, 64))


def test_width_and_height_stay_those_of_the_original() -> None:
    picture = decode(hostile.png(on_ground(blot(30, 30), (90, 70), (20, 20))), 8, ImageConfig(background="trim"))
    assert (picture.width, picture.height) == (90, 70)


def test_crop_keeps_the_central_224_of_256() -> None:
    image = hostile.picture(256, 256)
    assert np.array_equal(prepared(image, 224, crop="centre"), np.asarray(image)[16:240, 16:240])


def test_crop_comes_after_trim() -> None:
    image = on_ground(blot(64, 64), (200, 100), (120, 4))
    assert np.array_equal(prepared(image, 56, background="trim", crop="centre"), np.asarray(blot(64, 64))[4:60, 4:60])


@pytest.mark.parametrize("turned", [False, True])
def test_resize_pads_with_the_colour_of_the_corners_or_cuts_what_overhangs(turned: bool) -> None:
    wide = on_ground(blot(40, 20), (64, 32), (10, 6), "navy")
    image = wide.transpose(Image.Transpose.TRANSPOSE) if turned else wide
    padded, cut = prepared(image, 64, resize="pad"), prepared(image, 32, resize="crop")
    if turned:
        padded, cut = padded.swapaxes(0, 1), cut.swapaxes(0, 1)
    assert np.array_equal(padded[16:48], np.asarray(wide))
    assert (padded[:16] == (0, 0, 128)).all()
    assert (padded[48:] == (0, 0, 128)).all()
    assert np.array_equal(cut, np.asarray(wide)[:, 16:48])


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_only_stretching_makes_a_circle_an_ellipse(resize: str) -> None:
    y, x = np.mgrid[0:300, 0:400]
    image = Image.fromarray(np.where((x - 200) ** 2 + (y - 150) ** 2 < 100**2, 0, 255).astype(np.uint8)).convert("RGB")
    dark = prepared(image, 100, resize=resize)[..., 0] < 128
    width, height = int(dark.sum(1).max()), int(dark.sum(0).max())
    expected = {"pad": (50, 50), "crop": (67, 67), "stretch": (50, 67)}[resize]
    assert (width, height) == pytest.approx(expected, abs=1)


def test_grey_is_the_luminance_of_rec_601() -> None:
    image = hostile.picture(32, 32)
    luminance = np.asarray(image) @ [0.299, 0.587, 0.114]
    assert np.abs(prepared(image, 32, grey=True) - luminance[..., None]).max() <= 1


@given(st.integers(1, 12).flatmap(lambda side: arrays(np.uint8, (side, side, 3))))
def test_denoising_is_the_median_that_pillow_computes(pixels: NDArray[np.uint8]) -> None:
    image = Image.fromarray(pixels)
    assert np.array_equal(
        prepared(image, len(pixels), denoise=True), np.asarray(image.filter(ImageFilter.MedianFilter(3)))
    )


def test_denoising_takes_out_specks_and_keeps_edges() -> None:
    clean = np.where(np.arange(64)[None, :, None] < 32, 40, 200) * np.ones((64, 1, 3), int)
    noisy = clean.copy()
    noisy[5::9, 4::7] = 255
    image = Image.fromarray(noisy.astype(np.uint8))
    assert np.array_equal(prepared(image, 64, denoise=True), clean)


def dull(fruits: Path) -> Image.Image:
    """A drawn fruit with a quarter of the contrast."""
    return Image.open(next(fruits.rglob("*.jpg"))).convert("RGB").resize((96, 96)).point(lambda level: 90 + level // 4)


def test_histogram_equalisation_makes_levels_even_and_keeps_colours() -> None:
    y, x = np.mgrid[0:64, 0:64]
    level = 110 + 30 * ((64 * y + x) / 4096) ** 3  # few levels, and far from even
    image = Image.fromarray(np.stack([level + 12, level, level - 9], -1).round().astype(np.uint8))
    found = Image.fromarray(prepare(image, 64, ImageConfig(equalise="histogram")))
    luminance, *colours = (np.asarray(each).astype(int) for each in found.convert("YCbCr").split())
    share = np.array([(luminance <= limit).mean() for limit in (64, 128, 192)])
    assert np.abs(share - [0.25, 0.5, 0.75]).max() < 0.15, "the input has none of 64 and all of 192"
    inside = (luminance > 20) & (luminance < 235)  # elsewhere RGB has no such colour
    for found_colour, colour in zip(colours, image.convert("YCbCr").split()[1:], strict=True):
        assert np.abs(found_colour - np.asarray(colour).astype(int))[inside].max() <= 2


def locally_equalised(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance after adaptive equalisation of a grey picture."""
    return np.asarray(equalised(Image.fromarray(levels).convert("RGB"), adaptive=True).convert("L"))


def test_adaptive_equalisation_is_what_its_definition_gives() -> None:
    """Pixel by pixel, in plain Python: each tile's table, and the four nearest in proportion. OpenCV counts in whole
    numbers: up to 255 of a tile's 6400 pixels, which is 10 levels, lie elsewhere."""
    side = 640
    random = np.random.default_rng(5)
    levels = (random.normal(120, 12, (side, side)) + 0.2 * np.arange(side)).clip(0, 255).astype(np.uint8)
    size = side // 8

    def table(row: int, column: int) -> list[float]:
        tile = levels[size * row : size * (row + 1), size * column : size * (column + 1)].ravel().tolist()
        limit = 2 * len(tile) / 256
        counts = [min(tile.count(level), limit) for level in range(256)]
        spread = (len(tile) - sum(counts)) / 256
        return [255 * total / len(tile) for total in accumulate(count + spread for count in counts)]

    tables = [[table(row, column) for column in range(8)] for row in range(8)]
    found = locally_equalised(levels)
    assert np.abs(found.astype(int) - levels).mean() > 16
    for y, x in random.integers(0, side, (200, 2)):
        expected = 0.0
        for row, column in product(range(-1, 9), repeat=2):
            down, across = 1 - abs((y + 0.5) / size - row - 0.5), 1 - abs((x + 0.5) / size - column - 0.5)
            if down > 0 and across > 0:
                expected += down * across * tables[min(max(row, 0), 7)][min(max(column, 0), 7)][levels[y, x]]
        assert found[y, x] == pytest.approx(expected, abs=8)


@pytest.mark.parametrize("side", [1, 7, 99, 224, 331])
def test_adaptive_equalisation_leaves_a_plain_picture_plain_whatever_its_side(side: int) -> None:
    found = locally_equalised(np.full((side, side), 100, np.uint8))
    assert found.shape == (side, side)
    assert found.min() == found.max()


def test_adaptive_equalisation_spares_a_plain_background_and_brings_out_the_fruit(data: Path) -> None:
    path = sorted((data / "fruits-360" / "Sample" / "Eggplant").iterdir())[5]
    plain, adaptive, histogram = (
        prepared(Image.open(path).convert("RGB"), 224, equalise=how) @ [0.299, 0.587, 0.114]
        for how in ("none", "adaptive", "histogram")
    )
    fruit = plain < 60
    assert adaptive[fruit].std() > 1.3 * plain[fruit].std()
    ground = (slice(None), slice(0, 40))  # with JPEG's noise in it
    assert plain[ground].std() < 1
    assert adaptive[ground].std() < histogram[ground].std()


def test_contrast_fills_the_range_with_one_stretch_for_all_channels(fruits: Path) -> None:
    image = dull(fruits)
    found, given_levels = prepared(image, 96, contrast=True), np.asarray(image).astype(int)
    luminance = np.asarray(image.convert("L"))
    low, high = np.percentile(luminance, [0.5, 99.5])
    expected = ((given_levels - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(found - expected).max() <= 255 / (high - low) + 1, "to one level of the dull picture"
    assert given_levels.max() - given_levels.min() < 80
    assert found.max() - found.min() > 240


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), ANY)
@settings(max_examples=200)
def test_any_picture_comes_out_of_any_steps_as_a_square(pixels: NDArray[np.uint8], rules: dict[str, Any]) -> None:
    found = prepare(Image.fromarray(pixels), 16, ImageConfig(**rules))
    assert (found.shape, found.dtype) == ((16, 16, 3), np.uint8)
    if rules.get("grey"):
        assert (found == found[..., :1]).all(), "and what is grey stays grey"


def test_steps_are_taken_in_their_order(fruits: Path) -> None:
    """All of them at once are each after the other."""
    rules = {name: values[-1] for name, values in STEPS.items() if name != "resample"}
    image = on_ground(dull(fruits), (300, 200), (100, 50), "navy")
    # These are taken at once, as a box that is resampled.
    expected = prepare(image, 64, ImageConfig(**{name: rules.pop(name) for name in FIRST}))
    for name, value in rules.items():
        expected = prepare(Image.fromarray(expected), 64, ImageConfig(grey=True, **{name: value}))
    everything = {name: values[-1] for name, values in STEPS.items() if name != "resample"}
    assert np.array_equal(prepared(image, 64, **everything), expected)


def test_features_of_images_that_are_decoded_whole_are_still_those_that_are_in_caches() -> None:
    exact = features_digest("b", ImageConfig(decode="exact"))
    assert exact == "9da070b5da9cc63a3efc1e1458b48b44097ccd5eca56c5d2f137cb0a94e14169"
    bilinear = features_digest("b", ImageConfig(decode="exact", resample="bilinear"))
    assert bilinear == "ea90c7d25dc0dae820acbc3668d3101ac2618dde9efc20e269e4e4f6687c6084"


def test_every_step_changes_the_identity_of_features() -> None:
    limits = {"max_bytes", "max_pixels", "max_aspect", "max_memory", "max_seconds"}
    assert STEPS.keys() == ImageConfig.model_fields.keys() - limits, "a new key is a step or a limit"
    configs = [ImageConfig(), *(ImageConfig(**{name: value}) for name, values in STEPS.items() for value in values)]
    configs.append(ImageConfig(grey=True, denoise=True))
    assert len({features_digest("b", config) for config in configs}) == len(configs)


PEAK = """
import cv2, re, sys
from fruitpipe.config import ImageConfig
from fruitpipe.vision.decode import decode
data = open(sys.argv[1], "rb").read()
decode(data, 224, ImageConfig.model_validate_json(sys.argv[2]))
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""
"""Not getrusage, which begins with what the parent had when it forked."""


@pytest.mark.slow
def test_steps_need_no_more_memory_than_decoding_and_the_luminance(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(hostile.jpeg(on_ground(blot(4000, 3000), (6000, 5000), (900, 900))))

    def peak(rules: ImageConfig) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / "large.jpg"), rules.model_dump_json()]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    everything = ImageConfig(**{name: values[-1] for name, values in STEPS.items()})
    colours, luminance = peak(everything.model_copy(update={"grey": False})), peak(everything)
    assert colours < peak(ImageConfig(decode="exact")) + 15_000, "KiB; the picture itself has 120,000"
    assert luminance < colours + 35_000, "a byte for each of 30 million pixels"
