"""What a worker holds of images at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import hostile
import numpy as np
import pytest
from numpy.typing import NDArray

from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.source import Reader, files
from fruitpipe.tasks.featurize import AHEAD_BYTES, Image, featurize
from fruitpipe.vision.bad_image import BadImage

MEGABYTE = 1_000_000


class Means:
    """An engine: mean colours."""

    side, dimension, batch = 8, 3, 16

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        out[...] = pixels.mean(axis=(1, 2))
        return {}


def large(path: Path, size: int) -> Path:
    """A JPEG with so many bytes, most of them behind its end."""
    path.write_bytes(hostile.jpeg())
    with path.open("r+b") as file:
        file.truncate(size)
    return path


def test_of_a_group_of_large_files_a_few_are_held(tmp_path: Path) -> None:
    paths = [large(tmp_path / f"{number}.jpg", 30 * MEGABYTE) for number in range(16)]
    images = [Image(str(path), size=30 * MEGABYTE) for path in paths]
    tracemalloc.start()
    facts, features = featurize(images, Means(), ImageConfig(), Reader(S3Config(), 64 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert facts.status == 16 * ["ok"]
    assert facts.bytes == 480 * MEGABYTE
    assert len(set(facts.content)) == 1
    assert (features == features[0]).all()
    assert peak < AHEAD_BYTES + 4 * 30 * MEGABYTE, "what is ahead, what is being read and what is decoded"


@pytest.mark.parametrize("by", [-1000, 1000])
def test_a_file_that_changes_while_it_is_read_is_no_picture_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    path = large(tmp_path / "growing.jpg", MEGABYTE)
    fstat = files.os.fstat

    def then_changed(descriptor: int) -> object:
        status = fstat(descriptor)
        with path.open("r+b") as file:
            file.truncate(MEGABYTE + by)
        return status

    monkeypatch.setattr(files.os, "fstat", then_changed)
    with pytest.raises(BadImage, match="changed while it was read") as caught:
        files.read_image(str(path), 2 * MEGABYTE)
    assert caught.value.status == "changed"
