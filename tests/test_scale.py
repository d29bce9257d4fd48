"""Decoding large JPEGs at a smaller scale: when, which pixels, and what becomes of features that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostile
import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

import fruitpipe
from fruitpipe.config import RECORDED, Config, ImageConfig
from fruitpipe.pipeline.preview import plan
from fruitpipe.vision import scale
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode, features_digest
from fruitpipe.vision.metadata import TURNS

SIDE = 32
WAYS = ("scaled", "exact")
EXACT, SCALED = ImageConfig(decode="exact"), ImageConfig()
LARGE = (10 * SIDE, 12 * SIDE)
"""Ten times the input: the least of which 1/2 is decoded."""


def detailed(width: int, height: int) -> Image.Image:
    """A picture with detail of all sizes, as photographs have."""
    rng = np.random.default_rng(0)
    layers = [rng.normal(0, 40, (max(height // size, 1), max(width // size, 1), 3)) for size in (2, 8, 32, 128)]
    shown = [Image.fromarray(np.clip(128 + layer, 0, 255).astype(np.uint8)) for layer in layers]
    mixed = sum(np.asarray(layer.resize((width, height)), float) for layer in shown) / len(shown)
    return Image.fromarray(mixed.astype(np.uint8))


def photograph(width: int, height: int, **options: Any) -> bytes:
    return hostile.jpeg(detailed(width, height), **options)


def pixels(data: bytes, rules: ImageConfig) -> NDArray[np.int16]:
    return decode(data, SIDE, rules).pixels.astype(np.int16)


def rms(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))


def scales(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many times smaller each image is decoded from now on."""
    found: list[int] = []
    load = scale.load
    monkeypatch.setattr("fruitpipe.vision.decode.load", lambda image, times: found.append(times) or load(image, times))
    return found


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("crop", ["none", "centre"])
def test_at_least_five_pixels_stay_for_each_that_the_backbone_sees(
    monkeypatch: pytest.MonkeyPatch, resize: Any, crop: Any
) -> None:
    found = scales(monkeypatch)
    part = 7 / 8 if crop == "centre" else 1
    for times in (1, *range(4, 90, 3)):
        plain = hostile.jpeg(Image.new("RGB", (times * SIDE, (times + 4) * SIDE)))
        decode(plain, SIDE, ImageConfig(resize=resize, crop=crop))
        seen = part * (times + 4 if resize == "pad" else times)
        assert seen / found[-1] >= 5 or found[-1] == 1
        assert found[-1] == 8 or seen / (2 * found[-1]) < 5, (
            "and no more than twice as many, but for the smallest scale"
        )
    assert set(found) == {1, 2, 4, 8}
    assert len(found) == 30, "each is decoded once"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 1}, {"quality": 60}])
