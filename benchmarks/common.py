"""What the benchmarks share: the same images for every contender, wall times from outside, ratios side by side."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import psutil

EXTENSIONS = {".jpg", ".jpeg", ".png"}
EVERY = 0.1
"""Seconds between samples of memory."""


def subset(images: Path, count: int | None, into: Path) -> Path:
    """A folder of `count` images spread evenly over the sorted paths of `images`, or `images` itself for None.

    Files are hard links where the disk allows it and copies elsewhere; the folders they lie in keep their names.
    """
    if count is None:
        return images
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if count > len(paths):
        raise SystemExit(f"{images} holds {len(paths)} images, not {count}")
    for number in range(count):
        path = paths[number * len(paths) // count]
        target = into / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            target.write_bytes(path.read_bytes())
    return into


def count_images(folder: Path) -> int:
    return sum(path.suffix.lower() in EXTENSIONS for path in folder.rglob("*"))


def output(command: list[str], **env: str) -> str:
    """Standard output of a command. Raises RuntimeError with the end of its standard error if it failed."""
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-30:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def timed(command: list[str], **env: str) -> float:
    """Wall seconds of a command, from before its process starts until after it ended. Raises as `output` does."""
    start = time.perf_counter()
    output(command, **env)
    return time.perf_counter() - start


def fruitpipe(images: Path, out: Path, *options: str) -> list[str]:
    """The command of a run that prints JSON, in a process like anybody else's."""
    return [sys.executable, "-m", "fruitpipe", "run", str(images), str(out), "--json", *options]


def race(
    contenders: Mapping[str, Callable[[Path, Path], float]], images: Path, few: Path, scratch: Path, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every contender in every round. Each is called with images and a fresh folder for its output.

    All run once on a few images before that, untimed: the disk's cache, Python's byte code and the converted backbone
    are there for everybody. The order turns around each round, so that none is always first.
    """
    for name, run in contenders.items():
        run(few, scratch / f"{name}-few")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            seconds[name].append(contenders[name](images, scratch / f"{name}-{number}"))
    return seconds


class Sampler(ABC, threading.Thread):
    """Takes samples of the processes below this one while something runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(EVERY):
            self.sample()

    @abstractmethod
    def sample(self) -> None: ...


def resident(process: psutil.Process) -> int:
    """Resident memory in bytes; 0 for a process that has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def is_java(process: psutil.Process) -> bool:
    try:
        return "java" in process.name()
    except psutil.NoSuchProcess:
        return False


class Memory(Sampler):
    """Largest resident memory of this process, its JVM and its workers, bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = self.worker = self.python = self.all = 0
        """this process with the JVM; the largest other; all but the JVM; all together"""

    def sample(self) -> None:
        own, java, workers = resident(psutil.Process()), 0, [0]
        for process in psutil.Process().children(recursive=True):
            if is_java(process):
                java += resident(process)
            else:
                workers.append(resident(process))
        self.driver = max(self.driver, own + java)
        self.worker = max(self.worker, *workers)
        self.python = max(self.python, own + sum(workers))
        self.all = max(self.all, own + java + sum(workers))


def cpu_time() -> float:
    """Seconds of processor time of this process and of all below it that live."""
    return sum(map(used, (psutil.Process(), *psutil.Process().children(recursive=True))))


def used(process: psutil.Process) -> float:
    """Its seconds of processor time; 0 for a process that has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0
    return float(times.user + times.system)


class Row(NamedTuple):
    """fruitpipe against another contender: seconds of each round, in the same order."""

    other: str
    ours: list[float]
    theirs: list[float]
    images: int
    target: float | None = None

    @property
    def ratio(self) -> float:
        """How many times faster fruitpipe was: the median of the rounds' own ratios."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True))


def report(rows: Iterable[Row]) -> None:
    """Print a table of ratios, with the times and images per second that they come from."""
    print(f"{'fruitpipe against':<24}{'seconds':>17}{'images/s':>17}{'ratio':>8}{'target':>9}")
    for row in rows:
        ours, theirs = statistics.median(row.ours), statistics.median(row.theirs)
        seconds = f"{ours:.1f} : {theirs:.1f}"
        rates = f"{row.images / ours:.0f} : {row.images / theirs:.0f}"
        target = f">= {row.target:g}" if row.target is not None else ""
        print(f"{row.other:<24}{seconds:>17}{rates:>17}{row.ratio:>8.2f}{target:>9}")
