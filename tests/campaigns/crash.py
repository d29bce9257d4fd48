"""Crashes: runs that are killed at drawn moments, and then finished, give what an undisturbed run gives."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from command import command, fruitpipe
from processes import children_of, jvms_of, kill, lives, wait, workers_of
from s3 import options
from seaweed import Server

from fruitpipe.config import S3Config
from fruitpipe.errors import UserError
from fruitpipe.result import facts_index
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import list_runs, open_run
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store, open_store

SETTINGS = ("backbone=efficientnet_lite0",)  # whose weights are wherever pip is
EXIT = {"worker": 0, "executor": 1, "driver": -9, "server": 2, "full disk": 1}
"""Exit code of a run by what was killed amid it, if it did not go on to its end. That a server does not answer a
run's first request is said at once."""
BAD = 3
"""Files among the images that are none."""
HANGS = 300
"""Seconds of a run, or of what of it is watched, that otherwise takes some ten."""

ON_DISK = ("worker", "executor", "driver", "full disk")
ON_S3 = ("worker", "executor", "driver", "server")


def images_of(folder: Path, into: Path, count: int = 400) -> Path:
    """Hard links, or copies, of the first images of a folder, and some files that are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for path in paths[:count]:
        target = into / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, target)
    for number in range(BAD):
        (into / f"bad-{number}.jpg").write_bytes(b"no image")
    return into


@contextmanager
def small_disk(folder: Path, megabytes: int = 100) -> Iterator[Path]:
    """A file system of its own, that a run can fill. Only root may make one."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class Published(NamedTuple):
    """What all runs over the same images must agree in."""

    counts: dict[str, Any]
    vectors: pa.Table
    failures: pa.Table

    @classmethod
    def of(cls, store: Store) -> Published:
        manifest = open_run(store).manifest

        def read(names: Iterable[str]) -> pa.Table:
            found = [store.get(layout.run(manifest.run, name)) for name in names]
            return pa.concat_tables(
                pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None) for data in found
            )

        vectors = sorted(file.name for file in manifest.files if file.name.startswith("vectors/"))
        return cls(manifest.counts.model_dump(), read(vectors), read(["failures.parquet"]))


