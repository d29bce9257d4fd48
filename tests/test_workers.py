"""Numbered tasks by processes of this machine: results, retries, whose end is whose, and Spark that takes over."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import BACKBONE, command, hearing, manifest, one_line_error, process, same_vectors, vectors
from processes import children_of, jvms_of, lives, wait, workers_of

from fruitpipe.errors import FruitpipeError, NoWeights, UserError
from fruitpipe.source.fetching import NoRoom
from fruitpipe.workers import nursery
from fruitpipe.workers import processes as module
from fruitpipe.workers.allowance import cores
from fruitpipe.workers.failures import failure_of
from fruitpipe.workers.processes import Processes

SETTINGS = ("--set", BACKBONE)


class Other:
    """Runs tasks in this process, as Spark would elsewhere."""

    slots, local, gpu_tasks, worker_memory, note = 2, True, 0, 1 << 50, "the other one's"

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def share(self, value: Any) -> Callable[[], Any]:
        return lambda: value

    def map(
        self, task: Callable[[int], Any], count: int, watch: Callable[[Any], None], poll: Callable[[], None]
    ) -> list[Any]:
        results = []
        for number in range(count):
            results.append(pickle.loads(pickle.dumps(task(number))))
            self.numbers.append(number)
            watch(results[-1])
            poll()
        return results


@contextmanager
def none() -> Iterator[Any]:
    raise UserError("no Java, which Spark needs.")
    yield


def first(again: bool) -> None:
    os.environ["AGAIN"] = str(again)


@contextmanager
def started(folder: Path, spark: Any = None) -> Iterator[Processes]:
    found = Processes(first, spark or none(), folder, verbose=False)
    try:
        yield found
    finally:
        found.end()


def test_results_come_once_and_in_order_however_often_a_task_is_tried(tmp_path: Path) -> None:
    def task(number: int) -> tuple[int, str]:
        marker = tmp_path / f"tried-{number}"
        if number % 3 == 0 and not marker.exists():
            marker.touch()
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)  # as where memory runs out
            if number == 6:
                os.kill(os.getpid(), signal.SIGSEGV)
            raise OSError("for a moment")
        return number * shared(), os.environ["AGAIN"]

    watched: list[tuple[int, str]] = []
    with started(tmp_path) as workers:
        shared = workers.share(7)
        expected = [(7 * number, str(number % 3 == 0)) for number in range(10)]
        assert workers.map(task, 10, watched.append) == expected
        assert Counter(watched) == Counter(expected)
        assert workers.map(lambda _: os.getpid(), 0) == []
        pids = set(workers.map(lambda _: os.getpid(), 20))
        assert len(pids) <= workers.slots
        assert os.getpid() not in pids
        assert set(workers.map(lambda _: os.getpid(), 20)) <= pids, "workers go on from one map to the next"
        assert 1 << 20 < workers.worker_memory < 1 << 33
        assert workers.note == ""


def patience(seconds: float = 60) -> Callable[[], None]:
    """Fails where a map goes on for ever."""
    end = time.monotonic() + seconds

    def poll() -> None:
        assert time.monotonic() < end, "nobody sees what has happened"

    return poll


@pytest.mark.parametrize("kind", ["forked", "started"])
def test_the_end_of_a_worker_is_seen_whatever_it_has_left_behind(kind: str, tmp_path: Path) -> None:
    """A DataLoader, or a pool, of a class of one's own: its processes have what was open in the worker."""

    def task(number: int) -> int:
        marker = tmp_path / f"tried-{number}"
        if number == 1 and not marker.exists():
            marker.touch()
            if kind == "started":
                subprocess.Popen(["sleep", "1000"], close_fds=False)
            elif os.fork() == 0:
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with started(tmp_path) as workers:
        assert workers.map(task, 4, poll=patience()) == [0, 1, 2, 3]


def test_workers_that_have_died_while_idle_are_no_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 4)

    def task(number: int) -> int:
        time.sleep(0.2)
        return os.getpid()

    with started(tmp_path) as workers:
        family = [psutil.Process(pid) for pid in set(workers.map(task, 8))]
        assert len(family) == 4
        for each in family:
            each.kill()
        wait(lambda: not any(map(lives, family)))
        assert len(workers.map(task, 1)) == 1


