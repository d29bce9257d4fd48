from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from conftest import with_bf16, without_bf16

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Environment, ImageConfig, S3Config, SparkConfig
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.engines.choice import network_kind
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.pipeline.job import share
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.spark.cluster import cluster
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.engine_file import EngineFile
from fruitpipe.tasks.featurize import featurize, load_engines
from fruitpipe.vision.decode import decode

KINDS = ("litert", "openvino_bf16")
RUN = "20260101-000000-0000"


def packed(spec: EngineSpec) -> EngineSpec:
    """The same with its bytes, as machines get it that do not have the file."""
    return spec._replace(source=spec.data)


@pytest.fixture(scope="module", params=["litert", "openvino", "litert packed", "openvino packed"])
def spec(request: pytest.FixtureRequest, lite0: tuple[Backbone, Path]) -> EngineSpec:
    """One with a file, and one as other machines get it."""
    kind, _, how = request.param.partition(" ")
    found = EngineSpec(kind, lite0[1])
    return packed(found) if how else found


@pytest.fixture(scope="module")
def engine(spec: EngineSpec) -> Engine:
    return spec.start()


def test_the_feature_is_written_to_the_row_it_is_given_and_to_no_other(engine: Engine) -> None:
    rows = np.full((3, engine.dimension), -1, np.float32)
    assert engine.run(decode(hostile.jpeg(), engine.side, ImageConfig()).pixels[np.newaxis], rows[1:2]) == {}
    assert (rows[[0, 2]] == -1).all()
    assert np.isfinite(rows[1]).all()
    assert (rows[1] >= 0).all(), "averages after ReLU6"
    assert rows[1].any()


def test_the_same_image_gives_the_same_bits_whatever_came_before_and_in_any_engine(
    engine: Engine, spec: EngineSpec
) -> None:
    images = [
        decode(hostile.jpeg(hostile.picture(*size)), engine.side, ImageConfig()).pixels for size in ((64, 32), (30, 90))
    ]
    rows = np.empty((3, engine.dimension), np.float32)
    engine.run(np.stack([images[0], images[1], images[0]]), rows)
    other = np.empty((1, engine.dimension), np.float32)
    packed(spec).start().run(images[0][np.newaxis], other)
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], other[0])
    assert not np.array_equal(rows[0], rows[1])


def test_a_file_and_its_bytes_are_one_engine(lite0: tuple[Backbone, Path]) -> None:
    file = EngineSpec("litert", lite0[1])
    assert (file.size, file.digest) == (packed(file).size, packed(file).digest) != (0, "")
    assert packed(file).source == lite0[1].read_bytes()


@pytest.mark.parametrize(
    ("local", "there", "same"),
    [(True, b"", True), (False, b"a file", True), (False, b"another", False), (False, b"", False)],
)
def test_a_file_goes_to_tasks_by_its_name_where_they_have_it_and_its_bytes_to_others(
    local: bool, there: bytes, same: bool, tmp_path: Path
) -> None:
    """Machines of a cluster may have it at the same place, as containers of an image do, or another one there."""
    file = tmp_path / "backbone.tflite"
    file.write_bytes(b"a file")
    with cluster(SparkConfig(master="local[1]"), Environment.read(), tmp_path / "spark.log") as spark:
        spark.local = local
        shared = share(spark, EngineSpec("litert", file), LocalStore(str(tmp_path / "out")), RUN)
        file.write_bytes(there)
        assert spark.map(lambda _: shared().source, 2) == 2 * [file if same else b"a file"]


def test_a_file_that_another_one_took_the_place_of_in_the_store_is_refused(tmp_path: Path) -> None:
    file, store = tmp_path / "backbone.tflite", LocalStore(str(tmp_path / "out"))
    file.write_bytes(b"a file")
    sent = EngineFile.put(EngineSpec("litert", file), store, RUN)
    file.unlink()
    store.put(sent.name, b"another")
    with pytest.raises(FruitpipeError, match="not what this run wrote there"):
        sent()


