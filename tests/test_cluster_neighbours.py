"""What pods beside a release can do to it, and what its driver can do to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster import NAMESPACE, connects, kubectl, stranger
from release import Release, release
from seaweed import Server

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("many")]
OPEN = {f"spark.{name}": "false" for name in ("authenticate", "network.crypto.enabled", "io.encryption.enabled")}
SECRET = "/etc/spark-authentication/secret"
ASK_FOR_A_BLOCK = """
import socket, struct, sys

def text(words):
    return struct.pack(">i", len(words)) + words.encode()

def answer(block):  # to Spark's OpenBlocks in an RpcRequest, as of a client that proves nothing
    body = b"\\0" + text("any") + text("1") + struct.pack(">i", 1) + text(block)
    frame = struct.pack(">bqi", 3, 7, len(body)) + body
    with socket.create_connection((sys.argv[1], 7079), 5) as server:
        server.sendall(struct.pack(">q", 8 + len(frame)) + frame)
        return server.recv(64)[8:9]

print("given" if b"\\4" in [answer(f"broadcast_{number}_piece0") for number in range(20)] else "refused")
"""
JOIN = """
jars=$(python -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')/jars
grep --only-matching --max-count 1 'Successfully registered with driver' < <(
  exec timeout 90 java -cp "$jars/*" org.apache.spark.executor.CoarseGrainedExecutorBackend --executor-id 99 --cores 1 \
    --app-id any --resourceProfileId 0 --hostname $(hostname -i) \
    --driver-url spark://CoarseGrainedScheduler@$0:7078 2>&1
) || true
"""


LOOK_AROUND = """
from pathlib import Path
from fruitpipe.cli.doctor import finding_of
from fruitpipe.cli.kubernetes_access import foreign_pods
from fruitpipe.config import Environment
print(finding_of("neighbours", lambda: foreign_pods(Environment.read().account)).message)
"""


@contextmanager
def held(name: str, image: str, places: Server, **values: Any) -> Iterator[Release]:
    """A release in the middle of a run, whose executors' workers stand still meanwhile."""
    pods: dict[str, Any] = {
        "driver": {"coreRequest": "100m", "memoryOverhead": "2g"},  # others look around in it
        "executor": {"instances": 1, "coreRequest": "100m"},
    }
    with release(name, image, places, "heap", pipeline__limit=100, **pods, **values) as made:
        with made.standing_still():
            yield made
        made.completed()


@pytest.fixture(scope="module")
def running(places: Server, cluster_image: str) -> Iterator[Release]:
    """With all policies that there are; Prometheus may read metrics."""
    prometheus = {"metrics": {"from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}}
    with held("guarded", cluster_image, places, admissionPolicy=True, **prometheus) as made:
        yield made


def executors(made: Release) -> list[dict[str, Any]]:
    return [json.loads(kubectl("get", "pod", name, "--output=json")) for name in made.pods("executor")]


def heard(made: Release, pod: str) -> list[str]:
    """What a pod hears that asks driver and executor for a block and the driver for work."""
    driver = address(made)
    asked = [
        kubectl("exec", pod, "--", "python", "-c", ASK_FOR_A_BLOCK, each).strip()
        for each in (driver, executors(made)[0]["status"]["podIP"])
    ]
    return [*asked, kubectl("exec", pod, "--", "bash", "-c", JOIN, driver).strip()]


def address(made: Release) -> str:
    return kubectl("get", "pod", f"{made.name}-driver", "--output=jsonpath={.status.podIP}")


def doctor(made: Release) -> str:
    """What it says of the neighbours, asked in the driver."""
    return kubectl("exec", f"{made.name}-driver", "--", "python", "-c", LOOK_AROUND).strip()


def test_who_reaches_the_ports_is_not_listened_to(running: Release, cluster_image: str) -> None:
    """One that bears the release's labels, for which its policies open them."""
    labels = {"app.kubernetes.io/name": "fruitpipe", "app.kubernetes.io/instance": running.name}
    with stranger(cluster_image, **labels) as pod:
        assert heard(running, pod) == ["refused", "refused", ""]


def test_a_stranger_would_be_listened_to_without_authentication(places: Server, cluster_image: str) -> None:
    """The same questions have answers there: they are asked as Spark asks."""
    with (
        held("unguarded", cluster_image, places, networkPolicy__enabled=False, sparkConf=OPEN) as made,
        stranger(cluster_image) as pod,
    ):
        assert heard(made, pod) == ["given", "given", "Successfully registered with driver"]
        said = doctor(made)
    assert "stranger" in said
    assert "which this pod's account could delete" in said
    assert "a namespace of its own, or set the chart's admissionPolicy" in said


def test_who_may_read_metrics_reaches_those_of_the_driver_alone(running: Release, cluster_image: str) -> None:
    ports = [(address(running), port) for port in (8090, 4040, 7078, 7079)]
    executor = executors(running)[0]["status"]["podIP"]
    with stranger(cluster_image, app="prometheus") as pod:
        assert connects(pod, *ports, (executor, 7079)) == [True, True, False, False, False]
    with stranger(cluster_image) as pod:
        assert connects(pod, *ports, (executor, 7079)) == [False] * 5
        said = doctor(running)
    assert said == f"stranger: pods of others in namespace {NAMESPACE}, out of reach of this pod's account"


def test_the_secret_is_in_its_file_and_nowhere_else(running: Release) -> None:
    """As Spark says it, in Base64, and as it is."""
    secret = json.loads(kubectl("get", "secret", "guarded-authentication", "--output=json"))["data"]["secret"]
    (executor, *_) = running.pods("executor")
    for pod in ("guarded-driver", executor):
        assert kubectl("exec", pod, "--", "base64", "--wrap=0", SECRET) == secret
        said = kubectl(
            "exec", pod, "--", "bash", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'"
        )
        assert "SPARK_CONF_DIR" in said, "or it looked nowhere"
        assert secret not in said
    kinds = "pods,configmaps,sparkapplications"
    told = kubectl("get", kinds, "--output=yaml") + kubectl("describe", kinds) + running.log()
    assert "guarded-authentication" in told
    assert secret not in told
    assert "_SPARK_AUTH_SECRET" not in told


@pytest.fixture(scope="module")
def as_driver(running: Release, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """kubectl with the token of the driver's account; what it says."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    token = kubectl(
        "exec", f"{running.name}-driver", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    file = tmp_path_factory.mktemp("driver") / "config"
    file.write_text(json.dumps(config))

    def said(*arguments: str, given: Any = None) -> str:
        command = ["kubectl", f"--kubeconfig={file}", f"--namespace={NAMESPACE}", *arguments, "--dry-run=server"]
        text = None if given is None else json.dumps(given)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return said


@pytest.fixture(scope="module")
def executor(running: Release) -> dict[str, Any]:
    """What the driver has asked of Kubernetes for an executor, under another name."""
    (pod, *_) = executors(running)
    own = {name: pod["metadata"][name] for name in ("labels", "annotations")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": own | {"name": "another"}, "spec": pod["spec"]}


def test_the_driver_may_make_and_delete_executors(
    running: Release, as_driver: Callable[..., str], executor: dict[str, Any]
) -> None:
    assert "pod/another created" in as_driver("create", "--filename=-", given=executor)
    assert "deleted" in as_driver("delete", "pod", running.pods("executor")[0])


def with_account(pod: dict[str, Any]) -> None:
    pod["spec"]["serviceAccountName"] = pod["spec"]["serviceAccount"] = "guarded"


def with_image(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"][0]["image"] = "registry/other:1"


def with_another_container(pod: dict[str, Any]) -> None:
    context = pod["spec"]["containers"][0]["securityContext"]
    pod["spec"]["initContainers"] = [{"name": "first", "image": "registry/other:1", "securityContext": context}]


def with_volume(**source: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["volumes"].append({"name": "further", **source})


def with_variables_of_a_secret(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "other"}}]


def with_a_variable_of_a_secret(pod: dict[str, Any]) -> None:
    source = {"secretKeyRef": {"name": "other", "key": "key"}}
    pod["spec"]["containers"][0]["env"].append({"name": "A", "valueFrom": source})


def with_label(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["metadata"]["labels"].update({name: value})


def secured(**context: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["containers"][0]["securityContext"].update(context)


def with_port(pod: dict[str, Any]) -> None:
    pod["spec"]["containers"][0]["ports"].append({"containerPort": 9999, "hostPort": 9999})


def with_network(pod: dict[str, Any]) -> None:
    pod["spec"]["hostNetwork"] = True


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_account, "service account guarded-executor"),
        (with_image, "driver's image"),
        (with_another_container, "driver's image"),
        (with_volume(secret={"secretName": "other"}), "only volumes"),
        (with_volume(projected={"sources": [{"secret": {"name": "other"}}]}), "only volumes"),
        (with_volume(persistentVolumeClaim={"claimName": "other"}), "only volumes"),
        (with_volume(hostPath={"path": "/etc"}), ""),
        (with_variables_of_a_secret, "in its environment"),
        (with_a_variable_of_a_secret, "in its environment"),
        (with_label("spark-role", "driver"), "executors of its own release"),
        (with_label("app.kubernetes.io/name", "other"), "executors of its own release"),
        (secured(privileged=True, allowPrivilegeEscalation=True), ""),
        (secured(allowPrivilegeEscalation=True), ""),
        (secured(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}), ""),
        (secured(runAsNonRoot=False), ""),
        (secured(seccompProfile={"type": "Unconfined"}), ""),
        (with_port, ""),
        (with_network, ""),
    ],
)
def test_the_driver_may_make_no_other_pod(
    as_driver: Callable[..., str], executor: dict[str, Any], change: Callable[[dict[str, Any]], None], why: str
) -> None:
    """What concerns the node, the namespace's Pod Security refuses as well."""
    pod = json.loads(json.dumps(executor))
    change(pod)
    said = as_driver("create", "--filename=-", given=pod)
    assert "forbidden" in said
    assert why in said


def test_the_driver_may_neither_delete_nor_change_a_pod_of_others(
    cluster_image: str, as_driver: Callable[..., str], executor: dict[str, Any]
) -> None:
    with stranger(cluster_image) as pod:
        adopted = json.dumps({"metadata": {"labels": executor["metadata"]["labels"]}})
        assert "its own release" in as_driver("delete", "pod", pod)
        assert "its own release" in as_driver("patch", "pod", pod, f"--patch={adopted}")
