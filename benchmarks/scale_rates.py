"""Rates of the model of docs/scale.md that no other benchmark prints, for scale_model.yaml; by CPU time.

IMAGES is a folder of photographs: a run on some of them, and one on more, say what each further one costs.

    python benchmarks/scale_rates.py IMAGES
"""

from __future__ import annotations

import argparse
import pickle
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from common import EVERY, Memory, cpu_time, fruitpipe, is_java, resident, subset, used
from scale import DIMENSION, MEGABYTE, RUN, Generated, facts, features, listing, paths

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.numeric import pca
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.moments import Moments
from fruitpipe.pipeline.plan import Plan
from fruitpipe.source import LISTING
from fruitpipe.spark.cluster import cluster
from fruitpipe.storage import layout
from fruitpipe.tasks.feature_part import to_parquet
from fruitpipe.tasks.reduce import vector_parts
from fruitpipe.tasks.shares import Shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, nargs=2, default=[500, 3000], help="of the two runs [%(default)s]")
    parser.add_argument("--planned", type=int, default=1_000_000, help="images that are planned [%(default)s]")
    parser.add_argument("--tasks", type=int, default=1000, help="empty ones [%(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-rates-") as name:
        folder = Path(name)
        for measure in (
            lambda: plan(options.planned, folder),
            lambda: tasks(options.tasks, folder),
            projected,
            lambda: made(1024),
            lambda: runs(options.images, options.count, folder),
        ):
            for key, value in measure():
                print(f"{key}: {value:.4g}", flush=True)


def plan(images: int, folder: Path) -> Iterator[tuple[str, float]]:
    """All that a run asks of its plan, where all images are new."""
    store = Generated(str(folder / "planned"), images)
    scratch = folder / "scratch"
    scratch.mkdir()
    before = cpu_time()
    the_plan = Plan(scratch, verify_content=False, retry="transient")
    with Memory() as peaks:
        the_plan.add_images(listing(images), LISTING)
        the_plan.digest()
        the_plan.add_features(store, "e" * 64)
        the_plan.summary()
        the_plan.write_todo(Shares(store, RUN, layout.TODO), slots=2)
        the_plan.add_parts(store, store.part_names())
        the_plan.count_by("status")
        the_plan.count_by("label")
        the_plan.write_index(Shares(store, RUN, layout.INDEX), DIMENSION)
        the_plan.write_failures(scratch / "failures.parquet")
        the_plan.known.feature_parts()
        size = size_of(scratch)
    the_plan.close()
    yield "plan, CPU seconds for a million", (cpu_time() - before) / images * 1e6
    yield "plan, bytes of its database for an image", size / images
    yield "plan, megabytes of memory", peaks.driver / MEGABYTE
    for what in (layout.TODO, layout.INDEX):
        written = pq.read_metadata(store.open(layout.shares(RUN, what, 0)))
        yield f"{what}, bytes of footer for a share", written.serialized_size / written.num_row_groups


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tasks(count: int, folder: Path) -> Iterator[tuple[str, float]]:
    """What a task costs that does nothing. The JVM is the driver's and an executor's at once."""
    with cluster(SparkConfig(master="local[2]"), Environment.read(), folder / "spark.log") as spark:
        java = [each for each in psutil.Process().children(recursive=True) if is_java(each)]
        yield "driver's JVM, megabytes", sum(map(resident, java)) / MEGABYTE
        spark.map(abs, 100)
        of_driver = (psutil.Process(), *java)
        whole, driver = cpu_time(), sum(map(used, of_driver))
        spark.map(abs, count)
        driver = sum(map(used, of_driver)) - driver
        yield "task, CPU seconds of driver and JVM", driver / count
        yield "task, CPU seconds of workers", (cpu_time() - whole - driver) / count


def projected() -> Iterator[tuple[str, float]]:
    """What the driver keeps of the errors of a vector part."""
    (rows, *_) = vector_parts(10_000_000, DIMENSION)
    blocks = [features(number, 1024) for number in range(rows // 1024)]
    fitted = pca.fit(Moments.of(np.concatenate(blocks[:4])), components=128)
    errors = np.concatenate([fitted.transform_with_error(block)[1] for block in blocks])
    yield "vector part, bytes of its errors on the driver", len(pickle.dumps(Distribution.of(errors)))


def made(rows: int) -> Iterator[tuple[str, float]]:
    """What scale.py spends on making features, which runs have no part in."""
    before = time.process_time()
    for number in range(8):
        to_parquet(facts(paths(0, rows)), features(number, rows))
    yield "features made up, CPU seconds for a million", (time.process_time() - before) / (8 * rows) * 1e6


def runs(images: Path, counts: list[int], folder: Path) -> Iterator[tuple[str, float]]:
    """Of what a further image costs, this is all but the plan's share."""
    used = []
    for count in counts:
        photographs, out = subset(images, count, folder / f"images-{count}"), folder / f"out-{count}"
        settings = ("--set", "pca.components=128", "--set", "spark.master=local[*]")  # as on clusters
        used.append(cpu_of(fruitpipe(photographs, out, *settings)))
        yield f"run of {count}, CPU seconds", used[-1]
    few, many = counts
    rate = (many - few) / (used[1] - used[0])
    yield "images for a CPU second", rate
    yield "start, CPU seconds", used[0] - few / rate
    yield "feature, bytes", size_of(out / layout.FEATURES) / many
    (latest,) = (out / layout.RUNS).iterdir()
    yield "vector, bytes", size_of(latest / layout.FOLDER["parquet"]) / many


def cpu_of(command: list[str]) -> float:
    """CPU seconds of a command and of all processes below it, looked at until each ends."""
    seen: dict[int, float] = {}
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for each in (process, *process.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        times = each.cpu_times()
                        seen[each.pid] = times.user + times.system
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return sum(seen.values())


if __name__ == "__main__":
    main()