def test_workers_are_forked_by_a_process_of_one_thread_that_has_loaded_all(tmp_path: Path) -> None:
    program = """
import json, os, sys
from pathlib import Path
from fruitpipe.tasks.warm_up import WarmUp
from fruitpipe.storage.store import LocalStore
from fruitpipe.workers.failures import failure_of
from fruitpipe.workers.processes import Processes
def look(number):
    parent = os.getppid()
    return len(os.listdir(f"/proc/{parent}/task")), sorted(sys.modules)
workers = Processes(WarmUp(LocalStore(sys.argv[1]), ()), None, Path(sys.argv[1]), False)
print(json.dumps(workers.map(look, 1)[0]))
assert not {"pyspark", "py4j"} & set(sys.modules)
workers.end()
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    threads, modules = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert threads == 1
    packages = {name.partition(".")[0] for name in modules}
    drivers = {
        "tensorflow",
        "keras",
        "duckdb",
        "jinja2",
        "typer",
        "rich",
        "kubernetes",
        "prometheus_client",
        "sklearn",
        "pandas",
    }
    assert not packages & (drivers | {"pyspark", "py4j", "cv2", "openvino", "botocore"})
    assert {"numpy", "pyarrow"} <= packages


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("of the\nsecond line"), FruitpipeError, "a task failed 4 times: ValueError: of the. What"),
        (UserError("fix the backbone."), UserError, "fix the backbone."),
        (OSError(28, "No space left on device"), FruitpipeError, "the disk is full"),
        (None, FruitpipeError, "a worker was killed or crashed 4 times at the same task, most likely for want of"),
    ],
    ids=["any", "ours", "disk", "killed"],
)
def test_a_task_that_fails_four_times_is_one_line(
    error: Exception | None, kind: type[FruitpipeError], said: str, tmp_path: Path
) -> None:
    def task(number: int) -> int:
        if number == 1:
            with (tmp_path / "tries").open("a") as file:
                file.write("x")
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise error
        return number

    with started(tmp_path) as workers:
        with pytest.raises(kind) as raised:
            workers.map(task, 3)
        assert type(raised.value) is kind
        assert str(raised.value).startswith(said)
        assert "\n" not in str(raised.value)
        assert (tmp_path / "tries").read_text() == "xxxx"
        assert workers.map(lambda number: number, 2) == [0, 1], "others can be run after it"


@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        ("fruitpipe.errors.NoWeights: none here", NoWeights, "none here"),
        ("fruitpipe.objects.error_messages.Forbidden: no right", UserError, "no right"),
        (f"{NoRoom.__module__}.NoRoom", FruitpipeError, "a task failed once: fruitpipe.source.fetching.NoRoom"),
        ("theirs.errors.UserError: x", FruitpipeError, "a task failed once: theirs.errors.UserError: x"),
        ("fruitpipe.errors.errno: 5", FruitpipeError, "a task failed once: fruitpipe.errors.errno: 5"),
    ],
)
def test_a_cause_is_ours_where_its_class_is(cause: str, kind: type[FruitpipeError], said: str) -> None:
    found = failure_of(cause, "once")
    assert type(found) is kind
    assert str(found).removesuffix(". What was computed is kept.") == said


def test_secrets_leave_neither_in_an_error_nor_in_what_workers_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_OURS_TOKEN", "a-secret-of-ours")

    def task(number: int) -> None:
        print("printed a-secret-of-ours", flush=True)
        raise ValueError("with a-secret-of-ours")

    with started(tmp_path) as workers, pytest.raises(FruitpipeError) as raised:
        workers.map(task, 1)
    assert "ValueError: with ***" in str(raised.value)
    log = (tmp_path / "workers.log").read_text()
    assert "printed ***" in log
    assert "a-secret" not in log


def test_a_nursery_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "__module__", "no_such_module")
    with started(tmp_path) as workers, pytest.raises(FruitpipeError) as raised:
        workers.map(lambda number: number, 2)
    assert str(raised.value) == "worker processes do not start: ModuleNotFoundError: No module named 'no_such_module'."


def test_an_interpreter_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "COMMAND", (sys.executable, "-P", "-c", "import no_such_module"))
    with started(tmp_path) as workers, pytest.raises(FruitpipeError, match="no_such_module"):
        workers.map(lambda number: number, 2)


def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    def task(number: int) -> None:
        (tmp_path / "running").touch()
        time.sleep(600)

    def interrupt() -> None:
        if (tmp_path / "running").exists():
            raise KeyboardInterrupt

    before = children_of(os.getpid())
    with started(tmp_path) as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.map(task, 2, poll=interrupt)
        wait(lambda: {*children_of(os.getpid())} <= {*before})
        assert workers.map(lambda number: number, 2) == [0, 1]


def test_another_runner_takes_over_what_nobody_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes after it; workers finish what they have, a task that fails there is run by the other one."""
    monkeypatch.setattr(module, "START", 0.0)
    other, here = Other(), os.getpid()

    @contextmanager
    def coming() -> Iterator[Other]:
        yield other

    def task(number: int) -> tuple[int, bool]:
        if os.getpid() != here:
            time.sleep(0.2)
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid() == here

    watched: list[tuple[int, bool]] = []
    with started(tmp_path, coming()) as workers:
        results = workers.map(task, 40, watched.append)
        assert [number for number, _ in results] == list(range(40))
        assert Counter(watched) == Counter(results)
        by_other = [number for number, elsewhere in results if elsewhere]
        assert 0 in by_other
        assert 0 < len(by_other) < 40
        assert [elsewhere for _, elsewhere in workers.map(task, 3)] == [True] * 3
        assert workers.worker_memory == other.worker_memory
        assert workers.note == other.note
        assert not children_of(os.getpid()) or not workers._nursery.lives


