"""Fit and project where features came in many increments, against the same images in one run.

The images of each increment lie between those of all others by path, so that every vector part has some of every
increment. Times are those of a run's fit and project stages; both ways run in turn, in one Spark. Features are made up,
in the likeness of a backbone's.

Then what vectors cost where 1 % of the images are new and the model is an earlier run's, as a share of projecting all,
by CPU time of one process.

    python benchmarks/increments.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from pca import RUN, make_features, write_result
from threadpoolctl import threadpool_limits

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.numeric import pca
from fruitpipe.sinks import open_sinks, vectors_of
from fruitpipe.spark.cluster import Cluster, cluster
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce
from fruitpipe.tasks.taking_over import TakeOver

TARGET = 1.3
LATER = "20260102-000000-0000"


def seconds(spark: Cluster, output: Path, parts: int) -> float:
    """Seconds that fit and project take, as `fruitpipe.pipeline.stages.Stages` does them."""
    store = LocalStore(str(output))
    start = time.perf_counter()
    with threadpool_limits(1):
        fitted = pca.fit(reduce.fit_moments(store, RUN, parts, spark.map))
    shared = spark.share(fitted)
    project = reduce.Project(store, RUN, open_sinks([], store, RUN, one_file=False), {}, 10)
    spark.map(lambda number: project(number, shared), parts)
    return time.perf_counter() - start


def daily_share(output: Path, parts: int, k: int) -> float:
    """CPU time of taking all parts over, as a share of projecting all, and the 1 % that is projected."""
    store = LocalStore(str(output))
    fitted = pca.fit(
        reduce.fit_moments(store, RUN, parts, lambda task, count: [task(each) for each in range(count)]), k
    )
    project = reduce.Project(store, RUN, open_sinks([], store, RUN, one_file=False), {}, 300)
    start = time.process_time()
    projected = [project(number, lambda: fitted) for number in range(parts)]
    whole = time.process_time() - start
    files = tuple(part.files[0] for part in projected)
    sinks = open_sinks([], store, LATER, one_file=False)
    take = TakeOver(store, LATER, RUN, files, fitted.length, sinks, {}, 300)
    start = time.process_time()
    assert all(take(number) for number in range(parts))
    return (time.process_time() - start) / whole + 0.01


def vectors(output: Path, parts: int) -> list[bytes]:
    store = LocalStore(str(output))
    tables = (pq.read_table(store.open(layout.vectors(RUN, number))) for number in range(parts))
    return [vectors_of(table).tobytes() for table in tables]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="images")
    parser.add_argument("--increments", type=int, default=100)
    parser.add_argument("--components", type=int, default=542, help="of a vector, where 1 %% are new")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    features = make_features(options.count)
    with tempfile.TemporaryDirectory(prefix="fruitpipe-increments-") as folder:
        log = Path(folder, "spark.log")
        one, many = Path(folder, "one"), Path(folder, "many")
        parts = write_result(one, features, options.cores)
        write_result(many, features, options.cores, options.increments)
        with cluster(SparkConfig(master=f"local[{options.cores}]"), Environment.read(), log) as spark:
            for output in (one, many):
                seconds(spark, output, parts)
            assert vectors(one, parts) == vectors(many, parts)
            taken: dict[Path, list[float]] = {one: [], many: []}
            for number in range(options.rounds):
                for output in (one, many)[:: -1 if number % 2 else 1]:
                    taken[output].append(seconds(spark, output, parts))
        share = daily_share(one, parts, options.components)
    ratio = statistics.median(b / a for a, b in zip(taken[one], taken[many], strict=True))
    one_run, increments = (statistics.median(taken[output]) for output in (one, many))
    print(f"{options.count} images, {options.cores} cores: {one_run:.2f} s in one run, {increments:.2f} s in "
          f"{options.increments} increments; ratio {ratio:.2f}, target <= {TARGET}")  # fmt: skip
    print(f"1 % new by an earlier model: {share:.2f} of projecting all")


if __name__ == "__main__":
    main()
