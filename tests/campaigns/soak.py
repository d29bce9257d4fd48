"""Soak: run after run in one process, and increment after increment of one result, hold no more the longer it lasts."""

from __future__ import annotations

import gc
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

import fruitpipe
from fruitpipe.config import Config, FailuresConfig

MEMORY = 1.1
"""Late resident memory to early, at most: what is lost is lost in every run, what allocators keep is not."""

TEMPORARY = (".fruitpipe-", "fruitpipe-", "spark-", "blockmgr-")
"""What names of temporary files and folders of fruitpipe and Spark begin with."""


class Use(NamedTuple):
    """What this process holds between two runs."""

    megabytes: float
    """resident"""
    files: int
    """descriptors"""
    threads: int
    children: int
    temporary: int
    """files and folders that may be ours or Spark's"""

    @classmethod
    def now(cls) -> Use:
        gc.collect()
        process = psutil.Process()
        left = [path for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith(TEMPORARY)]
        return cls(
            process.memory_info().rss / 2**20,
            process.num_fds(),
            threading.active_count(),
            len(process.children(recursive=True)),
            len(left),
        )


def runs(images: Path, scratch: Path, count: int) -> Iterator[Use]:
    """After each of so many runs, each to an output of its own and with workers of its own."""
    for number in range(count):
        out = scratch / f"out-{number}"
        fruitpipe.run(config(images, out))
        shutil.rmtree(out)
        yield Use.now()


def increments(images: Path, scratch: Path, count: int) -> Iterator[Use]:
    """After each of so many runs on one result, each of which has more images than the one before."""
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    for number in range(count):
        for path in paths[number::count]:
            target = scratch / "images" / path.relative_to(images)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        run = fruitpipe.run(config(scratch / "images", scratch / "grown"))
        assert run.manifest.plan.new == len(paths[number::count]), "an increment computes its own images alone"
        yield Use.now()


def config(images: Path, out: Path) -> Config:
    failures = FailuresConfig(max_rate=1)  # of the first few images, one may be none
    return Config(input=str(images), output=str(out), backbone="efficientnet_lite0", failures=failures)


def require_flat(uses: Sequence[Use]) -> None:
    """Compare the last third of some runs with the second. Raises AssertionError where more is held."""
    third = len(uses) // 3
    early, late = uses[third : 2 * third], uses[2 * third :]
    for name in Use._fields:
        # The least, since a JVM that is still ending comes and goes; what is lost in each run raises it. A pool may get
        # another thread for good, but not one for each run in between.
        before, after = (min(getattr(use, name) for use in some) for some in (early, late))
        most = {"megabytes": before * MEMORY, "threads": before + third - 1}.get(name, before)
        assert after <= most, f"{name}: {after:g} late, {before:g} early: {uses}"