@dataclass(frozen=True)
class Place:
    """Where runs read and write."""

    images: str
    root: str
    """below which each round has its result"""
    scratch: Path
    """for what runs keep on the machine's disk, and what they say"""
    victims: tuple[str, ...]
    server: Server | None = None
    settings: tuple[str, ...] = SETTINGS
    """of all runs; the last word on where the server is"""

    def store(self, name: str) -> Store:
        s3 = S3Config(endpoint=self.server.endpoint, allow_http=True) if self.server else None
        made = open_store(f"{self.root}/{name}", s3)
        made.create()
        return made

    def start(self, name: str, settings: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """A run in a process of its own, with a folder of its own for temporary files."""
        self.temporary(name).mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            return subprocess.Popen(
                command(*self._arguments(name, settings)),
                stdout=log,
                stderr=log,
                env=os.environ | {"TMPDIR": str(self.temporary(name)), "PYTHONFAULTHANDLER": "1"},
            )

    def watched(self, name: str, process: subprocess.Popen[bytes], store: Store, count: int | None = None) -> set[str]:
        """Read the result at each of its states until it has had so many objects, or the run has ended; their names."""
        names: set[str] = set()
        begun = time.monotonic()
        while process.poll() is None and (count is None or len(names) < count):
            now = {name for name, _ in store.names("") if not name.endswith(".tmp")}
            if now - names:
                names |= now
                read(store)
            time.sleep(0.05)
            assert time.monotonic() < begun + HANGS, f"it does not end:\n{self._stacks(name, process)}"
        return names

    def _stacks(self, name: str, process: subprocess.Popen[bytes]) -> str:
        """What a run and its processes have said, at last where each of them is."""
        for each in (*children_of(process.pid), psutil.Process(process.pid)):
            with suppress(psutil.NoSuchProcess):  # it has ended with another one
                each.send_signal(signal.SIGABRT)
                each.wait()
        return "\n".join(path.read_text() for path in (self.log(name), *self.temporary(name).rglob("*.log")))

    def finish(self, name: str) -> None:
        """A run in this process, on the Spark that all such runs have."""
        fruitpipe(*self._arguments(name), "--json")

    def _arguments(self, name: str, settings: tuple[str, ...] = ()) -> list[str]:
        words = options(self.server.endpoint) if self.server else []
        words += [word for setting in (*self.settings, *settings) for word in ("--set", setting)]
        return ["run", self.images, f"{self.root}/{name}", *words]

    def temporary(self, name: str) -> Path:
        return self.scratch / name

    def log(self, name: str) -> Path:
        return self.scratch / f"{name}.log"


class Campaign:
    """Rounds in one place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        place.scratch.mkdir(parents=True, exist_ok=True)
        store, process = place.store("undisturbed"), place.start("undisturbed")
        self._objects = len(place.watched("undisturbed", process, store))
        assert process.wait() == 0, place.log("undisturbed").read_text()
        self.undisturbed = Published.of(store)

    def play(self, seed: str) -> Counter[str]:
        """One result, from the first run to the last; says what was killed how often.

        Raises AssertionError where anything is lost, doubled, different, unreadable or left over.
        """
        store = self.place.store(seed)
        try:
            return self._play(seed, store)
        finally:  # or the small disk would be full after some rounds
            for name, _ in store.names(""):
                store.delete(name)

    def _play(self, seed: str, store: Store) -> Counter[str]:
        draw, told, ended = random.Random(seed), Counter[str](), False
        for _ in range(2 if draw.random() < 0.3 else 1):
            victim = draw.choice(self.place.victims)
            hit, ended = self._disturbed(seed, store, victim, draw)
            told[victim if hit else "ended before"] += 1
        if told.total() > 1:
            told["twice"] += 1
        if not ended:
            self.place.finish(seed)
        self._compare(store)
        return told

    def _disturbed(self, name: str, store: Store, victim: str, draw: random.Random) -> tuple[bool, bool]:
        """A run that is hit when the result has a number of objects that is drawn; whether it was, and ended well."""
        count = draw.randint(0, self._objects)
        delay = draw.uniform(0, 0.3 if count else 8)
        earlier = set(self.place.temporary(name).glob("*"))
        # Tasks are run by processes of the machine, but where the JVM is to be killed.
        process = self.place.start(name, ("spark.master=local[2]",) if victim == "executor" else ())
        self.place.watched(name, process, store, count)
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        family = children_of(process.pid)
        with self._struck(victim, process, draw) as hit:
            self.place.watched(name, process, store)
        code = process.wait()
        wait(lambda: not any(map(lives, family)))
        read(store)
        said = self.place.log(name).read_text()
        assert code in ({0, EXIT[victim]} if hit else {0}), f"{victim}: exit code {code}: {said}"
        if code > 0:
            assert "Traceback" not in said, said
            assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said
            assert victim != "server" or len(said.splitlines()) == 1, f"it ended after its first request: {said}"
        if code >= 0:
            # Of a driver killed before, as it started its JVM, PySpark's `tmp…` stays; all else goes, unless this run
            # could not even write its lease, or reach its store, before which it does nothing else.
            if "list: " in said:
                earlier = {path for path in earlier if not path.name.startswith(".fruitpipe-")}
            left = set(self.place.temporary(name).iterdir()) - earlier
            assert not left, f"{victim}: left among the temporary files: {left}"
        return hit, code == 0

    @contextmanager
    def _struck(self, victim: str, process: subprocess.Popen[bytes], draw: random.Random) -> Iterator[bool]:
        """Something that the run needs is gone; says whether it was there."""
        if victim == "full disk":
            with full(Path(self.place.root)):
                yield process.poll() is None
            return
        found = []
        if victim in FIND:
            wait(lambda: found.extend(FIND[victim](process.pid)) or found or process.poll() is not None)
        elif process.poll() is None:
            if victim == "server":
                assert self.place.server
                self.place.server.restart()
            else:
                process.kill()
            yield True
            return
        if found:
            kill([draw.choice(found)])
        yield bool(found)

    def _compare(self, store: Store) -> None:
        found, expected = Published.of(store), self.undisturbed
        assert found.counts == expected.counts, f"counts differ: {found.counts}, {expected.counts}"
        for name in ("vectors", "failures"):
            one, other = getattr(found, name), getattr(expected, name)
            paths, wanted = (Counter(table["path"].to_pylist()) for table in (one, other))
            assert paths == wanted, f"{name}: lost {wanted - paths}, doubled {paths - wanted}"
            assert one.equals(other), f"{name} differ"
        assert store.find(layout.LEASE) is None, "the lease is still there"
        collect(store)
        assert not find_garbage(store).objects
        there = {name for name, _ in store.names("")} - {".lock"}
        assert there == needed(store), f"left over or missing: {sorted(there ^ needed(store))}"


FIND = {"worker": workers_of, "executor": jvms_of}


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is left on a disk meanwhile."""
    ballast, taken = disk / "ballast", 0
    try:
        with ballast.open("wb") as file:
            while left := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize:
                with suppress(OSError):  # others write meanwhile
                    os.posix_fallocate(file.fileno(), taken, left)
                    taken += left
        yield
    finally:
        ballast.unlink(missing_ok=True)


def needed(store: Store) -> set[str]:
    """All objects of a result that has no garbage and was not compacted."""
    names = {layout.MARKER, layout.LATEST}
    published = [row for row in list_runs(store) if row.status in {"latest", "published"}]
    for row in published:  # SeaweedFS lists folders that are empty by now, too
        manifest = Manifest.read(store.get(layout.manifest(row.run)))
        names |= {layout.run(row.run, file.name) for file in manifest.files} | set(manifest.feature_parts)
        names |= {layout.manifest(row.run), layout.report(row.run), layout.log(row.run)}
    listed = dict(store.names(layout.FEATURES))
    return names | facts_index.useful(store, listed, listed)


def read(store: Store) -> None:
    """What `runs` and `show` read; where nothing is published yet, they say so."""
    for look in (list_runs, open_run):
        with suppress(UserError):
            look(store)
