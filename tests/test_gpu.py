"""Engines on graphics cards, as far as there need not be one: their part of it, their batches, who leaves it alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import card
import numpy as np
import onnxruntime
import pyspark
import pytest
import yaml
from card import Computed, computed
from chart import CHART, helm
from command import fruitpipe, manifest, vectors
from networks import SIDE, WIDTH, mean_of_patches, onnx_network, write
from numpy.typing import NDArray

from fruitpipe.engines import EngineSpec
from fruitpipe.engines.choice import without_gpu
from fruitpipe.engines.package import Package
from fruitpipe.engines.reference_pictures import reference_picture
from fruitpipe.errors import UserError

DISCOVERY = Path(__file__).parents[1] / "docker/gpus.sh"
FREE = ["batch", 3, SIDE, SIDE]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A card of 16 GiB, in whose folder it is noted what it computes."""
    for name, value in card.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    before = card.pretend()
    yield tmp_path
    for name, value in before.items():
        setattr(onnxruntime, name, value)


def spec_on(folder: Path, device: str, network: bytes, **keys: Any) -> EngineSpec:
    """The engine of a network on a device."""
    path = write(folder, network, **keys)
    package = folder / "package.zip"
    Package(path.name, network, path.with_suffix(".yaml").read_bytes()).write(package)
    return EngineSpec("onnx", package, device)


def drawn(count: int) -> NDArray[np.uint8]:
    return np.stack([reference_picture("noise", seed, SIDE) for seed in range(count)])


@pytest.mark.parametrize(
    ("memory", "tasks", "at_once"),
    [(16384, 1, 64), (16384, 4, 32), (16384, 8, 8), (16384, 24, 1), (8192, 4, 8), (81920, 8, 64)],
)
def test_as_many_images_at_once_as_a_tasks_part_of_the_memory_takes(
    pretended: Path, memory: int, tasks: int, at_once: int
) -> None:
    """At 100 MiB for an image, and 512 for a process: in a fourth of 16 GiB is room for 35, and for half of 64."""
    card.install(pretended, memory)
    engine = spec_on(pretended, f"cuda:2/{tasks}", onnx_network(shape=FREE)).start()
    assert engine.batch == (at_once if at_once > 1 else 16)
    (pretended / "computed").unlink()
    pictures = drawn(at_once + 1)
    out = np.full((len(pictures), WIDTH), np.nan, np.float32)
    assert engine.run(pictures, out) == {}
    assert computed(pretended) == 2 * [Computed(2, at_once)], "the rest goes with what was there before"
    np.testing.assert_allclose(out, [mean_of_patches(each) for each in pictures], rtol=1e-4, atol=1e-5)


def test_a_network_of_one_image_is_given_one(pretended: Path) -> None:
    """By its file, or by what happens where it gets two: one whose batch is written into a reshape."""
    for network in (onnx_network(), of_one_image()):
        engine = spec_on(pretended, "cuda:0/1", network).start()
        (pretended / "computed").unlink()
        pictures = drawn(3)
        out = np.full((3, WIDTH), np.nan, np.float32)
        engine.run(pictures, out)
        assert (engine.batch, computed(pretended)) == (16, 3 * [Computed(0, 1)])
        np.testing.assert_allclose(out, [mean_of_patches(each) for each in pictures], rtol=1e-4, atol=1e-5)


def of_one_image() -> bytes:
    """A network that takes any number, as far as it says, and makes one of them."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(onnx_network(shape=FREE))
    (flat,) = [each for each in model.graph.initializer if each.name == "flat"]
    flat.CopyFrom(numpy_helper.from_array(np.array([1, WIDTH, -1]), "flat"))
    data: bytes = model.SerializeToString()
    return data


def test_references_are_checked_as_images_of_one_batch(pretended: Path) -> None:
    """A network that takes its first image for all others is none for a card."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(onnx_network(shape=FREE))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node[-1].input[0] = "spread"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Sub", ["means", "means"], ["none"]))
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Gather", ["means", "first"], ["one"], axis=0))
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Add", ["one", "none"], ["spread"]))
    spec = spec_on(pretended, "cuda:0/1", model.SerializeToString())
    spec._replace(device="cpu").start()
    with pytest.raises(UserError, match=r"the reference \w+ 1 has cosine"):
        spec.start()


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in available:UserWarning")
def test_a_card_that_cannot_be_used_is_an_error_and_not_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """onnxruntime itself, as it is here, which only warns and takes the CPU."""
    for name, value in card.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"onnxruntime cannot use GPU 0, .* fruitpipe\[gpu\]"):
        spec_on(tmp_path, "cuda:0/1", onnx_network()).start()


