"""Runs after the first, as shares of its time; and memory.

With nothing to do, of another config with nothing new, with 1 % new images, and with 1 % more by the same model.

Times are of whole processes, start-up included. Memory is resident memory during the first run, sampled from outside.

    python benchmarks/rerun.py IMAGES
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
from common import Sampler, resident, subset, timed

from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import LocalStore

MB = 1e6


class Watch(Sampler):
    """Peaks of resident memory, in bytes, of the fruitpipe that runs as a child of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = self.jvm = self.both = self.worker = 0

    def sample(self) -> None:
        """The driver is Python; its children are the nursery and its workers or, in a long run, java with
        pyspark.daemon and its workers."""
        for driver in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                children = driver.children(recursive=True)
                jvms = [child for child in children if child.name() == "java"]
                python, java = resident(driver), sum(map(resident, jvms))
                workers = [resident(child) for child in children if child not in jvms]
                self.driver, self.jvm = max(self.driver, python), max(self.jvm, java)
                self.both = max(self.both, python + java)
                self.worker = max(self.worker, *workers, 0)


def hold_out(images: Path, into: Path) -> None:
    """Move every hundredth image, and one at least, to the same place in another folder."""
    for path in sorted(path for path in images.rglob("*") if path.is_file())[1::100]:
        target = into / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def run_fruitpipe(images: Path, out: Path, *options: str) -> tuple[float, Manifest]:
    seconds = timed([sys.executable, "-m", "fruitpipe", "run", str(images), str(out), *options])
    return seconds, open_run(LocalStore(str(out))).manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images; it is copied")
    parser.add_argument("--count", type=int, help="how many of them (default: all)")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="fruitpipe-rerun-") as folder:
        images, held, more, out = (Path(folder, name) for name in ("images", "held", "more", "out"))
        shutil.copytree(subset(options.images, options.count, Path(folder, "subset")), images)
        # The first run on a machine converts the backbone and writes Spark's class archive, which no later one does.
        run_fruitpipe(subset(images, 20, Path(folder, "few")), Path(folder, "out-few"))

        hold_out(images, held)
        hold_out(images, more)
        with Watch() as memory:
            runs = [run_fruitpipe(images, out)]
        runs.append(run_fruitpipe(images, out))
        runs.append(run_fruitpipe(images, out, "--variance", "0.94"))
        shutil.copytree(held, images, dirs_exist_ok=True)
        runs.append(run_fruitpipe(images, out))
        shutil.copytree(more, images, dirs_exist_ok=True)
        runs.append(run_fruitpipe(images, out, "--set", "model=reuse"))

    names = ("first run", "nothing to do", "nothing new", "1 % new images", "1 % more, model reused")
    targets = ("", "<= 0.15", "<= 0.15", "<= 0.20", "<= 0.06")
    print(f"{'':<24}{'images':>8}{'new':>8}{'seconds':>9}{'of first':>10}{'target':>9}{'fit, project':>14}")
    for name, target, (seconds, manifest) in zip(names, targets, runs, strict=True):
        share = f"{seconds / runs[0][0]:.3f}"
        idle = name == "nothing to do"  # whose manifest is the first run's
        new = 0 if idle else manifest.plan.todo
        reduced = 0.0 if idle else sum(manifest.timings.get(stage, 0.0) for stage in ("fit", "project"))
        print(f"{name:<24}{manifest.counts.images:>8}{new:>8}{seconds:>9.1f}{share:>10}{target:>9}{reduced:>12.2f} s")

    peaks = (
        ("driver, Python", memory.driver, ""),
        ("driver, JVM (its child java)", memory.jvm, ""),
        ("driver, both at once", memory.both, "<= 1500"),
        ("largest worker, by the manifest", runs[0][1].worker_memory, "<= 400"),
        ("largest worker or daemon (below java)", memory.worker, ""),
    )
    print(f"\n{'peak resident memory of the first run':<40}{'MB':>11}{'target':>9}")
    for name, peak, target in peaks:
        print(f"{name:<40}{peak / MB:>11.0f}{target:>9}")


if __name__ == "__main__":
    main()
