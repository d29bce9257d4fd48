from __future__ import annotations

import os
from pathlib import Path

import hostile
import numpy as np
import pytest

from fruitpipe.backbones import Backbone
from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.engine import Engine
from fruitpipe.featurize import Image, featurize
from fruitpipe.images import decode
from fruitpipe.source import Reader


@pytest.fixture(scope="module")
def engine(lite0: tuple[Backbone, Path]) -> Engine:
    return Engine(lite0[1].read_bytes())


def test_the_feature_is_written_to_the_row_it_is_given_and_to_no_other(engine: Engine) -> None:
    rows = np.full((3, engine.dimension), -1, np.float32)
    engine.run(decode(hostile.jpeg(), engine.side, ImageConfig()).pixels, rows[1])
    assert (rows[[0, 2]] == -1).all()
    assert np.isfinite(rows[1]).all()
    assert (rows[1] >= 0).all(), "averages after ReLU6"
    assert rows[1].any()


def test_the_same_image_gives_the_same_bits_whatever_came_before_and_in_any_engine(
    engine: Engine, lite0: tuple[Backbone, Path]
) -> None:
    images = [
        decode(hostile.jpeg(hostile.picture(*size)), engine.side, ImageConfig()).pixels for size in ((64, 32), (30, 90))
    ]
    rows = np.empty((3, engine.dimension), np.float32)
    for image, row in zip((images[0], images[1], images[0]), rows, strict=True):
        engine.run(image, row)
    other = np.empty(engine.dimension, np.float32)
    Engine(lite0[1].read_bytes()).run(images[0], other)
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], other)
    assert not np.array_equal(rows[0], rows[1])


def test_making_an_engine_prints_nothing_and_leaves_nothing_open(
    lite0: tuple[Backbone, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    Engine(lite0[1].read_bytes())
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        Engine(lite0[1].read_bytes())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert capfd.readouterr() == ("", "")


def test_every_hostile_image_gets_its_status_and_no_other_image_suffers(engine: Engine, tmp_path: Path) -> None:
    expected = hostile.make(tmp_path)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    expected["gone.jpg"] = "missing"
    names = sorted(expected)
    images = [Image(str(tmp_path / name), name) for name in names]
    facts, features = featurize(images, engine, ImageConfig(), Reader(S3Config(), 1 << 20))
    assert dict(zip(names, facts.status, strict=True)) == expected
    assert facts.etag == names
    assert [bool(row.any()) for row in features] == [status == "ok" for status in facts.status]
    assert [error is None for error in facts.error] == [status == "ok" for status in facts.status]
    assert [width is not None for width in facts.width] == [status == "ok" for status in facts.status]
    assert [content is None for content in facts.content] == [name == "gone.jpg" for name in names]
    jpegs = [features[names.index(name)] for name in ("upper case.JPG", "-rf.jpg", "two\nlines.jpg")]
    assert all(np.array_equal(row, jpegs[0]) for row in jpegs)
