"""What a worker holds of images at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any
from uuid import uuid4

import hostile
import numpy as np
import pytest
from numpy.typing import NDArray
from seaweed import BUCKET

from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.source import Reader, fetching, files, list_images
from fruitpipe.source.fetching import AHEAD_BYTES, Image, NoRoom, Room, fetch
from fruitpipe.tasks.featurize import featurize
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


@pytest.mark.parametrize("listed", [30 * MEGABYTE, 0, 1], ids=["known", "unknown", "a lie"])
def test_of_a_group_of_large_files_a_few_are_held_whatever_sizes_a_list_says(tmp_path: Path, listed: int) -> None:
    paths = [large(tmp_path / f"{number}.jpg", 30 * MEGABYTE) for number in range(16)]
    images = [Image(str(path), size=listed) for path in paths]
    reader = Reader(S3Config(), 64 << 20)
    tracemalloc.start()
    facts, features = featurize(images, Means(), ImageConfig(), reader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert facts.status == 16 * ["ok"]
    assert facts.bytes == 480 * MEGABYTE
    assert len(set(facts.content)) == 1
    assert (features == features[0]).all()
    held = AHEAD_BYTES + (30 * MEGABYTE if listed > 1 else reader.max_bytes)
    assert peak < held + 3 * 30 * MEGABYTE, "what is ahead, what is being read and what is decoded"


def test_a_listing_that_reads_large_files_holds_a_few(tmp_path: Path) -> None:
    for number in range(16):
        large(tmp_path / f"{number}.jpg", 30 * MEGABYTE)
    tracemalloc.start()
    contents = [each for batch in list_images(str(tmp_path), verify_content=True) for each in batch["content"]]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(contents), len(set(contents))) == (16, 1)
    assert contents[0].is_valid
    assert peak < AHEAD_BYTES + ImageConfig().max_bytes + 2 * 30 * MEGABYTE


@pytest.mark.parametrize("listed", [900, 0, 1], ids=["known", "unknown", "a lie"])
def test_objects_ahead_are_never_more_than_there_is_room_for(
    admin: Any, s3: S3Config, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """And each of them arrives, in order, those included that were refused at first."""
    monkeypatch.setattr(fetching, "AHEAD_BYTES", 2000)
    prefix = f"ahead/{uuid4().hex}"
    bodies = [bytes([number]) * 900 for number in range(40)]
    for number, body in enumerate(bodies):
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{number}.jpg", Body=body)
    claimed = []

    class Watched(Room):
        def claim(self, number: int, size: int) -> None:
            super().claim(number, size)
            claimed.append(sum(self._claimed.values()))

    monkeypatch.setattr(fetching, "Room", Watched)
    images = [Image(f"s3://{BUCKET}/{prefix}/{number}.jpg", size=listed) for number in range(40)]
    assert [bytes(data) for data in fetch(images, Reader(s3, 1000))] == bodies
    assert 900 <= max(claimed) <= 2000 + 1000


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_files_read_in_one_go_arrive_in_order_each_as_if_it_were_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """With one among them that is gone, some that are large, and never more ahead than there may be."""
    monkeypatch.setattr(fetching, "TOGETHER_BYTES", 2000)
    bodies = [bytes([number]) * (3000 if number % 7 == 3 else 500) for number in range(50)]
    images = []
    for number, body in enumerate(bodies):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(body)
        images.append(Image(str(path), size=len(body) if known else 0))
    (tmp_path / "20.jpg").unlink()
    calls, most = [], []

    class Watched(Room):
        def claim(self, number: int, size: int) -> None:
            super().claim(number, size)
            most.append(len(self._claimed))

    def noted(reader: Reader, some: Any) -> Any:
        calls.append(len(some))
        return read_in_turn(reader, some)

    read_in_turn = fetching.read_in_turn
    monkeypatch.setattr(fetching, "Room", Watched)
    monkeypatch.setattr(fetching, "read_in_turn", noted)
    found = list(fetch(images, Reader(S3Config(), 10_000), 10))
    assert [data.status if isinstance(data, BadImage) else data for data in found] == [
        "missing" if number == 20 else body for number, body in enumerate(bodies)
    ]
    assert max(most) <= 10
    assert sum(calls) == 50
    assert 1 < max(calls) <= fetching.TOGETHER


def test_an_image_is_claimed_once_however_often_it_is_begun() -> None:
    room = Room(100)
    for _ in range(3):
        room.claim(0, 60)
    room.claim(1, 40)
    with pytest.raises(NoRoom):
        room.claim(2, 1)
    room.free(0)
    room.claim(2, 60)


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
