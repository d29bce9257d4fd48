"""The main job as a SparkApplication: driver and executors of the image in pods, images and result in S3.

Runs where `kubectl` reaches a cluster with the Spark operator, and where this machine has an address that pods reach.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster import EXECUTORS, NAMESPACE, apply, completed, counts, kubectl, parts, state, wait_for
from onnx_bucket import COMPONENTS, fill, require_right
from release import release
from seaweed import Server

pytestmark = pytest.mark.cluster


def test_executors_that_are_told_to_go_finish_their_tasks(places: Server, cluster_image: str, many: int) -> None:
    """As when the node of a spot instance goes: no task is lost, and nothing is computed twice."""
    client = places.client(places.identities["admin"])
    name = apply(cluster_image, "heap", "told-to-go")
    wait_for(lambda: parts(client, "told-to-go") and len(running()) == 2, 180)
    first, second = running()
    with log_of(first) as its_log:
        kubectl("exec", first, "--", "bash", "-c", "kill -TERM 1")
    with log_of(second) as other_log:
        kubectl("delete", "--wait=false", second)
    log = completed(name)
    for said in (its_log, other_log):
        assert "self-exiting due to : Finished decommissioning" in "".join(said)
    assert len(set(re.findall(r"Received executor (\d+) decommissioned message", log))) == 2
    assert "Lost task" not in log
    assert "[cds" not in log, "Java says so where it cannot use the archive of Spark's classes"
    assert counts(client, "told-to-go") == {"ok": many}


def test_a_network_in_onnx_and_images_in_a_bucket_become_vectors(
    places: Server, example_image: str, tmp_path: Path
) -> None:
    """By the chart; the example's image has onnxruntime, and nowhere to keep the network but /tmp."""
    client = places.client(places.identities["admin"])
    pipeline = {"pipeline__backbone": fill(client, "onnx", tmp_path), "pipeline__pca": {"components": COMPONENTS}}
    pods: dict[str, Any] = {
        "driver": {"coreRequest": "100m"},  # with the chart's memory, as it looks at the network in another process
        "executor": {"instances": 1, "cores": 2, "coreRequest": "100m", "memoryOverhead": "2400m"},
    }
    with release("from-onnx", example_image, places, "onnx/images", **pipeline, **pods) as made:
        made.completed()
    require_right(client, "from-onnx")


def test_executors_come_for_a_backlog_and_go_at_its_end(places: Server, cluster_image: str, many: int) -> None:
    """While one stands still in the middle of its part, the other one takes all others, and then has nothing to do."""
    client = places.client(places.identities["admin"])
    executor = {"dynamicAllocation": {"enabled": True, "minimum": 1, "maximum": 2}, "coreRequest": "100m"}
    conf = {"spark.dynamicAllocation.executorIdleTimeout": "5s", "spark.speculation": "false"}
    with release("backlog", cluster_image, places, "heap", executor=executor, sparkConf=conf) as made:
        wait_for(lambda: len(made.pods("executor")) == 2, 120)
        first, _ = sorted(made.pods("executor"))
        assert first.endswith("-exec-1")
        with made.standing_still(only=first):
            wait_for(lambda: made.pods("executor") == [first], 120)
            assert state(made.name) == "RUNNING"
            assert parts(client, made.name), "the other one has done something"
        made.completed()
    assert counts(client, "backlog") == {"ok": many}


def running() -> list[str]:
    """Executors that run."""
    return kubectl("get", "pods", EXECUTORS, "--field-selector=status.phase=Running", "--output=name").split()


@contextmanager
def log_of(pod: str) -> Iterator[list[str]]:
    """What a pod says from now on until it ends, which it is to do in the block or soon after."""
    follow = ["kubectl", f"--namespace={NAMESPACE}", "logs", "--follow", pod]
    said: list[str] = []
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as following:
        yield said
        said.append(following.communicate(timeout=120)[0])