@pytest.mark.parametrize(
    ("memory", "tasks", "said"),
    [
        (4096, 8, "8 tasks are too many for a GPU of 4096 MiB, of which each takes 512 MiB before it computes"),
        ("'[N/A]'", 1, r"nvidia-smi does not say how much memory GPU 0 has \(\[N/A\]\)"),
        ("; exit 9", 1, r"nvidia-smi does not say .* \(exit code 9\)"),
    ],
)
def test_memory_that_is_too_little_or_unknown_is_one_line(
    pretended: Path, memory: object, tasks: int, said: str
) -> None:
    card.install(pretended, memory)
    with pytest.raises(UserError, match=said) as caught:
        spec_on(pretended, f"cuda:0/{tasks}", onnx_network()).start()
    assert len(str(caught.value).splitlines()) == 1


def test_without_nvidias_driver_there_is_one_line(pretended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"\(No such file or directory\): check NVIDIA's driver"):
        spec_on(pretended, "cuda:0/1", onnx_network()).start()


def test_the_device_is_the_number_of_the_card_and_who_shares_it() -> None:
    spec = EngineSpec("onnx", b"")
    assert spec.on_gpu("3", 4).device == "cuda:3/4"
    for address in ("GPU-ea80a3c1", "", "-1", "1\n", "²"):
        with pytest.raises(UserError, match="have the discovery script print numbers"):
            spec.on_gpu(address, 4)


