"""The main job as a SparkApplication: driver and executors of the image in pods, images and result in S3.

Runs where `kubectl` reaches a cluster with the Spark operator, and where this machine has an address that pods reach.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from cluster import EXECUTORS, NAMESPACE, apply, completed, counts, kubectl, parts, wait_for
from seaweed import Server

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("how", ["its pod is deleted", "it gets SIGTERM"])
def test_an_executor_that_is_told_to_go_finishes_its_task(
    places: Server, cluster_image: str, many: int, how: str
) -> None:
    """As when the node of a spot instance goes: no task is lost, and nothing is computed twice."""
    client = places.client(places.identities["admin"])
    out = how.replace(" ", "-")
    name = apply(cluster_image, "heap", out)
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
    assert "[cds" not in log, "Java says so where it cannot use the archive of Spark's classes"
    assert counts(client, out) == {"ok": many}
