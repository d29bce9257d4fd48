"""A run on S3 against the same run on disk, and against the loop over boto3 that it replaces.

The S3 server is a real one, SeaweedFS on loopback. It shares the cores with the run, so a second figure leaves out its
own CPU time, spread over all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from common import EXTENSIONS, Row, count_images, output, report, subset, timed

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from seaweed import BUCKET, Server

SCRIPT = Path(__file__).parent / "peers" / "boto3_job.py"
TARGET, TARGET_WITHOUT_SERVER, TARGET_LOOP = 0.93, 0.97, 8.0


class Seconds(NamedTuple):
    """of one run"""

    featurize: float
    whole: float
    server: float = 0.0
    """CPU time of the S3 server meanwhile, spread over all cores"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=4000, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="times that both places run [%(default)s]")
    parser.add_argument("--loop", action="store_true", help="against the loop over boto3 instead of the disk")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch,
        Server(Path(scratch)) as server,
    ):
        admin = server.identities["admin"]
        os.environ |= {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint
        images = subset(options.images, options.count, Path(scratch, "images"))
        upload(images, server)
        against_loop(images, server) if options.loop else against_disk(images, server, Path(scratch), options.rounds)


def upload(images: Path, server: Server) -> None:
    client = server.client(server.identities["admin"])

    def put(path: Path) -> None:
        client.put_object(Bucket=BUCKET, Key=f"images/{path.relative_to(images)}", Body=path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, (path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS)))


def against_disk(images: Path, server: Server, scratch: Path, rounds: int) -> None:
    disk, bucket = [], []
    run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/warm", server)
    for number in range(rounds):
        pair = [
            lambda number=number: disk.append(run(str(images), str(scratch / f"out-{number}"), server)),
            lambda number=number: bucket.append(run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/out-{number}", server)),
        ]
        for measure in pair[:: -1 if number % 2 else 1]:
            measure()
    count = count_images(images)
    for stage in ("featurize", "whole"):
        theirs = [getattr(each, stage) for each in disk]
        ours = [getattr(each, stage) for each in bucket]
        # As if it served evenly over the run, which leaves out too little of it in the feature stage.
        alone = [seconds * (1 - each.server / each.whole) for seconds, each in zip(ours, bucket, strict=True)]
        report(
            [
                Row(f"disk, {stage}", ours, theirs, count, TARGET),
                Row("  server left out", alone, theirs, count, TARGET_WITHOUT_SERVER),
            ]
        )
    print(f"CPU of the S3 server: {statistics.median(each.server for each in bucket):.1f} s on each core")


def against_loop(images: Path, server: Server) -> None:
    run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/warm", server)
    ours = run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/out", server).whole
    theirs = timed([sys.executable, str(SCRIPT), BUCKET, "images", "loop", "200"])
    report([Row("loop over boto3", [ours], [theirs], count_images(images), TARGET_LOOP)])


def run(images: str, out: str, server: Server) -> Seconds:
    command = [sys.executable, "-m", "fruitpipe", "run", images, out, "--json"]
    settings = ("pca.components=200", "s3.allow_http=true")
    options = [part for setting in settings for part in ("--set", setting)]
    cpu, start = server.cpu_seconds, time.perf_counter()
    output([*command, *options])
    whole = time.perf_counter() - start
    served = (server.cpu_seconds - cpu) / (os.cpu_count() or 1)
    shown = output([sys.executable, "-m", "fruitpipe", "show", out, "--json", *options])
    return Seconds(json.loads(shown)["timings"]["featurize"], whole, served)


if __name__ == "__main__":
    main()
