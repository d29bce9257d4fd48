"""What a worker holds of images at a time."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import hostile
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from seaweed import BUCKET

from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.source import Reader, fetching, files, list_images
from fruitpipe.source.fetching import AHEAD_BYTES, Image, NoRoom, Room, fetch
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.feature_part import part_name, read_facts, read_features
from fruitpipe.tasks.featurize import Featurize, View, Wanted, featurize, featurized
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.thumbnails import cells

MEGABYTE = 1_000_000
DIGEST = "d" * 64
"""Of features."""


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


@dataclass
class Given:
    """An engine that is there already, in the place of how to start it."""

    engine: Means
    device: str = "CPU"

    def start(self) -> Means:
        return self.engine


def of_colours(folder: Path, count: int) -> list[Image]:
    """Images of one colour each, which tells their number; the fourth is none."""
    images = []
    for number in range(count):
        path = folder / f"{number:03}.png"
        Pillow.new("RGB", (8, 8), (number, 0, 0)).save(path)
        images.append(Image(str(path), f"etag {number}", path.stat().st_size))
    Path(images[3].path).write_bytes(b"none")
    return images


def task_of(
    images: list[Image], store: LocalStore, scratch: Path, largest: int, reader: Reader, *others: Wanted
) -> Featurize:
    """The one task of some images, which are missing in `store`, and for others."""
    todo = Shares(store, "20260101-000000-abcd", layout.TODO)
    columns = [list(column) for column in zip(*images, strict=True)]
    missing = [(1 << 1 + len(others)) - 1] * len(images)
    scratch.mkdir()
    todo.write([pa.record_batch([*columns, missing], names=[*Image._fields, "missing"])], [len(images)], scratch)
    return Featurize(todo, (Wanted(store, DIGEST, uuid4().hex, ImageConfig()), *others), reader, largest)


def test_a_task_makes_parts_of_what_it_would_make_of_their_images_alone(tmp_path: Path) -> None:
    """For two results, of which one has thumbnails."""
    images = of_colours(tmp_path, 70)
    stores, reader = [LocalStore(str(tmp_path / name)) for name in ("one", "other")], Reader(S3Config(), 1 << 20)
    digests = [DIGEST, "e" * 64]
    other = Wanted(stores[1], digests[1], uuid4().hex, ImageConfig(), thumbnails=16)
    task = task_of(images, stores[0], tmp_path / "scratch", 30, reader, other)
    found = task(0, 2 * [lambda: Given(Means())])  # type: ignore[list-item,return-value]
    parts = [images[:24], images[24:47], images[47:]]
    assert [done.parts for done in found] == [
        {
            which: part_name(digest, featurize(part, Means(), ImageConfig(), reader)[0].to_table())
            for which, digest in enumerate(digests)
        }
        for part in parts
    ]
    assert [done.statuses for done in found] == [{"ok": 23, "undecodable": 1}, {"ok": 23}, {"ok": 23}]
    assert sum(done.bytes for done in found) == sum(Path(image.path).stat().st_size for image in images)
    for done, part in zip(found, parts, strict=True):
        expected, features = featurize(part, Means(), ImageConfig(), reader)
        ok = [number for number, status in enumerate(expected.status) if status == "ok"]
        for which, store in enumerate(stores):
            facts = read_facts(store, done.parts[which])
            assert facts is not None
            assert facts.select(layout.FACTS.names).equals(expected.to_table())
            stored = read_features(store, facts["part"].take(ok), facts["row"].take(ok))
            assert (stored == features[ok]).all()
        seen = cells(stores[1].get(layout.thumbnails(done.parts[1], 16)), len(part), 16)
        red = [int(Path(image.path).stem) for image in part]
        assert np.abs(seen[ok, 8, 8, 0].astype(int) - np.array(red)[ok]).max() < 8, "each in its own cell"
    assert not any(layout.of_thumbnails(name) for name, _ in stores[0].names(layout.FEATURES))


def test_a_part_whose_thumbnails_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    class Full(LocalStore):
        def put(self, name: str, data: Any) -> None:
            if layout.of_thumbnails(name):
                raise OSError("No space left on device")
            super().put(name, data)

    store, reader = Full(str(tmp_path / "out")), Reader(S3Config(), 1 << 20)
    wanted = Wanted(store, DIGEST, uuid4().hex, ImageConfig(), thumbnails=16)
    task = replace(task_of(of_colours(tmp_path, 20), store, tmp_path / "scratch", 20, reader), wanted=(wanted,))
    with pytest.raises(OSError, match="No space"):
        task(0, [lambda: Given(Means())])  # type: ignore[list-item,return-value]
    assert not list(store.names(layout.FEATURES))


@dataclass(frozen=True)
class Noting(Reader):
    """A reader that tells which images it reads."""

    reads: Callable[[str], None] = lambda path: None

    def read(self, path: str, *rest: Any) -> bytes | memoryview:
        self.reads(path)
        return super().read(path, *rest)


def test_the_next_part_is_fetched_as_one_is_computed_and_computed_as_that_is_written(tmp_path: Path) -> None:
    """And the one after it is not begun before that, so that no more than two are held."""
    images = of_colours(tmp_path, 96)
    fetched, computed, counts = Event(), Event(), []

    class Waiting(Means):
        done = 0

        def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
            self.done += 1
            if self.done == 2:
                assert fetched.wait(10), "the second part's first image comes while the first part's last are computed"
            found = super().run(pixels, out)
            if self.done == 4:
                computed.set()
            return found

    class Slow(LocalStore):
        def put(self, name: str, data: Any) -> None:
            if layout.is_feature_part(name):
                assert computed.wait(10), "the second part is computed while the first is written"
                time.sleep(0.2)  # in which one that did not wait would compute the third
                counts.append(engine.done)
            super().put(name, data)

    def note(path: str) -> None:
        if path == images[32].path:
            fetched.set()

    store, engine = Slow(str(tmp_path / "out")), Waiting()
    task = task_of(images, store, tmp_path / "scratch", 32, Noting(S3Config(), 1 << 20, reads=note))
    found = task(0, [lambda: Given(engine)])  # type: ignore[arg-type,return-value]
    assert counts[0] == 4
    assert [done.statuses.total() for done in found] == [32, 32, 32]
    assert {name for name, _ in store.names(layout.FEATURES)} == {done.parts[0] for done in found}


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_part_that_cannot_be_written_fails_its_task_and_those_before_stay(tmp_path: Path, bad: int) -> None:
    images = of_colours(tmp_path, 60)
    tried = Counter[str]()

    class Full(LocalStore):
        def put(self, name: str, data: Any) -> None:
            if layout.is_feature_part(name):
                tried[name] += 1
                if len(tried) == bad:
                    raise OSError("No space left on device")
            super().put(name, data)

    store = Full(str(tmp_path / "out"))
    task = task_of(images, store, tmp_path / "scratch", 20, Reader(S3Config(), 1 << 20))
    with pytest.raises(OSError, match="No space"):
        task(0, [lambda: Given(Means())])  # type: ignore[arg-type,return-value]
    assert {name for name, _ in store.names(layout.FEATURES)} == {*list(tried)[: bad - 1]}


def test_an_image_is_claimed_once_however_often_it_is_begun() -> None:
    room = Room(100)
    for _ in range(3):
        room.claim(0, 60)
    room.claim(1, 40)
    with pytest.raises(NoRoom):
        room.claim(2, 1)
    room.free(0)
    room.claim(2, 60)


@pytest.mark.parametrize("by", [-1000, 0, 1000])
def test_a_file_that_changes_while_it_is_read_is_no_picture_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    path = large(tmp_path / "growing.jpg", MEGABYTE)
    os.utime(path, (0, 0))
    fstat = files.os.fstat

    def then_changed(descriptor: int) -> object:
        status = fstat(descriptor)
        with path.open("r+b") as file:
            file.truncate(MEGABYTE + by)
            file.write(b"x")
        return status

    monkeypatch.setattr(files.os, "fstat", then_changed)
    with pytest.raises(BadImage, match="changed while it was read") as caught:
        files.read_image(str(path), 2 * MEGABYTE)
    assert caught.value.status == "changed"


def test_what_is_told_of_a_bad_image_holds_nothing_else(tmp_path: Path) -> None:
    """A traceback holds what all callers hold, such as the bytes of the next images, until somebody collects."""
    bad = {"missing.jpg": None, "no image.jpg": b"no image", "bomb.png": hostile.png_bomb()}
    for name, data in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    images = [Image(str(tmp_path / name)) for name in bad]
    engine, reader = Means(), Reader(S3Config(), MEGABYTE)
    gc.disable()
    try:
        fetched = fetch(images, reader)
        given_up = weakref.ref(fetched)
        ((facts, _),) = featurized(images, [View(engine, ImageConfig())], fetched)
        del fetched
        assert given_up() is None
    finally:
        gc.enable()
    assert facts.status == ["missing", "undecodable", "too_large"]