def test_the_file_of_an_engine_goes_with_it(spec: EngineSpec, tmp_path: Path) -> None:
    file = tmp_path / "backbone.tflite"
    file.write_bytes(spec.data)
    sent = EngineFile.put(spec._replace(source=file), LocalStore(str(tmp_path / "out")), RUN)
    file.unlink()
    load_engines({"one": sent})("one")
    assert sent() is sent()
    load_engines({"another": sent})
    assert not EngineFile.known


def test_an_engine_of_the_cpu_refuses_another_device(spec: EngineSpec) -> None:
    with pytest.raises(UserError, match="runs on the CPU, but board was requested"):
        spec._replace(device="board").start()


def test_making_an_engine_prints_nothing_and_leaves_nothing_open(
    spec: EngineSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    spec.start()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        spec.start()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert capfd.readouterr() == ("", "")


def test_every_hostile_image_gets_its_status_and_no_other_image_suffers(engine: Engine, tmp_path: Path) -> None:
    expected = hostile.make(tmp_path)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    expected["gone.jpg"] = "missing"
    names = sorted(expected)
    images = [Image(str(tmp_path / name), name) for name in names]
    facts, features = featurize(images, engine, ImageConfig(), Reader(S3Config(), 1 << 20))
    assert dict(zip(names, facts.status, strict=True)) == expected
    assert facts.etag == names
    assert [bool(row.any()) for row in features] == [status == "ok" for status in facts.status]
    assert [error is None for error in facts.error] == [status == "ok" for status in facts.status]
    assert [width is not None for width in facts.width] == [status == "ok" for status in facts.status]
    assert [content is None for content in facts.content] == [name == "gone.jpg" for name in names]
    jpegs = [features[names.index(name)] for name in ("upper case.JPG", "-rf.jpg", "two\nlines.jpg")]
    assert all(np.array_equal(row, jpegs[0]) for row in jpegs)


@pytest.mark.parametrize(
    ("engine", "parameters", "kind"),
    [("auto", 19_999_999, "litert"), ("auto", 20_000_000, "openvino"), ("litert", 25_636_712, "litert"),
     ("openvino", 3_538_984, "openvino")],
)  # fmt: skip
def test_large_networks_go_to_openvino_unless_told_otherwise(engine: Any, parameters: int, kind: str) -> None:
    assert network_kind(engine, "float32", parameters) == kind


def test_openvino_tells_nobody_that_it_is_used(lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    """Its telemetry would ask Google Analytics, and keep a file at home."""
    code = """if True:
        import socket, sys
        from importlib.util import find_spec
        from pathlib import Path
        sys.addaudithook(lambda event, _: event in {"socket.connect", "urllib.Request", "os.fork"} and sys.exit(event))
        from fruitpipe.engines import EngineSpec
        EngineSpec("openvino", Path(sys.argv[1]).read_bytes()).start()
        assert not any(name.startswith("openvino.tools") for name in sys.modules), "the converter has the telemetry"
        assert find_spec("openvino.tools.ovc"), "for who wants it"
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(lite0[1])],
        env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_all_networks_go_to_litert_and_who_asks_for_it_hears_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert network_kind("auto", "float32", 25_636_712) == "litert"
    for engine, precision in (("openvino", "float32"), ("auto", "bf16")):
        with pytest.raises(UserError, match=r"pip install 'fruitpipe\[openvino\]'") as caught:
            network_kind(engine, precision, 25_636_712)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 1


@without_bf16
def test_bf16_is_refused_where_the_processor_lacks_it() -> None:
    with pytest.raises(UserError, match="AVX512-BF16 or AMX"):
        network_kind("auto", "bf16", 1)


@with_bf16
def test_bf16_is_near_float32(lite0: tuple[Backbone, Path], fruits: Path) -> None:
    assert network_kind("auto", "bf16", 1) == "openvino_bf16"
    images = [Image(str(path)) for path in sorted(fruits.rglob("*.jpg"))[::40]]
    exact, near = (
        featurize(images, EngineSpec(kind, lite0[1].read_bytes()).start(), ImageConfig(), Reader(S3Config(), 1 << 20))[
            1
        ]
        for kind in KINDS
    )
    cosines = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert 0.9 < cosines.min() < 0.99999
