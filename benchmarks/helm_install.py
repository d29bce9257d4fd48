"""What Kubernetes costs: from `helm install` to the first image featurized and to the end, part by part.

The same images are featurized by a run on this machine, by a release with one 1-core executor and by one with two; all
from the same S3 server. Then who had the cores while they were featurized, and how many times as fast two executors are
as one: by the clock, and for each core that the control plane, the S3 server and other programs left them.

Needs a cluster of this machine alone with the Spark operator, the image on it, `helm`, and an address that pods reach,
as the tests of the cluster do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from common import fruitpipe, subset, timed

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cluster import KIND, NAMESPACE, counts, kubectl, manifest, parts, s3_for_pods, state, wait_for
from release import ENDED, release
from s3 import environment, options, upload
from seaweed import BUCKET, Server

TARGET, NET, FIRST = 1.5, 1.85, 12.0
EVERY = 0.1
"""Seconds between two looks for the first images."""
EXECUTORS, DRIVER, S3, KUBERNETES, OTHERS = "executors", "driver", "S3 server", "Kubernetes", "other programs"
CORES = psutil.cpu_count() or 1


class Share(NamedTuple):
    """Of the feature stage of a release, all of whose executors are there before it begins."""

    executors: int
    rate: float
    """images per second"""
    cores: dict[str, float]
    """CPU seconds per second, by whose they are"""

    @property
    def left(self) -> float:
        """Cores that executors, of one each, could have."""
        return min(self.executors, CORES - sum(self.cores[who] for who in (S3, KUBERNETES, OTHERS)))

    @property
    def idle(self) -> float:
        return CORES - sum(self.cores.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--image", default="localhost/fruitpipe:dev", help="its name on the cluster [%(default)s]")
    parser.add_argument("--count", type=int, default=2316, help="take this many, evenly spaced [%(default)s]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch, s3_for_pods(Path(scratch)) as server:
        admin = server.identities["admin"]
        upload(server.client(admin), subset(given.images, given.count, Path(scratch, "images")), "images")
        os.environ.update(environment(server, admin))
        places = (f"s3://{BUCKET}/images", f"s3://{BUCKET}/here")
        command = fruitpipe(*places, "--set", "backbone=efficientnet_lite0", *options(server.endpoint))
        print(f"{given.count} images, without Kubernetes:              {timed(command):5.1f} s")
        begin("begin", given.image, server)
        one, two = (shared(name, executors, given.image, server) for name, executors in (("one", 1), ("two", 2)))
    print(f"\n{'cores while images are featurized':36}{'one executor':>14}{'two':>8}")
    for who in one.cores:
        print(f"  {who:34}{one.cores[who]:>14.2f}{two.cores[who]:>8.2f}")
    print(f"  {'nobody':34}{one.idle:>14.2f}{two.idle:>8.2f}")
    first, second = (1000 * each.cores[EXECUTORS] / each.rate for each in (one, two))
    print(f"{'executors, CPU ms for an image':36}{first:>14.2f}{second:>8.2f}")
    print(f"{'images per second':36}{one.rate:>14.1f}{two.rate:>8.1f}")
    print(f"two executors against one: {two.rate / one.rate:.2f} times as fast   >= {TARGET}")
    net = 2 * (two.rate / two.left) / (one.rate / one.left)
    print(f"the same for each core that others left them, times two: {net:.2f}   >= {NET}")


def begin(name: str, image: str, server: Server) -> None:
    """Install a release with two executors, wait for the end, print how long each part took."""
    client = server.client(server.identities["admin"])
    executor = {"instances": 2, "coreRequest": "100m"}
    with watched() as pods:
        begun = time.time()
        with release(name, image, server, "images", executor=executor) as made:
            wait_for(lambda: parts(client, name), 300, every=EVERY)
            first = time.time()
            wait_for(lambda: state(name) in ENDED, 300)
            end = time.time()
            made.completed()
    driver = pods[f"{name}-driver"]
    executors = [moments for pod, moments in pods.items() if "-exec-" in pod]
    moments = {
        "helm install to driver's pod (submit)": driver["made"],
        "to driver's container (schedule, mount)": driver["running"],
        "to first executor's pod (driver starts)": min(each["made"] for each in executors),
        "to its container": min(each["running"] for each in executors if "running" in each),
        "to first images featurized": first,
        "to COMPLETED": end,
    }
    last = begun
    for part, moment in moments.items():
        print(f"  {part:42}{moment - last:5.1f} s{moment - begun:7.1f} s")
        last = moment
    print(f"  {'first images, without the submission':42}{first - driver['made']:5.1f} s   <= {FIRST:.0f}")


@contextmanager
def watched() -> Iterator[dict[str, dict[str, float]]]:
    """When pods of the namespace are made and their containers run, by their names, as the API server tells it."""
    found: dict[str, dict[str, float]] = {}
    path = "{.metadata.name}{' '}{.status.containerStatuses[*].state.running.startedAt}{'\\n'}"
    command = ["kubectl", f"--namespace={NAMESPACE}", "get", "pods", "--watch", f"--output=jsonpath={path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            for line in process.stdout or ():
                pod, *running = line.split()
                moments = found.setdefault(pod, {"made": time.time()})
                if running:
                    moments.setdefault("running", time.time())

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield found
        finally:
            process.terminate()
            thread.join()


def shared(name: str, executors: int, image: str, server: Server) -> Share:
    """Who had the cores while a release featurized images, by executors that were all there."""
    client = server.client(server.identities["admin"])
    conf = {"spark.scheduler.minRegisteredResourcesRatio": "1"}
    executor = {"instances": executors, "coreRequest": "100m"}
    with release(name, image, server, "images", executor=executor, sparkConf=conf) as made:
        meter = Meter(server, name, executors + 1)
        with ending(name) as process:
            wait_for(lambda: meter.look() or process.poll() is not None, 300)
        made.completed()
        log = kubectl("logs", "--timestamps", f"{name}-driver")
    (told,) = re.findall(r"(?m)^(\S+\.\d{6})\d*Z featurize: [\d.]+ s,", log)
    seconds = float(manifest(client, name)["timings"]["featurize"])
    end = datetime.fromisoformat(f"{told}+00:00").timestamp()
    return Share(executors, counts(client, name)["ok"] / seconds, meter.cores(end - seconds, end))


@contextmanager
def ending(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when a release has completed, and takes no CPU time until then."""
    what = ("--for=jsonpath={.status.applicationState.state}=COMPLETED", "--timeout=300s", KIND, name)
    with subprocess.Popen(["kubectl", f"--namespace={NAMESPACE}", "wait", *what], stdout=subprocess.DEVNULL) as process:
        yield process


