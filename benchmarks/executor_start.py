"""How soon pods work: from the start of the driver's and of an executor's container to the first feature part in S3.

Needs a cluster with the Spark operator, the image on it, and an address of this machine that pods reach, as the tests
of the cluster do. Kubernetes and S3 tell times in whole seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from common import subset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cluster import EXECUTORS, apply, completed, kubectl, parts, s3_for_pods, wait_for
from s3 import upload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--image", default="localhost/fruitpipe:dev", help="its name on the cluster [%(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch, s3_for_pods(Path(scratch)) as server:
        client = server.client(server.identities["admin"])
        upload(client, subset(options.images, 4, Path(scratch, "few")), "images")
        name = apply(options.image, "images", "out")
        wait_for(lambda: parts(client, "out"), 300)
        first = min(each["LastModified"] for each in parts(client, "out"))
        executors = json.loads(kubectl("get", "pods", EXECUTORS, "--output=json"))["items"]
        driver = json.loads(kubectl("get", "pod", f"{name}-driver", "--output=json"))
        completed(name)
    begun = min(started(each) for each in executors)
    print(f"driver's container to first executor's:        {(begun - started(driver)).total_seconds():.0f} s")
    print(f"executor's container to first feature part:    {(first - begun).total_seconds():.0f} s")
    print(f"driver's container to first feature part:      {(first - started(driver)).total_seconds():.0f} s")


def started(pod: dict[str, Any]) -> datetime:
    (container,) = pod["status"]["containerStatuses"]
    return datetime.fromisoformat(container["state"]["running"]["startedAt"])


if __name__ == "__main__":
    main()
