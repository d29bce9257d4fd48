"""Plan, fit and project as many images as there may be, whose features nobody has stored: time and memory by stage.

Feature parts are made as they are read, from a seed; only the index, moments and vectors are on disk. All else is the
pipeline's own code, in the order of `fruitpipe.pipeline.stages`. Memory is that of the driver, with its JVM, and of the
largest Python worker. With --check, one process does the same without Spark, and the model's bits are compared.

    python benchmarks/scale.py 1000000 2000000
    python benchmarks/scale.py 200000 --check
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Memory, cpu_time
from numpy.typing import NDArray

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.numeric import pca
from fruitpipe.numeric.moments import added
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.pipeline.plan import Plan
from fruitpipe.sinks import open_sinks, vectors_of
from fruitpipe.source import LISTING
from fruitpipe.spark.cluster import Cluster, cluster
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce
from fruitpipe.tasks.feature_part import to_parquet
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import OK

RUN, DIGEST = "20260101-000000-0000", "d" * 64
ROWS, DIMENSION, FACTORS = 1024, 1280, 160
MEGABYTE = 1e6


class Generated(LocalStore):
    """A store that has feature parts of ROWS images each that nobody has written."""

    def __init__(self, url: str, images: int) -> None:
        super().__init__(url)
        self.images = images

    def __reduce__(self) -> Any:
        return Generated, (self.url, self.images)

    def part_names(self) -> Iterator[str]:
        return (f"{layout.features(DIGEST)}/part-{number:032x}.parquet" for number in range(-(-self.images // ROWS)))

    def names(self, folder: str = "") -> Iterator[tuple[str, int]]:
        if folder == layout.features(DIGEST):
            return ((name, 0) for name in self.part_names())
        return super().names(folder)

    def open(self, name: str) -> Any:
        """Of a feature part, its facts, which is what the plan reads."""
        if not layout.is_feature_part(name):
            return super().open(name)
        sink = io.BytesIO()
        pq.write_table(facts(self.paths(name)), sink)
        return io.BytesIO(sink.getvalue())

    def get(self, name: str) -> bytes:
        if not layout.is_feature_part(name):
            return super().get(name)
        return bytes(to_parquet(facts(self.paths(name)), features(number_of(name), len(self.paths(name)))))

    def paths(self, name: str) -> list[str]:
        first = number_of(name) * ROWS
        return paths(first, min(first + ROWS, self.images))


def number_of(part: str) -> int:
    return int(part[-40:-8], 16)


def paths(first: int, end: int) -> list[str]:
    return [f"photographs/2026/label-{row // 100_000:04}/IMG_{row:012}.jpg" for row in range(first, end)]


def facts(of: list[str]) -> pa.Table:
    count = len(of)
    side, nothing = pa.array(np.full(count, 100, np.int32)), pa.nulls(count, pa.string())
    columns = [pa.array(of), pa.repeat("1-1", count), nothing, side, side, pa.repeat(OK, count), nothing]
    return pa.table(columns, schema=layout.FACTS)


def features(part: int, count: int) -> NDArray[np.float32]:
    """Of some factors, and noise that hides the last of them, (count, DIMENSION)."""
    mixing = np.random.default_rng(0).standard_normal((FACTORS, DIMENSION), np.float32)
    random = np.random.default_rng([1, part])
    factors = random.standard_normal((count, FACTORS), np.float32) / np.arange(1, FACTORS + 1, dtype=np.float32)
    return factors @ mixing + random.random((count, DIMENSION), np.float32)


def listing(images: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, images, ROWS):
        end = min(first + ROWS, images)
        rows = end - first
        labels = pa.array([f"label-{row // 100_000:04}" for row in range(first, end)])
        columns = [
            pa.array(paths(first, end)), pa.repeat("1-1", rows), pa.nulls(rows, pa.string()),
            pa.repeat(pa.scalar(5000, pa.int64()), rows), labels,
        ]  # fmt: skip
        yield pa.RecordBatch.from_arrays(columns, schema=LISTING)


@contextmanager
def stage(name: str) -> Iterator[None]:
    before, used = time.perf_counter(), cpu_time()
    with Memory() as peaks:
        yield
    figures = (time.perf_counter() - before, cpu_time() - used, peaks.driver / MEGABYTE, peaks.worker / MEGABYTE)
    print(f"  {name:<10}{figures[0]:>9.1f}{figures[1]:>9.1f}{figures[2]:>12.0f}{figures[3]:>12.0f}", flush=True)


def done(store: Generated, spark: Cluster, k: int, folder: Path) -> tuple[pca.Pca, list[reduce.Projected]]:
    plan = Plan(folder, verify_content=False, retry="transient")
    with stage("plan"):
        plan.add_images(listing(store.images), LISTING)
        plan.add_features(store, DIGEST)
        parts = len(plan.write_index(Shares(store, RUN, layout.INDEX), DIMENSION))
    plan.close()
    with stage("fit"):
        moments = reduce.fit_moments(store, RUN, parts, spark.map)
        with one_thread():
            fitted = pca.fit(moments, components=k)
    with stage("project"):
        shared = spark.share(fitted)
        task = reduce.Project(store, RUN, open_sinks([], store, RUN, one_file=False), {}, 2000 // parts)
        projected = spark.map(lambda number: task(number, shared), parts)
    return fitted, projected


def check(store: Generated, fitted: pca.Pca, projected: list[reduce.Projected], k: int) -> None:
    """Compare with what one process makes of features in order, part by part, without Spark or files."""
    stream, held = blocks(store), np.empty((0, DIMENSION), np.float32)
    moments, sizes = [], reduce.vector_parts(store.images, DIMENSION)
    firsts = []
    with one_thread():
        for size in sizes:
            while len(held) < size:
                held = np.concatenate([held, next(stream)])
            part, held = held[:size], held[size:]
            firsts.append(part[:10].copy())  # or the whole part would stay
            moments.append(reduce.moments_of(part[row : row + reduce.BLOCK] for row in range(0, size, reduce.BLOCK)))
        again = pca.fit(added(moments), components=k)
        same = all(
            np.array_equal(getattr(again, each), getattr(fitted, each)) for each in ("mean", "scale", "components")
        )
        print(f"  the model of one process: {'the same bits' if same else 'OTHER BITS'}")
        for number in (0, len(sizes) - 1):
            table = pq.read_table(store.open(layout.vectors(RUN, number)))
            near = np.abs(vectors_of(table)[:10] - again.transform(firsts[number])).max()
            print(f"  its first vectors of part {number}: at most {near:.1e} apart")
    files = sum(file.bytes for part in projected for file in part.files)
    print(f"  {len(projected)} parts of vectors, {files / MEGABYTE:.0f} MB")


def blocks(store: Generated) -> Iterator[NDArray[np.float32]]:
    for number, name in enumerate(store.part_names()):
        yield features(number, len(store.paths(name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="+", help="how many, once for each")
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--check", action="store_true", help="compare bits with one process")
    options = parser.parse_args()
    for images in options.images:
        with tempfile.TemporaryDirectory(prefix="fruitpipe-scale-") as name:
            folder = Path(name)
            store = Generated(str(folder / "out"), images)
            store.create()
            print(f"{images} images of {DIMENSION} features, k = {options.components}, {options.cores} cores")
            print(f"  {'stage':<10}{'seconds':>9}{'CPU':>9}{'driver, MB':>12}{'worker, MB':>12}")
            master = SparkConfig(master=f"local[{options.cores}]")
            with cluster(master, Environment.read(), folder / "spark.log") as spark:
                fitted, projected = done(store, spark, options.components, folder)
                if options.check:
                    check(store, fitted, projected, options.components)


if __name__ == "__main__":
    main()
