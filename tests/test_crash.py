"""Processes really die; the next run goes on from what was finished and ends with the same vectors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import published
import pytest
from command import BACKBONE, command, fruitpipe, hearing, manifest, one_line_error, run, same_vectors, vectors
from conftest import unavailable
from processes import children_of, jvms_of, kill, lives, wait, workers_of

from fruitpipe.storage.store import LocalStore

BY_SPARK = ("spark.master=local[2]",)


@contextmanager
def running(images: Path, out: Path, settings: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A run that is in the middle of its work: some feature parts are written, others are not."""
    options = [part for setting in (BACKBONE, *settings) for part in ("--set", setting)]
    with amid(command("run", images, out, *options), lambda: finished_parts(out)) as process:
        yield process


@contextmanager
def amid(words: list[str], finished: Callable[[], Mapping[Path, int]]) -> Iterator[subprocess.Popen[str]]:
    """A command that has finished two parts or a few more."""
    process = subprocess.Popen(hearing(words), stderr=subprocess.PIPE, text=True)
    family: list[psutil.Process] = []
    try:
        wait(lambda: len(finished()) >= 2 or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        family = children_of(process.pid)
        yield process
    finally:
        process.kill()
        kill(family)  # whoever lives would keep standard error open, for ever if it is held
        process.communicate(timeout=120)


@contextmanager
def held(process: subprocess.Popen[str]) -> Iterator[None]:
    """The run's workers stand still meanwhile, and are gone afterwards."""
    workers = workers_of(process.pid)
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        kill(workers)


def finished_parts(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "features").rglob("part-*.parquet")}


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    _, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, "", errors)


def goes_on(images: Path, out: Path, undisturbed: Path, settings: Sequence[str] = ()) -> None:
    """The next run computes only what is missing, and gives the vectors of an undisturbed run."""
    before = finished_parts(out)
    assert before, "the disturbed run had finished parts"
    document = run(images, out, *settings)
    assert 0 < document["plan"]["known"] < 320
    assert document["plan"]["known"] + document["plan"]["new"] == 320
    after = finished_parts(out)
    assert {path: after[path] for path in before} == before
    assert same_vectors(vectors(out), vectors(undisturbed))


def test_a_killed_driver_loses_only_the_parts_in_flight(fruits: Path, undisturbed: Path, tmp_path: Path) -> None:
    one = ("spark.master=local[1]",)  # or it may end before it is held, on a busy machine
    with running(fruits, tmp_path, settings=one) as process, held(process):
        jvm = jvms_of(process.pid)[0]
        process.kill()
        process.wait()
    wait(lambda: not lives(jvm))
    assert not list(tmp_path.glob("runs/*/manifest.json"))
    goes_on(fruits, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "folder"),
    # With words of images so large, it takes long enough to be killed amid.
    [(("backbone=orb", "words.side=1000"), "vocabularies"), (("precision=int8",), "networks")],
    ids=["words", "int8"],
)
def test_a_killed_driver_leaves_what_it_has_learnt_to_the_next_run(
    settings: tuple[str, ...], folder: str, fruits: Path, tmp_path: Path
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    run(fruits, undisturbed, *settings)
    with running(fruits, out, settings=settings) as process, held(process):
        process.kill()
        process.wait()
    (learnt,) = (out / "features" / folder).iterdir()
    when = learnt.stat().st_mtime_ns
    goes_on(fruits, out, undisturbed, settings)
    assert learnt.stat().st_mtime_ns == when


@pytest.mark.slow
def test_neighbours_that_are_killed_go_on_and_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "PART", 1000)
    points = np.random.default_rng(0).standard_normal((40_000, 64)).astype(np.float32)
    paths = [f"photos/{number:05}.jpg" for number in range(len(points))]
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    run_id = published.publish(LocalStore(str(out)), "20260101-000000-0000", paths, [None] * len(paths), points).id
    shutil.copytree(out, undisturbed)
    parts = out / "runs" / run_id / "neighbours" / "cosine-12"

    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}

    words = ("--set", "spark.master=local[1]")
    with amid(command("neighbours", out, *words), finished) as process, held(process):
        before = finished()
        jvm = jvms_of(process.pid)[0]
        process.kill()
        process.wait()
    wait(lambda: not lives(jvm))
    assert 2 <= len(before) < 40
    assert not parts.with_suffix(".json").exists()

    fruitpipe("neighbours", out)
    after = finished()
    assert len(after) == 40
    assert {path: after[path] for path in before} == before
    fruitpipe("neighbours", undisturbed)
    for path in [*after, parts.with_suffix(".json")]:
        assert (undisturbed / path.relative_to(out)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_killed_python_worker_does_not_end_the_run(fruits: Path, undisturbed: Path, tmp_path: Path) -> None:
    with running(fruits, tmp_path, BY_SPARK) as process:
        workers_of(process.pid)[0].kill()
        assert ended(process).returncode == 0
    assert manifest(tmp_path)["counts"]["ok"] == 320
    assert same_vectors(vectors(tmp_path), vectors(undisturbed))


@pytest.mark.slow
def test_a_killed_jvm_is_one_line_and_the_next_run_goes_on(fruits: Path, undisturbed: Path, tmp_path: Path) -> None:
    with running(fruits, tmp_path, BY_SPARK) as process:
        jvms_of(process.pid)[0].kill()
        done = ended(process)
    assert done.returncode == 1
    assert "Spark's JVM died" in one_line_error(done)
    goes_on(fruits, tmp_path, undisturbed)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupted_run_says_so_and_the_next_goes_on(
    number: signal.Signals, fruits: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with running(fruits, tmp_path) as process:
        process.send_signal(number)
        done = ended(process)
    assert done.returncode == 130
    assert "continues from them" in one_line_error(done)
    assert not (tmp_path / "lease.json").exists()
    goes_on(fruits, tmp_path, undisturbed)


@pytest.mark.slow
def test_a_second_run_on_one_output_is_refused_until_the_first_is_gone(
    fruits: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with running(fruits, tmp_path) as process, held(process):
        second = fruitpipe("run", fruits, tmp_path, "--set", BACKBONE, code=2)
        assert f"process {process.pid}" in one_line_error(second)
        assert process.poll() is None
        process.kill()
        process.wait()
        assert (tmp_path / "lease.json").exists()
    goes_on(fruits, tmp_path, undisturbed)


@pytest.mark.slow
def test_a_second_run_in_a_pod_waits_for_the_first_and_has_nothing_left_to_do(fruits: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    with running(fruits, out) as first:
        with held(first), said.open("w") as stream:
            second = subprocess.Popen(
                command("run", fruits, out, "--set", BACKBONE, "--json"),
                stdout=subprocess.PIPE, stderr=stream, text=True, env=os.environ | {"KUBERNETES_SERVICE_HOST": "pod"},
            )  # fmt: skip
            wait(lambda: "waiting for it to end" in said.read_text() or second.poll() is not None)
        assert ended(first).returncode == 0
        told, _ = second.communicate(timeout=120)
    assert f"(process {first.pid} on " in said.read_text()
    assert second.returncode == 0, said.read_text()
    published = manifest(out)["run"]
    assert json.loads(told)["reason"] == f"nothing to do: run {published} already covers these images with this config"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a part or two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", folder]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        unavailable("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(fruits: Path, undisturbed: Path, small_disk: Path) -> None:
    done = fruitpipe("run", fruits, small_disk, "--set", BACKBONE, code=1)
    assert "disk is full" in one_line_error(done)
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    goes_on(fruits, small_disk, undisturbed)
