"""Bags of ORB's words from S3 against the script that they replace: boto3, OpenCV, scikit-learn, one image at a time.

Both read the same bucket, a real S3 server on loopback, and take 48 words of at most 500 keypoints of images of
320 x 320, then components of 95 % of the variance. Times are from outside, start-up included. The script keeps all
descriptors in memory; the other makes histograms from images that it reads a second time, where fruitpipe reads twice
those alone that the words are learnt from.

Loopback answers at once; with --latency 0.02, each answer takes what S3 in the same region takes at its best.

    python benchmarks/orb.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import Row, count_images, race, report, subset, timed
from object_store import BUCKET, Server, upload  # which makes the tests' modules known

from faults import Proxy  # isort: skip

from fruitpipe.config import S3Config
from fruitpipe.runs import open_run
from fruitpipe.store import open_store

SCRIPT = Path(__file__).parent / "peers" / "orb_job.py"
TARGET = 5.0
PEERS = {"script": [], "script that reads twice": ["twice"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=2316, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side runs [%(default)s]")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer of S3 [%(default)s]")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch,
        Server(Path(scratch)) as server,
        Proxy(server.endpoint) as proxy,
    ):
        admin = server.identities["admin"]
        os.environ |= {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint
        images = subset(options.images, options.count, Path(scratch, "images"))
        few = subset(options.images, 40, Path(scratch, "few"))
        upload(images, server)
        upload(few, server, "few")
        if options.latency:
            os.environ["AWS_ENDPOINT_URL"], proxy.latency = proxy.endpoint, options.latency

        def ours(folder: Path, out: Path) -> float:
            source, target = f"s3://{BUCKET}/{folder.name}", f"s3://{BUCKET}/{out.name}"
            command = [sys.executable, "-m", "fruitpipe", "run", source, target, "--preset", "orb-bovw-48"]
            return timed([*command, "--set", "s3.allow_http=true"])

        def theirs(extra: list[str]) -> Callable[[Path, Path], float]:
            command = [sys.executable, str(SCRIPT), BUCKET]
            return lambda folder, out: timed([*command, folder.name, out.name, *extra])

        contenders = {"fruitpipe": ours} | {name: theirs(extra) for name, extra in PEERS.items()}
        seconds = race(contenders, images, few, Path("out"), options.rounds)
        last = open_run(open_store(f"s3://{BUCKET}/fruitpipe-{options.rounds - 1}", S3Config(allow_http=True)))
        print(", ".join(f"{stage} {took:.1f} s" for stage, took in last.manifest.timings.items()))
        report(Row(name, seconds["fruitpipe"], seconds[name], count_images(images), TARGET) for name in PEERS)


if __name__ == "__main__":
    main()