def test_without_one_that_starts_they_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START", 0.0)
    with started(tmp_path) as workers:
        assert workers.map(lambda number: time.sleep(0.05) or number, 30) == list(range(30))
        assert workers.note == "went on without Spark, as it could not be started: no Java, which Spark needs."


def test_cores_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert 1 <= cores() <= (os.cpu_count() or 1)


RUN = """
import sys
import fruitpipe
from fruitpipe.workers import processes
processes.START = float(sys.argv[3])
run = fruitpipe.run(fruitpipe.load_config(input=sys.argv[1], output=sys.argv[2], backbone="efficientnet_lite0"))
print("pyspark" in sys.modules, run.manifest.worker_memory)
"""  # with no guard of __main__, as people write it


@pytest.mark.parametrize("start", [pytest.param("0", marks=pytest.mark.slow), "5"], ids=["then by Spark", "alone"])
def test_vectors_are_those_of_spark_to_the_last_bit(
    start: str, fruits: Path, undisturbed: Path, tmp_path: Path
) -> None:
    program = tmp_path / "job.py"
    program.write_text(RUN)
    words = [sys.executable, str(program), str(fruits), str(tmp_path / "out"), start]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    by_spark, memory = done.stdout.split()
    assert by_spark == str(start == "0")
    assert int(memory) > 1 << 25
    assert same_vectors(vectors(tmp_path / "out"), vectors(undisturbed))
    ours, theirs = manifest(tmp_path / "out"), manifest(undisturbed)
    if start == "5":
        assert ours["feature_parts"] == theirs["feature_parts"]


@pytest.fixture(scope="module")
def undisturbed(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Spark."""
    out = tmp_path_factory.mktemp("undisturbed")
    process("run", fruits, out, *SETTINGS, "--set", "spark.master=local[2]")
    return out


@contextmanager
def amid(images: Path, out: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run that has written a part, and its processes; none may be left of them."""
    words = command("run", images, out, *SETTINGS)
    run = subprocess.Popen(hearing(words), stderr=subprocess.PIPE, text=True)
    try:
        wait(lambda: [*out.rglob("part-*.parquet")] or run.poll() is not None)
        assert run.poll() is None, run.stderr and run.stderr.read()
        family = children_of(run.pid)
        assert not jvms_of(run.pid)
        yield run, family
        wait(lambda: not any(map(lives, family)))
    finally:
        run.kill()
        run.communicate(timeout=120)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_stops_at_once_and_leaves_nobody(
    number: signal.Signals, fruits: Path, tmp_path: Path
) -> None:
    with amid(fruits, tmp_path / "out") as (run, _):
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "continues from them" in one_line_error(subprocess.CompletedProcess([], 130, "", errors))


@pytest.mark.slow
def test_a_run_that_is_stopped_waits_for_no_conversion(fruits: Path, tmp_path: Path) -> None:
    """Whose weights may be on their way from a server that has stopped answering."""
    words = command("run", fruits, tmp_path / "out", "--backbone", "vgg16", "--set", "weights=random:1")
    cache = tmp_path / "cache"
    variables = os.environ | {"FRUITPIPE_CACHE": str(cache)}
    run = subprocess.Popen(hearing(words), stderr=subprocess.PIPE, text=True, env=variables)

    def converting() -> list[psutil.Process]:
        return [each for each in children_of(run.pid) if "fruitpipe.backbones.convert" in each.cmdline()]

    try:
        wait(lambda: converting() or run.poll() is not None)
        family = converting()
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
        run.wait()
    assert (run.returncode, len(family)) == (130, 1), errors
    assert not any(map(lives, family))
    assert not [path for path in cache.rglob("*") if path.is_file() and path.parent.parent.name == "backbones"]


def test_a_killed_run_takes_its_workers_along(fruits: Path, tmp_path: Path) -> None:
    with amid(fruits, tmp_path / "out") as (run, family):
        assert len(workers_of(run.pid)) >= 1
        run.kill()
    assert len(family) >= 2


@pytest.mark.slow
def test_a_killed_worker_does_not_end_the_run(fruits: Path, undisturbed: Path, tmp_path: Path) -> None:
    with amid(fruits, tmp_path / "out") as (run, _):
        workers_of(run.pid)[0].kill()
        _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert same_vectors(vectors(tmp_path / "out"), vectors(undisturbed))
