"""Few rounds of each campaign; `make chaos` plays many. What they have found has a test of its own here."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import command
import pytest
from campaigns import concurrency, crash, lies, lossy, soak
from conftest import unavailable
from parts import Image, put_part
from seaweed import BUCKET, Server

import fruitpipe
from fruitpipe.config import S3Config
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import clients
from fruitpipe.result.compaction import compact
from fruitpipe.result.garbage import collect
from fruitpipe.result.runs import latest_run, list_runs, point_latest, publish
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import LocalStore, Store


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[concurrency.Template]:
    with concurrency.in_steps():
        yield concurrency.Template(tmp_path_factory.mktemp("template"))


@pytest.mark.parametrize("place", ["disk", pytest.param("S3", marks=pytest.mark.slow)])
def test_no_interleaving_takes_a_file_from_a_published_run(
    place: str, template: concurrency.Template, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    told: Counter[str] = Counter()
    for number in range(8):
        if place == "S3":
            s3: S3Config = request.getfixturevalue("s3")
            told += concurrency.play(template, f"s3://{BUCKET}/interleaved/{number}", f"tests {number}", s3)
        else:
            told += concurrency.play(template, str(tmp_path / f"{number}"), f"tests {number}")
    assert min(told[kind] for kind in ("run others", "run more", "gc", "publish", "compact", "transform")) > 0, told
    assert told["refused"]
    assert told["stood still"]


class Overtaken(LocalStore):
    """A store whose lease lapses, and is somebody else's, right before the object `name` is asked for."""

    name = ""

    def delete(self, name: str) -> None:
        super().delete(name)
        if self.name == name:
            super().delete(layout.LEASE)


def test_gc_that_has_lost_its_lease_deletes_no_more(store: Store) -> None:
    """A run that took over may be publishing what was garbage."""
    store.put(layout.MARKER, b'{"layout": 1}')
    first, second = sorted(put_part(store, "d" * 64, [Image(name)]) for name in "ab")
    overtaken = Overtaken(store.url)
    overtaken.name = first
    with pytest.raises(FruitpipeError, match="took over"):
        collect(overtaken)
    assert store.find(first) is None
    assert store.find(second) is not None


def test_compaction_that_has_lost_its_lease_deletes_no_more(store: Store) -> None:
    first, second = sorted(put_part(store, "d" * 64, [Image(name)]) for name in "ab")
    overtaken = Overtaken(store.url)
    overtaken.name = first
    with pytest.raises(FruitpipeError, match="took over"):
        compact(overtaken)
    assert store.find(second) is not None


class Lapsing(LocalStore):
    """A store whose lease lapses, and is somebody else's, once an object of the name `last` is put."""

    last = ""

    def put(self, name: str, data: bytes | memoryview) -> None:
        super().put(name, data)
        if name.endswith(self.last):
            self.delete(layout.LEASE)


def test_compaction_that_has_lost_its_lease_says_not_which_part_became_which(store: Store) -> None:
    """The parts that it has read may be others by now."""
    old = {put_part(store, "d" * 64, [Image(name)]) for name in "ab"}
    lapsing = Lapsing(store.url)
    lapsing.last = ".parquet"
    with pytest.raises(FruitpipeError, match="took over"):
        compact(lapsing)
    there = {name for name, _ in store.names(layout.FEATURES)}
    assert old < there
    assert not any(map(layout.is_merge, there))


