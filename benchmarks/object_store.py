"""A run on S3 against the same run on disk, and against the loop over boto3 that it replaces.

The S3 server is a real one, SeaweedFS on loopback. It shares the cores with the run, so a second figure leaves out its
own CPU time, spread over all cores. Loopback answers at once, and S3 does not: with --latency, a proxy waits before
each answer, and its CPU time is left out, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import Row, count_images, report, subset, timed

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from faults import Proxy
from s3 import upload
from seaweed import BUCKET, Server

SCRIPT = Path(__file__).parent / "peers" / "boto3_job.py"
TARGET, TARGET_WITHOUT_SERVER, TARGET_LOOP = 0.93, 0.97, 8.0


class Seconds(NamedTuple):
    """of one run, or of its feature stage"""

    wall: float
    server: float
    """CPU time of the S3 server and of the proxy before it meanwhile, spread over all cores"""


class Run(NamedTuple):
    """Times of one run."""

    featurize: Seconds
    whole: Seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=4000, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="times that both places run [%(default)s]")
    parser.add_argument("--loop", action="store_true", help="against the loop over boto3 instead of the disk")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer of S3 [%(default)s]")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch,
        Server(Path(scratch)) as server,
        Proxy(server.endpoint, latency=options.latency) as proxy,
    ):
        admin = server.identities["admin"]
        os.environ |= {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint if options.latency else server.endpoint
        images = subset(options.images, options.count, Path(scratch, "images"))
        upload(server.client(admin), images, "images")
        if options.loop:
            against_loop(images, server)
        else:
            against_disk(images, server, Path(scratch), options.rounds, at_once=not options.latency)


def against_disk(images: Path, server: Server, scratch: Path, rounds: int, at_once: bool) -> None:
    disk: list[Run] = []
    bucket: list[Run] = []
    run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/warm", server)
    for number in range(rounds):
        pair = [
            lambda number=number: disk.append(run(str(images), str(scratch / f"out-{number}"), server)),
            lambda number=number: bucket.append(run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/out-{number}", server)),
        ]
        for measure in pair[:: -1 if number % 2 else 1]:
            measure()
    count = count_images(images)
    targets = (TARGET, TARGET_WITHOUT_SERVER) if at_once else (None, None)
    for stage in Run._fields:
        theirs = [getattr(each, stage).wall for each in disk]
        ours = [getattr(each, stage) for each in bucket]
        report(
            [
                Row(f"disk, {stage}", [each.wall for each in ours], theirs, count, targets[0]),
                Row(
                    "  server left out",
                    [each.wall - each.server for each in ours],
                    theirs,
                    count,
                    targets[1],
                ),
            ]
        )


def against_loop(images: Path, server: Server) -> None:
    run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/warm", server)
    ours = run(f"s3://{BUCKET}/images", f"s3://{BUCKET}/out", server).whole.wall
    theirs = timed([sys.executable, str(SCRIPT), BUCKET, "images", "loop", "200"])
    report([Row("loop over boto3", [ours], [theirs], count_images(images), TARGET_LOOP)])


def run(images: str, out: str, server: Server) -> Run:
    """Run fruitpipe; look at the clocks as each stage ends, which a line on standard error tells."""
    command = [sys.executable, "-m", "fruitpipe", "run", images, out, "--json"]
    settings = ("pca.components=200", "s3.allow_http=true")
    command += [part for setting in settings for part in ("--set", setting)]
    begun, start = Moment.of(server), Moment.of(server)
    featurized = None
    lines = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            lines.append(line)
            if line.startswith("featurize:"):
                featurized = Moment.of(server).since(start)
            else:
                start = Moment.of(server) if featurized is None else start
    if process.returncode or featurized is None:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(lines)}")
    return Run(featurized, Moment.of(server).since(begun))


class Moment(NamedTuple):
    """What the clock said, and the server's CPU time."""

    clock: float
    cpu: float

    @classmethod
    def of(cls, server: Server) -> Moment:
        proxy = time.process_time()  # this process does nothing else; without latency, it does nothing at all
        return cls(time.perf_counter(), server.cpu_seconds + proxy)

    def since(self, earlier: Moment) -> Seconds:
        return Seconds(self.clock - earlier.clock, (self.cpu - earlier.cpu) / (os.cpu_count() or 1))


if __name__ == "__main__":
    main()