class Meter:
    """CPU time, by whose it is: of pods by their control groups, which count processes that have ended, too."""

    def __init__(self, server: Server, name: str, pods: int) -> None:
        """name: of the release, which is to have so many pods."""
        self._pods = pods
        self._driver = f"{name}-driver"
        self._server = psutil.Process(server.pid)
        self._network = Path("/proc/self/ns/net").stat().st_ino
        self._counters: dict[str, Path] = {}
        self._looks: list[tuple[float, dict[str, float]]] = []

    def look(self) -> None:
        """Read all counters."""
        if len(self._counters) < self._pods:
            for pod in json.loads(kubectl("get", "pods", "--output=json"))["items"]:
                self._find_counter(pod["metadata"]["name"], pod["metadata"]["uid"])
        used = dict.fromkeys((DRIVER, EXECUTORS), 0.0)
        for pod, counter in self._counters.items():
            with suppress(OSError):  # it is gone
                used[DRIVER if pod == self._driver else EXECUTORS] += seconds_in(counter)
        used[S3] = sum(self._server.cpu_times()[:2])
        used[KUBERNETES] = sum(map(self._of_kubernetes, psutil.process_iter()))
        whole = psutil.cpu_times()
        used[OTHERS] = whole.user + whole.nice + whole.system + whole.irq + whole.softirq - sum(used.values())
        self._looks.append((time.time(), used))

    def _find_counter(self, pod: str, uid: str) -> None:
        if pod not in self._counters and ("-exec-" in pod or pod == self._driver):
            # systemd's names have no hyphens.
            folders = [*Path("/sys/fs/cgroup").rglob(f"*pod{uid.replace('-', '?')}*")]
            for counter in (folder / name for name in ("cpuacct.usage", "cpu.stat") for folder in folders):
                if counter.exists():
                    self._counters.setdefault(pod, counter)

    def _of_kubernetes(self, process: psutil.Process) -> float:
        """CPU seconds of a process, and of its children that have ended, if it is of the control plane: what is in no
        pod and sees the node's network."""
        if process.pid in (os.getpid(), self._server.pid):
            return 0.0
        try:
            ours = Path(f"/proc/{process.pid}/ns/net").stat().st_ino == self._network
            in_pod = "kubepods" in Path(f"/proc/{process.pid}/cgroup").read_text()
            return sum(process.cpu_times()[:4]) if ours and not in_pod else 0.0
        except (OSError, psutil.Error):
            return 0.0

    def cores(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds per second from one moment to another, by the looks around them."""
        before, after = self._at(begin), self._at(end)
        return {who: (after[who] - before[who]) / (end - begin) for who in (EXECUTORS, DRIVER, S3, KUBERNETES, OTHERS)}

    def _at(self, moment: float) -> dict[str, float]:
        times = [when for when, _ in self._looks]
        whose = (EXECUTORS, DRIVER, S3, KUBERNETES, OTHERS)
        return {who: float(np.interp(moment, times, [used[who] for _, used in self._looks])) for who in whose}


def seconds_in(counter: Path) -> float:
    """CPU seconds, of version 1 or 2 of control groups."""
    text = counter.read_text()
    return int(text) / 1e9 if counter.name == "cpuacct.usage" else int(text.split()[1]) / 1e6


if __name__ == "__main__":
    main()
