"""Executors that do not do what they should, with Spark's settings as the chart has them.

Each has an address of its own, as pods have.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import psutil
import pytest
import yaml
from chart import CHART, helm
from command import BACKBONE, command, same_vectors, vectors
from processes import executors_of, lives, nurseries_of, wait, workers_of
from standalone import Nodes, two_nodes

pytestmark = pytest.mark.slow
PLACES = "pipeline.input=s3://photos/images,pipeline.output=s3://photos/out"


def of_the_chart(*groups: str) -> dict[str, str]:
    """Settings of Spark that the chart makes, of some groups."""
    done = helm("template", "fruits", str(CHART), "--set", PLACES)
    assert not done.returncode, done.stderr
    (application,) = [each for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "SparkApplication"]
    conf: dict[str, str] = application["spec"]["sparkConf"]
    found = {name: value for name, value in conf.items() if name.startswith(groups)}
    assert {*groups} == {group for group in groups for name in found if name.startswith(group)}
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with two_nodes(tmp_path_factory.mktemp("nodes")) as started:
        yield started


@contextmanager
def amid(
    nodes: Nodes, images: Path, out: Path, conf: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A run on two executors of a core each, which are there and have workers; and the node of one."""
    wait(lambda: not any(executors_of(each.pid) for each in nodes.machines))  # of the run before
    words = [BACKBONE, f"spark.master={nodes.master}", "spark.conf.spark.executor.memory=512m"]
    words += [f"spark.conf.{name}={value}" for name, value in conf.items()]
    options = [part for word in words for part in ("--set", word)]
    with subprocess.Popen(command("run", images, out, *options), stderr=subprocess.PIPE, text=True) as process:
        try:
            wait(lambda: all(workers_of(each.pid) for each in nodes.machines) or process.poll() is not None)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield process, nodes.machines[0]
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    said = process.communicate()[1]
    return subprocess.CompletedProcess(process.args, process.returncode, "", said)


@pytest.mark.parametrize("excluded", [True, False])
def test_an_executor_that_can_write_nothing_is_left_aside(
    excluded: bool, nodes: Nodes, fruits: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The other one stands still until there is nothing left to fail: without the settings, that is the run."""
    before, conf = nodes.failures(), of_the_chart("spark.excludeOnFailure.") if excluded else {}
    with amid(nodes, fruits, tmp_path / "out", conf) as (process, node):
        held = workers_of(nodes.machines[1].pid)
        for each in held:
            each.send_signal(SIGSTOP)
        for each in nurseries_of(node.pid) + workers_of(node.pid):  # children inherit a limit
            each.rlimit(resource.RLIMIT_FSIZE, (0, 0))
        wait(lambda: process.poll() is not None or (excluded and nodes.failures() > before and settled(nodes)))
        for each in filter(lives, held):
            each.send_signal(SIGCONT)
        done = ended(process)
    if excluded:
        assert done.returncode == 0, done.stderr
        assert same_vectors(vectors(tmp_path / "out"), vectors(undisturbed))
    else:
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: a task failed"), done.stderr


def settled(nodes: Nodes) -> bool:
    """Whether no task fails for a while."""
    before = nodes.failures()
    time.sleep(5)
    return nodes.failures() == before


def test_what_an_executor_does_not_finish_another_does(
    nodes: Nodes, fruits: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Without speculation, the run would not end."""
    conf = of_the_chart("spark.speculation") | {"spark.speculation.minTaskRuntime": "2s"}
    with amid(nodes, fruits, tmp_path / "out", conf) as (process, node):
        for each in workers_of(node.pid):
            each.send_signal(SIGSTOP)
        done = ended(process)
    assert done.returncode == 0, done.stderr
    assert same_vectors(vectors(tmp_path / "out"), vectors(undisturbed))
