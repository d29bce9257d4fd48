"""SparkApplications on the cluster that `kubectl` reaches, with images and results on an S3 server of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import yaml
from seaweed import BUCKET, Server

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
NAMESPACES = os.environ.get("FRUITPIPE_NAMESPACES", "spark-jobs").split()
NAMESPACE = NAMESPACES[WORKER % len(NAMESPACES)]
"""One that the operator watches, for each process of tests its own."""
APPLICATION = Path(__file__).parents[1] / "k8s/application.yaml"
KIND = "sparkapplication.sparkoperator.k8s.io"
"""With its group: where Apache's operator is installed too, the short name may mean its applications."""
EXECUTORS = "--selector=spark-role=executor"


def kubectl(*arguments: str, given: Any = None) -> str:
    command = ["kubectl", f"--namespace={NAMESPACE}", *arguments]
    text = None if given is None else json.dumps(given)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(command)}:\n{done.stderr}"
    return done.stdout


@contextmanager
def s3_for_pods(folder: Path) -> Iterator[Server]:
    """An S3 server on an address that pods reach: they know it as `s3:8333`, and its keys as the Secret `s3-keys`."""
    node = json.loads(kubectl("get", "nodes", "--output=json"))["items"][0]
    addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
    with Server(folder, host=addresses["InternalIP"]) as server:
        admin = server.identities["admin"]
        keys = {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        ports = [{"name": "s3", "port": server.ports["s3.port"]}]
        objects = [
            {"kind": "Secret", "metadata": {"name": "s3-keys"}, "stringData": keys},
            {"kind": "Service", "metadata": {"name": "s3"}, "spec": {"ports": [{"name": "s3", "port": 8333}]}},
            {
                "kind": "Endpoints",
                "metadata": {"name": "s3"},
                "subsets": [{"addresses": [{"ip": server.host}], "ports": ports}],
            },
        ]
        for each in objects:
            kubectl("apply", "--filename=-", given={"apiVersion": "v1", **each})
        try:
            yield server
        finally:
            kubectl("delete", "--ignore-not-found", "secret/s3-keys", "service/s3")


def apply(image: str, source: str, out: str) -> str:
    """Submit the application of k8s/ with this image and these folders of the bucket; return its name."""
    application = yaml.safe_load(APPLICATION.read_text())
    name: str = application["metadata"]["name"]
    kubectl("delete", "--ignore-not-found", KIND, name)
    secret = {"kind": "Secret", "metadata": {"name": f"{name}-authentication"}, "stringData": {"secret": token_hex(32)}}
    kubectl("apply", "--filename=-", given={"apiVersion": "v1", **secret})
    application["metadata"]["namespace"] = NAMESPACE
    spec = application["spec"]
    spec |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    spec["arguments"][1:3] = [f"s3://{BUCKET}/{source}", f"s3://{BUCKET}/{out}"]
    kubectl("apply", "--filename=-", given=application)
    return name


@contextmanager
def stranger(image: str, **labels: str) -> Iterator[str]:
    """A pod in the same namespace that belongs to nobody, with these labels; its name."""
    container = {
        "name": "stranger",
        "image": image,
        "command": ["sleep", "300"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    kubectl(
        "apply",
        "--filename=-",
        given={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "labels": labels}, "spec": spec},
    )
    try:
        kubectl("wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
        yield "stranger"
    finally:
        kubectl("delete", "pod", "stranger")


def connects(pod: str, *places: tuple[str, int]) -> list[bool]:
    """Whether a pod gets a connection to each of these addresses and ports within three seconds."""
    program = (
        "import socket, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def connects(place):\n"
        "    host, port = place.split(':')\n"
        "    try: socket.create_connection((host, int(port)), 3).close()\n"
        "    except OSError: return 'no'\n"
        "    return 'yes'\n"
        "print(*ThreadPoolExecutor().map(connects, sys.argv[1:]))"
    )
    asked = [f"{host}:{port}" for host, port in places]
    return [each == "yes" for each in kubectl("exec", pod, "--", "python", "-c", program, *asked).split()]


def state(name: str) -> str:
    found = kubectl("get", KIND, name, "--output=jsonpath={.status.applicationState.state}")
    return found or "NEW"


def wait_for(done: Callable[[], Any], seconds: float, every: float = 0.5) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, kubectl("get", "pods,events")
        time.sleep(every)


def parts(client: Any, out: str) -> list[dict[str, Any]]:
    """The feature parts that are there, as S3 lists them."""
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{out}/features/").get("Contents", [])
    return [each for each in found if each["Key"].endswith(".parquet")]


def manifest(client: Any, out: str) -> dict[str, Any]:
    """The one that is published."""
    latest = json.load(client.get_object(Bucket=BUCKET, Key=f"{out}/latest.json")["Body"])["run"]
    found: dict[str, Any] = json.load(
        client.get_object(Bucket=BUCKET, Key=f"{out}/runs/{latest}/manifest.json")["Body"]
    )
    return found


def counts(client: Any, out: str) -> dict[str, int]:
    """Images by status in the manifest that is published."""
    found: dict[str, int] = manifest(client, out)["counts"]["by_status"]
    return found


def completed(name: str) -> str:
    """The driver's log, once the application has completed; fails where it has not."""
    wait_for(lambda: state(name) in {"COMPLETED", "FAILED", "SUBMISSION_FAILED"}, 300)
    log = kubectl("logs", f"{name}-driver")
    assert state(name) == "COMPLETED", log
    return log
