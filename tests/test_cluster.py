"""The main job as a SparkApplication: driver and executors of the image in pods, images and result in S3.

Runs where `kubectl` reaches a cluster with the Spark operator, and where this machine has an address that pods reach.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import EXECUTORS, NAMESPACE, apply, completed, counts, kubectl, parts, s3_for_pods, wait_for
from s3 import upload
from seaweed import Server


@pytest.fixture(scope="module")
def image() -> str:
    if not (name := os.environ.get("FRUITPIPE_CLUSTER_IMAGE")):
        pytest.skip("set FRUITPIPE_CLUSTER_IMAGE to the image's name on the cluster that kubectl reaches")
    return name


@pytest.fixture(scope="module")
def places(image: str, tmp_path_factory: pytest.TempPathFactory, fruits: Path) -> Iterator[Server]:
    with s3_for_pods(tmp_path_factory.mktemp("s3")) as server:
        upload(server.client(server.identities["admin"]), fruits, "images")
        yield server


def test_main_job_on_the_cluster(places: Server, image: str) -> None:
    name = apply(image, "images", "out")
    log = completed(name)
    assert "[cds" not in log, "Java says so where it cannot use the archive of Spark's classes"
    assert counts(places, "out") == {"ok": 320}


@pytest.fixture(scope="module")
def many(places: Server, fruits: Path) -> int:
    """So many images that executors work for a while; how many."""
    copies = 10
    for copy in range(copies):
        upload(places.client(places.identities["admin"]), fruits, f"many/{copy}")
    return 320 * copies


@pytest.mark.parametrize("how", ["its pod is deleted", "it gets SIGTERM"])
def test_an_executor_that_is_told_to_go_finishes_its_task(places: Server, image: str, many: int, how: str) -> None:
    """As when the node of a spot instance goes: no task is lost, and nothing is computed twice."""
    client = places.client(places.identities["admin"])
    out = how.replace(" ", "-")
    name = apply(image, "many", out)
    wait_for(lambda: parts(client, out), 180)
    pod, *_ = kubectl("get", "pods", EXECUTORS, "--field-selector=status.phase=Running", "--output=name").split()
    follow = ["kubectl", f"--namespace={NAMESPACE}", "logs", "--follow", pod]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as following:
        if how == "it gets SIGTERM":
            kubectl("exec", pod, "--", "bash", "-c", "kill -TERM 1")
        else:
            kubectl("delete", "--wait=false", pod)
        its_log, _ = following.communicate(timeout=120)
    log = completed(name)
    assert "self-exiting due to : Finished decommissioning" in its_log
    assert re.search(r"Received executor \d+ decommissioned message", log)
    assert "Lost task" not in log
    assert counts(places, out) == {"ok": many}
