"""The fit of scaler and PCA against MLlib's: time, and whether both, and scikit-learn, find the same.

fruitpipe's time is that of a run's fit stage, from feature parts on disk: moments in Spark tasks, their sum, the
eigenvectors. MLlib's is that of StandardScaler and PCA, from Parquet, on as many cores. Neither includes the start of
Spark; each has a process of its own. The features are made up, in the likeness of a backbone's.

    python benchmarks/pca.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Row, report
from numpy.typing import NDArray

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.numeric import pca
from fruitpipe.pipeline.plan import Plan
from fruitpipe.source import LISTING
from fruitpipe.spark.cluster import cluster
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce
from fruitpipe.tasks.feature_part import largest_feature_part, task_sizes, to_parquet
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import OK

DIMENSION = 1280
RUN, DIGEST, ETAG = "benchmark", "0" * 64, "1-1"


class Fitted(NamedTuple):
    """A PCA, and the seconds that fitting it took."""

    seconds: float
    ratios: NDArray[np.float64]
    """shares of the variance, at least k of them"""
    components: NDArray[np.float64]
    """(k, d)"""


def make_features(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Features like those of a ReLU6 network over photographs of 130 things: a mixture of low rank, many zeros."""
    random = np.random.default_rng(seed)
    decay = np.arange(1, 301, dtype=np.float32) ** -0.5
    things = random.standard_normal((130, 300), np.float32)
    latent = (things[random.integers(130, size=rows)] + 0.5 * random.standard_normal((rows, 300), np.float32)) * decay
    features = latent @ random.standard_normal((300, DIMENSION), np.float32)
    features += 0.2 * random.standard_normal((rows, DIMENSION), np.float32)
    return np.clip(features / features.std() - 0.5, 0, 6)


def write_result(output: Path, features: NDArray[np.float32], cores: int, increments: int = 1) -> int:
    """Leave in `output` what a run has written before its fit: feature parts and index. Returns the fit's tasks.

    increments: runs that the features came in, each with every so many-th image.
    """
    store = LocalStore(str(output))
    store.create()
    paths = [f"/images/{number:08d}.jpg" for number in range(len(features))]
    for increment in range(increments):
        numbers = np.arange(increment, len(features), increments)
        sizes = task_sizes(len(numbers), cores, largest_feature_part(len(numbers)))
        for chosen in np.split(numbers, np.cumsum(sizes)[:-1]):
            known = {"etag": ETAG, "width": 100, "height": 100, "status": OK}
            facts = pa.Table.from_pylist([{"path": paths[number], **known} for number in chosen], layout.FACTS)
            name = layout.feature_part(DIGEST, ((paths[number], ETAG) for number in chosen))
            store.put(name, to_parquet(facts, features[chosen]))
    listing = [pa.array(paths), pa.repeat(ETAG, len(paths)), pa.nulls(len(paths), pa.string())]
    listing += [pa.repeat(pa.scalar(1, pa.int64()), len(paths)), pa.repeat("thing", len(paths))]
    with (
        tempfile.TemporaryDirectory(dir=output) as scratch,
        closing(Plan(Path(scratch), verify_content=False, retry="transient")) as plan,
    ):
        plan.add_images([pa.RecordBatch.from_arrays(listing, schema=LISTING)], LISTING)
        plan.add_features(store, DIGEST)
        sizes = plan.write_index(Shares(store, RUN, layout.INDEX), DIMENSION)
    return len(sizes)


