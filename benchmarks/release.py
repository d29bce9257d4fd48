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
from cluster import EXECUTORS, counts, kubectl, manifest, parts, s3_for_pods, wait_for
from release import release
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
        before = cpu_seconds()
        since = time.monotonic()
        first = min(each["LastModified"] for each in parts(client, name))
        pods = json.loads(kubectl("get", "pods", EXECUTORS, "--output=json"))["items"]
        made.completed()
        spent, seconds = cpu_seconds() - before, time.monotonic() - since
        status = made.get()["status"]
        driver = json.loads(kubectl("get", "pod", f"{name}-driver", "--output=json"))
    (ended,) = [datetime.fromisoformat(status["terminationTime"])]
    moments = {
        "helm install to driver's pod (submit)": created(driver),
        "to driver's container (schedule, mount)": started(driver),
        "to first executor's pod (driver starts)": min(created(each) for each in pods),
        "to its container": min(started(each) for each in pods if each["status"].get("containerStatuses")),
        "to first images featurized": first,
        "to COMPLETED": ended,
    }
    print(f"\n{executors} executor{'s' * (executors > 1)}, {counts(client, name)['ok']} images")
    last = begun
    for part, moment in moments.items():
        print(f"  {part:42}{(moment - last).total_seconds():5.1f} s{(moment - begun).total_seconds():7.1f} s")
        last = moment
    print(f"  CPU from the first images to the end, {seconds:.0f} s on {psutil.cpu_count()} cores: "
          + ", ".join(f"{who} {spent[who]:.1f} s" for who in sorted(spent)))  # fmt: skip
    return float(manifest(client, name)["timings"]["featurize"])


def cpu_seconds() -> Counter[str]:
    """Of this machine's processes so far, by whose they are."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter(["name", "cpu_times"]):
        name, times = process.info["name"], process.info["cpu_times"]
        whose = {"java": "Spark", "python3": "fruitpipe", "python": "fruitpipe", "weed": "S3 server"}
        if times is not None and process.pid != os.getpid():
            found[whose.get(name, "Kubernetes and all else")] += times.user + times.system
    return found


def created(pod: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def started(pod: dict[str, Any]) -> datetime:
    (container,) = pod["status"]["containerStatuses"]
    (state,) = container["state"].values()
    return datetime.fromisoformat(state["startedAt"])


if __name__ == "__main__":
    main()
