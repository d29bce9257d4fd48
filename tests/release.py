"""Releases of the chart on the cluster that `kubectl` reaches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import Signals
from subprocess import CompletedProcess
from typing import Any

from chart import CHART, helm
from cluster import KIND, NAMESPACE, kubectl, state, wait_for
from seaweed import BUCKET, Server

IN = f"--namespace={NAMESPACE}"
ENDED = {"COMPLETED", "FAILED"}
SIGNAL_WORKERS = """
import os, pathlib, sys
workers = [
    int(each.parent.name)
    for each in pathlib.Path("/proc").glob("[0-9]*/cmdline")
    if each.read_bytes().split(b"\\0")[1:3] == [b"-m", b"pyspark.daemon"]
]
for each in workers:
    os.kill(each, int(sys.argv[1]))
print(len(workers))
"""


@dataclass
class Release:
    """A release, and the values that it was given last."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)

    def upgrade(self, **changes: Any) -> None:
        """Install, or upgrade with further values: `pipeline__pca={...}` for a nested one."""
        for path, value in changes.items():
            *folders, last = path.split("__")
            target = self.values
            for each in folders:
                target = target.setdefault(each, {})
            target[last] = value
        done = helm("upgrade", "--install", self.name, str(CHART), IN, "--values=-", given=self.values)
        assert not done.returncode, done.stderr

    def get(self, kind: str = KIND) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", kind, self.name, "--output=json"))
        return found

    @property
    def run(self) -> str:
        """What the operator calls the run that was submitted last."""
        return str(self.get().get("status", {}).get("submissionID", ""))

    def ended(self, after: str = "", seconds: float = 300) -> str:
        """The state in which a run ends that is not the one called `after`."""
        wait_for(lambda: self.run not in {"", after} and state(self.name) in ENDED, seconds)
        return state(self.name)

    def completed(self, after: str = "") -> None:
        assert self.ended(after) == "COMPLETED", f"{self.reason()}\n{self.log()}"

    def log(self) -> str:
        return kubectl("logs", f"{self.name}-driver")

    def reason(self) -> str:
        """The driver's termination message."""
        path = '{.status.containerStatuses[?(@.name=="spark-kubernetes-driver")].state.terminated.message}'
        return kubectl("get", "pod", f"{self.name}-driver", f"--output=jsonpath={path}")

    def pods(self, role: str, phase: str = "Running") -> list[str]:
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={role}"
        path = "{.items[*].metadata.name}"
        found = kubectl(
            "get", "pods", f"--selector={labels}", f"--field-selector=status.phase={phase}", f"--output=jsonpath={path}"
        )
        return found.split()

    @contextmanager
    def standing_still(self, only: str = "") -> Iterator[None]:
        """Within the block, the workers of all executors, or of one pod, stand still: there is time to look around in
        the middle of a run. It begins when all are there: one that came later would do the work of the others."""
        wait_for(lambda: self._signal_workers(Signals.SIGSTOP, only) == (1 if only else self.executors), 180)
        try:
            yield
        finally:
            self._signal_workers(Signals.SIGCONT, only)

    @property
    def executors(self) -> int:
        """How many a run has that has enough to do."""
        spec = self.get()["spec"]
        dynamic = spec.get("dynamicAllocation", {})
        return int(dynamic["maxExecutors"] if dynamic.get("enabled") else spec["executor"]["instances"])

    def _signal_workers(self, signal: Signals, only: str) -> int:
        """Send it to the workers that there are; how many pods have some."""
        command = ("--", "python", "-c", SIGNAL_WORKERS, str(int(signal)))
        pods = [pod for pod in self.pods("executor") if only in {"", pod}]
        return sum(int(kubectl("exec", pod, *command)) > 0 for pod in pods)

    def test(self) -> CompletedProcess[str]:
        return helm("test", self.name, IN, "--timeout=3m")

    def uninstall(self) -> None:
        helm("uninstall", self.name, IN, "--ignore-not-found", "--wait")

    def left(self) -> list[str]:
        """Names of all that is still there of the release, whoever made it."""
        kinds = (
            "pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,persistentvolumeclaims"
        )
        found = kubectl("get", f"{kinds},{KIND},scheduled{KIND}", "--output=name").split()
        return [each for each in found if each.partition("/")[2].startswith(self.name)]


def values_for(name: str, image: str, server: Server, source: str) -> dict[str, Any]:
    """Values of a release that reads and writes the server's bucket, by policies that let it reach nothing else."""
    repository, _, tag = image.rpartition(":")
    (api,) = json.loads(kubectl("get", "endpoints", "kubernetes", "--namespace=default", "--output=json"))["subsets"]
    return {
        "pipeline": {
            "input": f"s3://{BUCKET}/{source}",
            "output": f"s3://{BUCKET}/{name}",
            "backbone": "efficientnet_lite0",
            "s3": {"endpoint": "http://s3:8333", "allow_http": True},
        },
        "image": {"repository": repository, "tag": tag},
        "secrets": ["s3-keys"],
        "restart": {"retries": 0, "interval": 1},
        "driver": {"coreRequest": "100m", "memoryOverhead": "1g"},
        "executor": {"coreRequest": "100m"},
        "networkPolicy": {
            "apiServer": f"{api['addresses'][0]['ip']}/32",
            "apiServerPorts": [api["ports"][0]["port"]],
            "stores": [f"{server.host}/32"],
            "storePorts": [server.ports["s3.port"]],
        },
    }


@contextmanager
def release(name: str, image: str, server: Server, source: str, **changes: Any) -> Iterator[Release]:
    """A release with the values above, and `changes` as `upgrade` takes them."""
    made = Release(name, values_for(name, image, server, source))
    try:
        made.upgrade(**changes)
        yield made
    finally:
        made.uninstall()