def test_other_engines_stay_on_the_cpu_and_say_so(
    pretended: Path, lite0: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert without_gpu("onnx") is None
    for kind in ("litert", "openvino", "tflite", "words", "python"):
        assert f"on the CPU, as {kind} runs nowhere else" in str(without_gpu(kind))
    with pytest.raises(UserError, match="LiteRT runs on the CPU, but cuda:0/1 was requested"):
        EngineSpec("litert", lite0[1], "cuda:0/1").start()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert r"install fruitpipe[gpu]" in str(without_gpu("onnx"))


def test_the_discovery_script_prints_what_spark_reads(tmp_path: Path) -> None:
    for cards in (1, 3):
        done = subprocess.run([DISCOVERY], env=card.install(tmp_path, cards=cards), capture_output=True, check=True)
        assert json.loads(done.stdout) == {"name": "gpu", "addresses": [str(number) for number in range(cards)]}
    assert subprocess.run([DISCOVERY], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False).returncode


def test_the_benchmark_prints_a_row_for_each_network_or_why_there_is_none(tmp_path: Path) -> None:
    """On a card that there is not, which is the CPU again: the same features."""
    network = write(tmp_path, onnx_network(shape=FREE))
    command = [sys.executable, "benchmarks/gpu.py", str(network), "--seconds=0.01"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    pretended = os.environ | card.install(tmp_path)
    done = subprocess.run(command, cwd=root, env=pretended, capture_output=True, text=True, check=False)
    *_, row = done.stdout.splitlines()
    assert row.split()[:2] == ["patches.onnx", "64"]
    assert float(row.split()[-1]) > 0.99999


ON_CARDS = """
import json, sys
from pathlib import Path
import fruitpipe
from fruitpipe.config import Environment, SparkConfig, load_config
from fruitpipe.spark.cluster import cluster
settings, folder, *configs = json.loads(sys.argv[1])
with cluster(SparkConfig(**settings), Environment.read(), Path(folder, "spark.log")) as spark:
    for each in configs:
        fruitpipe.run(load_config(**each))
    assert "fruitpipe.pipeline" not in spark.map(lambda number: sorted(__import__("sys").modules), 1)[0]
"""


@pytest.mark.slow
def test_tasks_compute_on_the_cards_that_spark_gives_them(fruits: Path, tmp_path: Path) -> None:
    """A master, a worker with two cards and an executor with four tasks, of which two at a time have the same card."""
    (tmp_path / "cards").mkdir()
    variables = card.install(tmp_path / "cards", memory=8192, cards=2)
    network = write(tmp_path, onnx_network(shape=FREE))
    conf = {
        "spark.worker.resource.gpu.amount": "2",
        "spark.worker.resource.gpu.discoveryScript": str(DISCOVERY),
        "spark.executor.resource.gpu.amount": "2",
        "spark.executor.cores": "4",
        "spark.executor.memory": "512m",
        "spark.task.resource.gpu.amount": "0.5",
    }
    given = {"input": str(fruits), "pca": {"components": 5}}
    configs = [
        given | {"output": str(tmp_path / name), "backbone": str(backbone)}
        for name, backbone in (("onnx", network), ("lite0", "efficientnet_lite0"))
    ]
    settings = {"master": "local-cluster[1,4,1024]", "conf": conf}
    command = [sys.executable, "-c", ON_CARDS, json.dumps([settings, str(tmp_path), *configs])]
    with without_traces():
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    batches = Counter(computed(tmp_path / "cards"))
    assert {each.number for each in batches} == {0, 1}
    assert {each.images for each in batches} == {8}, "of 8 GiB, a fourth less 512 MiB is room for 15"
    fruitpipe("run", fruits, tmp_path / "here", "--backbone", network, "--components", "5")
    here, there = (vectors(tmp_path / name) for name in ("here", "onnx"))
    assert there["path"].to_pylist() == here["path"].to_pylist()
    np.testing.assert_allclose(there["vector"].to_pylist(), here["vector"].to_pylist(), rtol=1e-4, atol=1e-4)
    said = [manifest(tmp_path / name)["warnings"] for name in ("onnx", "lite0")]
    assert said == [[], [without_gpu("litert")]]


POD = """
import json, sys
from pathlib import Path
from pyspark import SparkContext
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.spark.cluster import cluster
log, given = json.loads(sys.argv[1])
with cluster(SparkConfig(master="local[1]"), Environment.read(), Path(log)):
    java = SparkContext.getOrCreate()._jvm
    spark, kubernetes = java.org.apache.spark, java.org.apache.spark.deploy.k8s
    only = lambda name: java.java.lang.Class.forName(f"{name}$").getField("MODULE$").get(None)
    conf = spark.SparkConf(False)
    for name, value in given.items():
        conf.set(name, value)
    nothing, profiles = only("scala.None"), only("org.apache.spark.resource.ResourceProfile")
    profiles.clearDefaultProfile()
    profile = profiles.getOrCreateDefaultProfile(conf)
    secret = only("org.apache.spark.internal.config.package").AUTH_SECRET_FILE()
    security = spark.SecurityManager(conf, nothing, secret)
    executor = only("org.apache.spark.deploy.k8s.KubernetesConf").createExecutorConf(conf, "1", "app", nothing, 0)
    step = kubernetes.features.BasicExecutorFeatureStep(executor, security, profile)
    pod = step.configurePod(only("org.apache.spark.deploy.k8s.SparkPod").initialPod())
    limits = pod.container().getResources().getLimits()
    print(json.dumps({name: limits[name].getAmount() for name in limits}))
"""


@pytest.mark.slow
def test_spark_asks_kubernetes_for_the_gpus_of_the_chart(tmp_path: Path) -> None:
    """In the limits of an executor's container, as Spark itself makes it of the chart's settings."""
    wanted = {
        "pipeline": {"input": "s3://a/b", "output": "s3://a/c"},
        "executor": {"cores": 4, "gpu": {"amount": 2, "resource": "amd.com/gpu"}},
        "operator": "apache",  # which has all of Spark's settings in one place
    }
    rendered = helm("template", "fruits", str(CHART), "--values=-", given=wanted)
    (application,) = [
        each for each in yaml.safe_load_all(rendered.stdout) if each and each["kind"] == "SparkApplication"
    ]
    others = {"spark.driver.host": "driver", "spark.authenticate": "false"}
    given = json.dumps([str(tmp_path / "log"), application["spec"]["sparkConf"] | others])
    done = subprocess.run([sys.executable, "-c", POD, given], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout)["amd.com/gpu"] == "2"


@contextmanager
def without_traces() -> Iterator[None]:
    """Clear away what workers of such a master leave where PySpark is."""
    folder = Path(pyspark.__file__).parent / "work"
    before = {*folder.glob("*")}
    yield
    for each in {*folder.glob("*")} - before:
        shutil.rmtree(each)
    with suppress(OSError):  # others work there
        folder.rmdir()
