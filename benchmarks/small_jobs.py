"""A small run by processes of this machine, as it is by default, against the same by Spark, start-up included.

By CPU time of all of their processes, and by the clock.

    python benchmarks/small_jobs.py IMAGES --count 1000 --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from common import Row, Sampler, fruitpipe, race, report, subset, timed


class CpuTime(Sampler):
    """CPU seconds of all processes that have been below this one, as they were when last seen."""

    def __init__(self) -> None:
        super().__init__()
        self._before = {each.pid for each in psutil.Process().children(recursive=True)}
        self._seen: dict[int, float] = {}

    def sample(self) -> None:
        for process in psutil.Process().children(recursive=True):
            if process.pid not in self._before:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._seen[process.pid] = times.user + times.system

    @property
    def seconds(self) -> float:
        return sum(self._seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=1000, help="how many of them [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    options = parser.parse_args()
    used: dict[str, list[float]] = {}

    def run(name: str, *settings: str) -> Callable[[Path, Path], float]:
        def measured(images: Path, out: Path) -> float:
            with CpuTime() as cpu:
                seconds = timed(fruitpipe(images, out, *settings))
            used.setdefault(name, []).append(cpu.seconds)
            return seconds

        return measured

    with tempfile.TemporaryDirectory(prefix="fruitpipe-small-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        few = subset(options.images, 20, Path(folder, "few"))
        contenders = {"processes": run("processes"), "Spark": run("Spark", "--set", "spark.master=local[*]")}
        seconds = race(contenders, images, few, Path(folder), options.rounds)
    cpu = {name: each[1:] for name, each in used.items()}  # without the run on a few
    report(
        [
            Row("Spark, CPU time", cpu["processes"], cpu["Spark"], options.count),
            Row("Spark, by the clock", seconds["processes"], seconds["Spark"], options.count),
        ]
    )


if __name__ == "__main__":
    main()
