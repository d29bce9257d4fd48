"""What Kubernetes costs: from `helm install` to the first image featurized and to the end, part by part.

The same images are featurized by a run on this machine, by a release with one 1-core executor and by one with two; all
from the same S3 server. Needs a cluster with the Spark operator, the image on it, `helm`, and an address of this
machine that pods reach, as the tests of the cluster do. Kubernetes and S3 tell times in whole seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from common import fruitpipe, subset, timed

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cluster import EXECUTORS, counts, kubectl, manifest, parts, s3_for_pods, state, wait_for
from release import ENDED, release
from s3 import environment, options, upload
from seaweed import BUCKET, Server

TARGET = 1.5


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
        one = installed("one", 1, given.image, server)
        two = installed("two", 2, given.image, server)
        print(f"feature stage, two executors against one: {one / two:.2f} times as fast   >= {TARGET}")


def installed(name: str, executors: int, image: str, server: Server) -> float:
    """Install, wait for the end, print how long each part took; seconds of the feature stage."""
    client = server.client(server.identities["admin"])
    begun = datetime.now(UTC)
    executor = {"instances": executors, "coreRequest": "100m"}
    with release(name, image, server, "images", executor=executor) as made:
        wait_for(lambda: parts(client, name), 300)
        meter, since = Meter(), time.monotonic()
        first = min(each["LastModified"] for each in parts(client, name))
        pods = json.loads(kubectl("get", "pods", EXECUTORS, "--output=json"))["items"]
        wait_for(lambda: meter.sample() or state(name) in ENDED, 300)
        made.completed()
        seconds = time.monotonic() - since
        status = made.get()["status"]
        driver = json.loads(kubectl("get", "pod", f"{name}-driver", "--output=json"))
    moments = {
        "helm install to driver's pod (submit)": created(driver),
        "to driver's container (schedule, mount)": started(driver),
        "to first executor's pod (driver starts)": min(created(each) for each in pods),
        "to its container": min(started(each) for each in pods if each["status"].get("containerStatuses")),
        "to first images featurized": first,
        "to COMPLETED": datetime.fromisoformat(status["terminationTime"]),
    }
    print(f"\n{executors} executor{'s' * (executors > 1)}, {counts(client, name)['ok']} images")
    stage = float(manifest(client, name)["timings"]["featurize"])
    last = begun
    for part, moment in moments.items():
        print(f"  {part:42}{(moment - last).total_seconds():5.1f} s{(moment - begun).total_seconds():7.1f} s")
        last = moment
    print(f"  CPU from the first images to the end, {seconds:.0f} s on {psutil.cpu_count()} cores: "
          + ", ".join(f"{who} {used:.1f} s" for who, used in meter.spent().items()))  # fmt: skip
    print(f"  feature stage: {stage:.1f} s")
    return stage


class Meter:
    """CPU seconds of this machine's processes from now on, by whose they are; those that end count as last seen."""

    def __init__(self) -> None:
        self._first, self._last = self._look(), dict[tuple[int, str], float]()

    def sample(self) -> None:
        self._last |= self._look()

    def spent(self) -> dict[str, float]:
        whose = {"java": "Spark", "python3": "fruitpipe", "python": "fruitpipe", "weed": "S3 server"}
        found: Counter[str] = Counter()
        for process, seconds in self._last.items():
            found[whose.get(process[1], "Kubernetes and all else")] += seconds - self._first.get(process, 0.0)
        return dict(sorted(found.items()))

    @staticmethod
    def _look() -> dict[tuple[int, str], float]:
        """By process and the name of its program."""
        return {
            (process.pid, process.info["name"]): sum(process.info["cpu_times"][:2])
            for process in psutil.process_iter(["name", "cpu_times"])
            if process.info["cpu_times"] and process.pid != os.getpid()
        }


def created(pod: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def started(pod: dict[str, Any]) -> datetime:
    (container,) = pod["status"]["containerStatuses"]
    (state,) = container["state"].values()
    return datetime.fromisoformat(state["startedAt"])


if __name__ == "__main__":
    main()
