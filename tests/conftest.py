"""What tests share: data that may be missing, backbones, drawn pictures, a Spark."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import command
import pytest
from cluster import s3_for_pods
from draw_fruits import draw
from faults import Proxy
from hypothesis import settings
from PIL import Image
from s3 import environment, upload
from seaweed import BUCKET, Server

from fruitpipe.backbones import resolve
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Config, Environment, S3Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.storage.store import LocalStore, Store

CI = os.environ.get("CI") == "true"

settings.register_profile("fruitpipe", deadline=None, derandomize=CI)
settings.load_profile("fruitpipe")


def unavailable(reason: str) -> NoReturn:
    """Skip, but never in CI: there everything runs."""
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)


def has_bf16() -> bool:
    """Whether the processor computes in bf16; where no file says so, OpenVINO does not know either."""
    told = Path("/proc/cpuinfo")
    return told.exists() and bool({"avx512_bf16", "amx_bf16"} & set(told.read_text().split()))


with_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has neither AVX512-BF16 nor AMX")
without_bf16 = pytest.mark.skipif(has_bf16(), reason="this processor has bf16, so that it is not refused")


@pytest.fixture(autouse=True, scope="session")
def nobody_waits_in_the_garbage_collector() -> Iterator[None]:
    """An error where it waits for a thread: one day that one would wait for it. A warning tells of it, and fails."""
    collecting, join = set[int](), threading.Thread.join

    def note(phase: str, _: dict[str, int]) -> None:
        (collecting.add if phase == "start" else collecting.discard)(threading.get_ident())

    def checked(thread: threading.Thread, timeout: float | None = None) -> None:
        if threading.get_ident() in collecting:
            raise AssertionError(f"the garbage collector waits for {thread.name}")
        join(thread, timeout)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "join", checked)
        gc.callbacks.append(note)
        yield
        gc.collect()
        gc.callbacks.remove(note)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty result."""
    made = LocalStore(str(tmp_path / "out"))
    made.create()
    return made


@pytest.fixture(scope="session")
def data() -> Path:
    """Real photographs, weights and oracles."""
    folder = os.environ.get("FRUITPIPE_DATA")
    if not folder:
        unavailable("set FRUITPIPE_DATA to a folder with fruits-360, oracle and imagenet-check")
    return Path(folder)


def converted(name: str) -> tuple[Backbone, Path]:
    """A network and its flatbuffer."""
    backbone, engine, *_ = resolve(Config(input="a", output="b", backbone=name), Environment.read())
    assert isinstance(engine.source, Path)
    return backbone, engine.source


@pytest.fixture(scope="session")
def lite0() -> tuple[Backbone, Path]:
    """The backbone whose weights pip brings, and its flatbuffer in the user's cache."""
    return converted("efficientnet_lite0")


@pytest.fixture(scope="session")
def mobilenet() -> tuple[Backbone, Path]:
    """The default backbone, and its flatbuffer in the user's cache."""
    try:
        return converted("mobilenet_v2")
    except FruitpipeError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def fruits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures, 8 varieties of 40."""
    folder = tmp_path_factory.mktemp("fruits")
    draw(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run of the drawn fruits."""
    out = tmp_path_factory.mktemp("undisturbed")
    command.run(fruits, out)
    return out


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server for all tests that leave it as they found it: each uses a prefix or bucket of its own."""
    with Server(tmp_path_factory.mktemp("s3"), tls=True) as started:
        yield started


@pytest.fixture(scope="module")
def s3(server: Server) -> Iterator[S3Config]:
    """How to reach the server, whose admin's keys are in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(server, server.identities["admin"]).items():
            patch.setenv(name, value)
        yield S3Config(endpoint=server.endpoint, allow_http=True)


@pytest.fixture(scope="session")
def admin(server: Server) -> Any:
    """botocore's view of the server."""
    return server.client(server.identities["admin"], attempts=3)  # it is idle during runs


@pytest.fixture(scope="module")
def network(server: Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as started:
        yield started


@pytest.fixture
def proxy(network: Proxy) -> Proxy:
    """Between us and the server, without the faults of the test before."""
    network.calm()
    return network


@pytest.fixture(scope="module")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A stand-in for Google Cloud Storage, and how to reach it in the environment."""
    from emulators import fake_gcs

    yield from emulated(fake_gcs(tmp_path_factory.mktemp("gs")))


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same for Azure."""
    from emulators import azurite

    yield from emulated(azurite(tmp_path_factory.mktemp("az")))


def emulated(emulator: AbstractContextManager[Any]) -> Iterator[Any]:
    with emulator as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """An empty folder that every user can reach; pytest's own are for one user."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def nobody() -> Iterator[None]:
    """Act as a user without rights: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def a_stranger() -> Iterator[None]:
    """Act as a user to whom nothing of this one belongs."""
    if os.geteuid():
        unavailable("only root can act as another user")
    with nobody():
        yield


@pytest.fixture
def spark() -> Any:
    """A SparkSession on the Spark of all tests."""
    from pyspark.sql import SparkSession

    return SparkSession(command.spark())


def pytest_sessionfinish() -> None:
    command.at_end.close()


@pytest.fixture(scope="session")
def cluster_image() -> str:
    """Name of the container image on the cluster that kubectl reaches."""
    if not (name := os.environ.get("FRUITPIPE_CLUSTER_IMAGE")):
        pytest.skip("set FRUITPIPE_CLUSTER_IMAGE to the image's name on the cluster that kubectl reaches")
    return name


@pytest.fixture(scope="session")
def example_image() -> str:
    """Name there of the image that examples/Dockerfile makes with the network `mobilenet` of the weights `random:7`,
    and with onnxruntime on its PYTHONPATH."""
    if not (name := os.environ.get("FRUITPIPE_CLUSTER_EXAMPLE")):
        unavailable("set FRUITPIPE_CLUSTER_EXAMPLE to the name of examples/Dockerfile's image on the cluster")
    return name


@pytest.fixture(scope="session")
def places(cluster_image: str, tmp_path_factory: pytest.TempPathFactory, fruits: Path) -> Iterator[Server]:
    """An S3 server that pods reach, with 320 images below `images`."""
    with s3_for_pods(tmp_path_factory.mktemp("s3")) as server:
        upload(server.client(server.identities["admin"]), fruits, "images")
        yield server


@pytest.fixture(scope="session")
def many(places: Server, fruits: Path) -> int:
    """Images below `heap`, so large that executors work on each part for seconds; how many."""
    client, count = places.client(places.identities["admin"]), 400
    sink = io.BytesIO()
    with Image.open(next(fruits.rglob("*.jpg"))) as fruit:
        fruit.resize((1500, 1500)).save(sink, "PNG", compress_level=1)
    for number in range(count):
        client.put_object(Bucket=BUCKET, Key=f"heap/{number % 8}/{number}.png", Body=sink.getvalue())
    return count
