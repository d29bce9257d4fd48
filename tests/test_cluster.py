"""The main job as a SparkApplication: driver and executors of the image in pods, images and result in S3.

Runs where `kubectl` reaches a cluster with the Spark operator, and where this machine has an address that pods reach.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from s3 import upload
from seaweed import BUCKET, Server

NAMESPACE = "spark-jobs"
APPLICATION = Path(__file__).parents[1] / "k8s/application.yaml"


def kubectl(*arguments: str, given: Any = None) -> str:
    command = ["kubectl", f"--namespace={NAMESPACE}", *arguments]
    text = None if given is None else json.dumps(given)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(command)}:\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    if not (name := os.environ.get("FRUITPIPE_CLUSTER_IMAGE")):
        pytest.skip("set FRUITPIPE_CLUSTER_IMAGE to the image's name on the cluster that kubectl reaches")
    return name


@pytest.fixture(scope="module")
def places(image: str, tmp_path_factory: pytest.TempPathFactory, fruits: Path) -> Iterator[Server]:
    """An S3 server on the node's address, which pods know as `s3:8333`, with images and the keys to it."""
    node = json.loads(kubectl("get", "nodes", "--output=json"))["items"][0]
    addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
    with Server(tmp_path_factory.mktemp("s3"), host=addresses["InternalIP"]) as server:
        admin = server.identities["admin"]
        upload(server.client(admin), fruits, "images")
        keys = {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        ports = [{"name": "s3", "port": 8333}]
        objects = [
            {"kind": "Secret", "metadata": {"name": "s3-keys"}, "stringData": keys},
            {"kind": "Service", "metadata": {"name": "s3"}, "spec": {"ports": ports}},
            {
                "kind": "Endpoints",
                "metadata": {"name": "s3"},
                "subsets": [
                    {"addresses": [{"ip": server.host}], "ports": [{"name": "s3", "port": server.ports["s3.port"]}]}
                ],
            },
        ]
        for each in objects:
            kubectl("apply", "--filename=-", given={"apiVersion": "v1", **each})
        yield server
        kubectl("delete", "--ignore-not-found", "secret/s3-keys", "service/s3")


def apply(image: str, **changes: Any) -> str:
    """Submit the application of k8s/ with this image; return its name."""
    application = yaml.safe_load(APPLICATION.read_text())
    name: str = application["metadata"]["name"]
    kubectl("delete", "--ignore-not-found", "sparkapplication", name)
    application["spec"] |= {"image": image, "imagePullPolicy": "IfNotPresent"} | changes
    kubectl("apply", "--filename=-", given=application)
    return name


def state(name: str) -> str:
    found = kubectl("get", "sparkapplication", name, "--output=jsonpath={.status.applicationState.state}")
    return found or "NEW"


def wait_for(done: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, kubectl("get", "pods,events")
        time.sleep(0.5)


def test_main_job_on_the_cluster(places: Server, image: str) -> None:
    name = apply(image)
    wait_for(lambda: state(name) in {"COMPLETED", "FAILED", "SUBMISSION_FAILED"}, 300)
    log = kubectl("logs", f"{name}-driver")
    assert state(name) == "COMPLETED", log
    client = places.client(places.identities["admin"])
    latest = json.load(client.get_object(Bucket=BUCKET, Key="out/latest.json")["Body"])["run"]
    manifest = json.load(client.get_object(Bucket=BUCKET, Key=f"out/runs/{latest}/manifest.json")["Body"])
    assert manifest["counts"]["by_status"] == {"ok": 320}