@pytest.mark.parametrize("size", [LARGE, (20 * SIDE + 3, 23 * SIDE + 1), (41 * SIDE + 7, 40 * SIDE + 5)])
def test_a_scaled_picture_is_the_whole_one_but_for_rounding(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = photograph(*size, **options)
    found, expected = pixels(data, SCALED), pixels(data, EXACT)
    assert 0 < rms(found, expected) < 0.6


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_scaled_too(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    found = scales(monkeypatch)
    data = hostile.jpeg(detailed(*LARGE).convert(mode))
    assert rms(pixels(data, SCALED), pixels(data, EXACT)) < 1
    assert found == [2, 1]


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_picture_lies_where_it_lies_when_it_is_decoded_whole(orientation: int) -> None:
    """Sizes that no scale divides, so that a picture that is off by a part of a pixel is found."""
    data = photograph(10 * SIDE + 1, 10 * SIDE + 1, exif=hostile.exif(orientation))
    assert rms(pixels(data, SCALED), pixels(data, EXACT)) < 0.6
    picture = decode(photograph(400, 500, exif=hostile.exif(orientation)), SIDE, SCALED)
    assert (picture.width, picture.height) == ((500, 400) if orientation > 4 else (400, 500))


def test_trimmed_pictures_are_decoded_whole_and_keep_their_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dust depends on how many pixels there are."""
    found = scales(monkeypatch)
    trimmed, whole = (ImageConfig.model_validate({"background": "trim", "decode": way}) for way in WAYS)
    data = photograph(*LARGE)
    assert np.array_equal(pixels(data, trimmed), pixels(data, whole))
    assert found == [1, 1]
    assert features_digest("b", trimmed) == features_digest("b", whole)


@pytest.mark.parametrize("options", [{"lossless": True}, {"subsampling": "411"}])
def test_what_cannot_be_scaled_as_well_is_decoded_whole(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    found = scales(monkeypatch)
    data = imagecodecs.jpeg8_encode(np.asarray(detailed(*LARGE)), **options)
    assert np.array_equal(pixels(data, SCALED), pixels(data, EXACT))
    assert found == [1, 1]


def test_a_thin_picture_is_scaled_by_its_longer_side_when_it_is_padded() -> None:
    data = photograph(3000, 3)
    rules = [ImageConfig.model_validate({"resize": "pad", "max_aspect": 1000, "decode": way}) for way in WAYS]
    assert rms(*(pixels(data, each) for each in rules)) < 2


@pytest.mark.parametrize("data", [photograph(LARGE[0] - 1, LARGE[1]), hostile.png(detailed(*LARGE))])
def test_small_images_and_other_formats_are_the_same_either_way(data: bytes) -> None:
    assert np.array_equal(pixels(data, SCALED), pixels(data, EXACT))


def test_a_truncated_photograph_is_found_at_a_smaller_scale_too() -> None:
    data = photograph(*LARGE)
    with pytest.raises(BadImage, match="truncated"):
        decode(data[: len(data) // 2], SIDE, SCALED)


def test_what_was_recorded_before_there_was_a_choice_was_decoded_whole() -> None:
    said_nothing = {"input": "a", "output": "b"}
    for old in (said_nothing, said_nothing | {"image": {"resample": "bilinear"}}):
        assert Config.model_validate(old, context=RECORDED).image.decode == "exact"
        assert Config.model_validate(old | {"image": {"decode": "scaled"}}, context=RECORDED).image.decode == "scaled"
        assert Config.model_validate(old).image.decode == "scaled"
        assert Config.model_validate(old | {"backbone": "orb"}).image.decode == "exact"


@pytest.mark.slow
def test_either_way_takes_over_the_features_of_small_images(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "small.jpg").write_bytes(photograph(300, 200))
    (images / "large.jpg").write_bytes(photograph(2300, 2240))
    (images / "broken.jpg").write_bytes(photograph(300, 200)[:2000])
    common = {"input": str(images), "output": str(tmp_path / "out"), "backbone": "efficientnet_lite0", "pca": "none"}
    config = common | {"failures": {"max_rate": 0.5}}
    exact, scaled = (Config.model_validate(config | {"image": {"decode": way}}) for way in ("exact", "scaled"))
    first = fruitpipe.run(exact)
    summary = plan(scaled)
    assert (summary.known, summary.new + summary.changed) == (1, 2), (
        "the large one and the broken one are looked at anew"
    )
    second = fruitpipe.run(scaled)
    summary = plan(exact)
    assert (summary.known, summary.known_failed) == (2, 1), "what was there is still there"
    vectors = [
        {row["path"]: row["vector"] for row in pq.read_table(run.vectors).to_pylist()} for run in (first, second)
    ]
    small, large = str(images / "small.jpg"), str(images / "large.jpg")
    assert vectors[0][small] == vectors[1][small]
    assert vectors[0][large] != vectors[1][large]
    assert np.corrcoef(vectors[0][large], vectors[1][large])[0, 1] > 0.99
    with pytest.raises(fruitpipe.UserError, match=r"image\.decode=exact"):
        fruitpipe.run(scaled.model_copy(update={"model": "reuse", "reuse": f"{first.path('model')}"}))