def write_plain(path: Path, features: NDArray[np.float32]) -> None:
    """The same features as any user would have them: a list column, row groups small enough to be shared out."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    pq.write_table(pa.table({"feature": column.cast(pa.list_(pa.float32()))}), path, row_group_size=1024)


def fit_fruitpipe(output: Path, parts: int, k: int, cores: int) -> Fitted:
    """As `fruitpipe.pipeline.stages.fit` does it."""
    with cluster(SparkConfig(master=f"local[{cores}]"), Environment.read(), output / "spark.log") as spark:
        start = time.perf_counter()
        moments = reduce.fit_moments(LocalStore(str(output)), RUN, parts, spark.map)
        fitted = pca.fit(moments, components=k)
        seconds = time.perf_counter() - start
    return Fitted(seconds, fitted.explained_variance_ratio, fitted.components)


def fit_mllib(path: Path, k: int, cores: int, memory: str, scale: bool = True) -> Fitted:
    from pyspark.sql import SparkSession

    settings = {"spark.driver.memory": memory, "spark.ui.enabled": "false", "spark.log.level": "ERROR"}
    settings |= {"spark.ui.showConsoleProgress": "false"}
    settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    with SparkSession.builder.master(f"local[{cores}]").config(map=settings).getOrCreate() as spark:
        return fit_mllib_on(spark, path, k, scale)


def fit_mllib_on(spark: Any, path: Path, k: int, scale: bool = True) -> Fitted:
    """With a SparkSession that is there."""
    from pyspark.ml.feature import PCA, StandardScaler
    from pyspark.ml.functions import array_to_vector

    features = spark.read.parquet(str(path)).select(array_to_vector("feature").alias("feature"))
    features.limit(1).collect()  # fruitpipe's Spark has run a first job, too
    start = time.perf_counter()
    features = features.cache()  # or it would be read and converted three times
    if scale:
        scaler = StandardScaler(inputCol="feature", outputCol="scaled", withMean=True, withStd=True).fit(features)
        features = scaler.transform(features)
    fitted = PCA(k=k, inputCol="scaled" if scale else "feature", outputCol="vector").fit(features)
    seconds = time.perf_counter() - start
    return Fitted(seconds, fitted.explainedVariance.toArray(), fitted.pc.toArray().T)


def fit_sklearn(features: NDArray[np.float32], k: int, scale: bool = True) -> Fitted:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    # It would work in float32 otherwise, and be no oracle.
    rows = features.astype(np.float64)
    fitted = PCA(k, svd_solver="full").fit(StandardScaler().fit_transform(rows) if scale else rows)
    return Fitted(time.perf_counter() - start, fitted.explained_variance_ratio_, fitted.components_)


def alone(function: Callable[..., Fitted], *arguments: Any) -> Fitted:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def unlike(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k,): the largest difference in each component, up to its sign."""
    signs = np.sign(np.einsum("ij,ij->i", ours, theirs))
    return np.abs(ours - signs[:, None] * theirs).max(axis=1)


def separated(ratios: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    """(k,): which eigenvalues are 1 % from both neighbours; closer ones' eigenvectors turn with the rounding."""
    gaps = np.concatenate([[np.inf], -np.diff(ratios), [np.inf]])
    return np.minimum(gaps[:-1], gaps[1:])[:k] > 0.01 * ratios[:k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=22_688)
    parser.add_argument("--components", type=int, default=200, metavar="K")
    parser.add_argument("--memory", default="6g", help="heap of MLlib's driver")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()
    k, cores = options.components, options.cores

    features = make_features(options.rows)
    with tempfile.TemporaryDirectory(prefix="fruitpipe-pca-") as folder:
        output, plain = Path(folder, "out"), Path(folder, "features.parquet")
        parts = write_result(output, features, cores)
        write_plain(plain, features)
        # Before and after, since the machine drifts.
        before = alone(fit_fruitpipe, output, parts, k, cores)
        mllib = alone(fit_mllib, plain, k, cores, options.memory)
        ours = alone(fit_fruitpipe, output, parts, k, cores)
    sklearn = alone(fit_sklearn, features, k)

    seconds = [(before.seconds + ours.seconds) / 2]
    print(f"{options.rows} x {DIMENSION} features, {k} components, {cores} cores; ", end="")
    print(f"fruitpipe before and after MLlib: {before.seconds:.1f}, {ours.seconds:.1f} s")
    report(
        [
            Row("MLlib", seconds, [mllib.seconds], options.rows, 9.0),
            Row("scikit-learn, in memory", seconds, [sklearn.seconds], options.rows),
        ]
    )
    apart, differences = separated(ours.ratios, k), unlike(ours.components, sklearn.components)
    figures = {
        "explained variance ratio, MLlib": (np.abs(ours.ratios[:k] - mllib.ratios).max(), 1e-6),
        "explained variance ratio, scikit-learn": (np.abs(ours.ratios[:k] - sklearn.ratios).max(), 1e-6),
        f"components, scikit-learn, {apart.sum()} well apart": (differences[apart].max(), 1e-5),
        f"components, scikit-learn, all {k}": (differences.max(), 1e-5),
    }
    print(f"\n{'largest difference from':<48}{'':>10}{'target':>10}")
    for name, (value, target) in figures.items():
        print(f"{name:<48}{value:>10.1e}{f'<= {target:.0e}':>10}")


if __name__ == "__main__":
    main()
