"""Bags of ORB's words from S3 against the script that they replace: boto3, OpenCV, scikit-learn, one image at a time.

Both read the same bucket, a real S3 server on loopback, and take 48 words of at most 500 keypoints of images of
320 x 320, then components of 95 % of the variance. Times are from outside, start-up included. The script keeps all
descriptors in memory; the other makes histograms from images that it reads a second time, where fruitpipe reads twice
those alone that the words are learnt from.

Loopback answers at once, and S3 does not: a proxy waits 20 ms before each answer, which is little, as AWS speaks of 100
to 200 for small objects. The second half of the table, without latency, is the harder contest.

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
from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import open_store

SCRIPT = Path(__file__).parent / "peers" / "orb_job.py"
TARGET = 5.0
PEERS = {"script": [], "script that reads twice": ["twice"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=2316, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side runs [%(default)s]")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.02, 0.0],
                        help="seconds before each answer of S3 %(default)s")  # fmt: skip
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch,
        Server(Path(scratch)) as server,
        Proxy(server.endpoint) as proxy,
    ):
        admin = server.identities["admin"]
        os.environ |= {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        images = subset(options.images, options.count, Path(scratch, "images"))
        few = subset(options.images, 40, Path(scratch, "few"))
        client = server.client(admin)
        upload(client, images, "images")
        upload(client, few, "few")

        def ours(folder: Path, out: Path) -> float:
            source, target = f"s3://{BUCKET}/{folder.name}", f"s3://{BUCKET}/{out}"
            command = [sys.executable, "-m", "fruitpipe", "run", source, target, "--preset", "orb-bovw-48"]
            return timed([*command, "--set", "s3.allow_http=true"])

        def theirs(extra: list[str]) -> Callable[[Path, Path], float]:
            command = [sys.executable, str(SCRIPT), BUCKET]
            return lambda folder, out: timed([*command, folder.name, str(out), *extra])

        contenders = {"fruitpipe": ours} | {name: theirs(extra) for name, extra in PEERS.items()}
        for number, latency in enumerate(options.latency):
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint if latency else server.endpoint
            proxy.latency = latency
            seconds = race(contenders, images, few, Path(f"{number}"), options.rounds)
            took = stages(f"{number}/fruitpipe-{options.rounds - 1}")
            print(f"{1000 * latency:g} ms before each answer of S3: fruitpipe took {took}")
            report(Row(name, seconds["fruitpipe"], seconds[name], count_images(images), TARGET) for name in PEERS)


def stages(out: str) -> str:
    """What a run spent its time on."""
    timings = open_run(open_store(f"s3://{BUCKET}/{out}", S3Config(allow_http=True))).manifest.timings
    return ", ".join(f"{stage} {took:.1f} s" for stage, took in timings.items())


if __name__ == "__main__":
    main()