@pytest.mark.parametrize(
    ("images", "last", "runs"),
    [("others", "report.html", 2), ("others", "manifest.json", 3), ("few", layout.LEASE, 2)],
    ids=["before its manifest", "after its manifest", "of an earlier run that would be the latest again"],
)
def test_a_run_that_has_lost_its_lease_is_not_published_or_not_the_latest(
    images: str, last: str, runs: int, template: concurrency.Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = template.copy(str(tmp_path / "out"), None)
    before, lapsing = latest_run(store), Lapsing(store.url)
    lapsing.last = last
    monkeypatch.setattr(concurrency.own, "store", lapsing, raising=False)
    with pytest.raises(FruitpipeError, match="took over"):
        fruitpipe.run(template.config(images, store.url, **concurrency.FIRST))
    assert latest_run(store) == before
    assert sum(row.status in {"latest", "published"} for row in list_runs(store)) == runs


class Overtaking(LocalStore):
    """A store in which somebody else publishes between a look at the latest run and the next request."""

    def find(self, name: str) -> bytes | None:
        found = super().find(name)
        if name == layout.LATEST:
            self.put(name, b'{"run": "20260101-000000-abcd"}')
        return found


def test_who_is_overtaken_does_not_take_the_latest_run_back(store: Store) -> None:
    """As where a process stood still until its lease had lapsed."""
    with pytest.raises(FruitpipeError, match="another process has just published"):
        point_latest(Overtaking(store.url), "20251231-000000-abcd")
    assert latest_run(store) == "20260101-000000-abcd"


def test_nobody_publishes_while_somebody_writes(template: concurrency.Template, tmp_path: Path) -> None:
    store = template.copy(str(tmp_path / "out"), None)
    before = latest_run(store)
    old = next(row.run for row in list_runs(store) if row.status == "published")
    with Lease(store, "run elsewhere"), pytest.raises(UserError, match=r"run elsewhere .* is writing to"):
        publish(store, old)
    assert latest_run(store) == before


def test_who_fails_after_losing_the_lease_is_told_of_the_loss(store: Store) -> None:
    """Rather than that a file is gone which somebody else has cleared away."""

    def work() -> None:
        with Lease(store, "run 1"):
            store.delete(layout.LEASE)
            store.get("runs/1/work/index-00000.parquet")

    with pytest.raises(FruitpipeError, match="took over") as told:
        work()
    assert isinstance(told.value.__cause__, FileNotFoundError)


class Late(LocalStore):
    """A store that does not list one run yet: not its objects, or not its folder either."""

    run = ""
    lists_folder = True

    def entries(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        return (each for each in super().entries(prefix) if not each[0].startswith(layout.run(self.run)))

    def folders(self, prefix: str) -> list[str]:
        return [name for name in super().folders(prefix) if name != self.run or self.lists_folder]


@pytest.mark.parametrize("is_latest", [True, False])
def test_gc_takes_no_published_run_for_garbage_that_a_store_lists_late(
    is_latest: bool, template: concurrency.Template, tmp_path: Path
) -> None:
    store = template.copy(str(tmp_path / "late"), None)
    watch, late = concurrency.Watch(store, template), Late(store.url)
    late.run = next(row.run for row in list_runs(store) if row.status == ("latest" if is_latest else "published"))
    late.lists_folder = not is_latest
    assert collect(late).objects
    watch.look()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one of its own, where this user may mount it."""
    if os.geteuid():
        unavailable("only root can mount a small file system")
    with crash.small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.mark.slow
def test_what_was_killed_and_finished_is_what_was_not_disturbed(data: Path, disk: Path, tmp_path: Path) -> None:
    images = crash.images_of(data / "fruits-360" / "Sample", tmp_path / "images")
    campaign = crash.Campaign(crash.Place(str(images), str(disk), tmp_path / "scratch", crash.ON_DISK))
    told = sum((campaign.play(f"tests {number}") for number in range(1)), Counter[str]())
    assert sum(told[each] for each in crash.ON_DISK), "somebody was killed"


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_no_lie_of_a_server_is_published(
    server: Server, template: concurrency.Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.spark()
    monkeypatch.setitem(clients.ANSWERS, clients.LATER, 3)  # seconds, instead of the minute that nobody waits for here
    campaign = lies.Campaign(template, server)
    for name, lie in lies.lies(outage=8).items():
        campaign.play(name, lie)


@pytest.mark.slow
def test_run_after_run_in_one_process_holds_no_more(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    soak.require_flat(list(soak.runs(fruits / "Apple", tmp_path / "runs", 6)))
    command.spark()  # by which increments are made, as it is there
    soak.require_flat(list(soak.increments(fruits / "Apple", tmp_path / "increments", 6)))


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_what_executors_requests_and_a_driver_were_lost_of_has_the_bits_of_what_was_not_disturbed(
    server: Server, tmp_path: Path
) -> None:
    """As many executors and requests of a few as else of many."""
    campaign = lossy.Campaign(server, tmp_path / "lossy", 9000, 16, lossy.Losses(executors=0.4, requests=0.04))
    told = campaign.play("tests")
    assert told["driver"] == 1
    assert told["executor"], told
    assert {"requests, slow_down", "requests, internal_error", "requests, reset"} & {*told}, told
