"""What `fruitpipe status` says of things that go wrong on a cluster, and how soon.

    benchmarks/causes.py --image REGISTRY/fruitpipe:TAG

Does each of `tests/mishaps.py` to a release on the cluster that kubectl reaches, and prints the line, how many seconds
after the fault it was there, and whether it names the cause and the next step. A fault's time is that of the driver's
end, or when the pod that cannot start was made; Kubernetes gives whole seconds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cluster import s3_for_pods
from mishaps import MISHAPS, Mishap, befallen, told
from release import values_for
from s3 import upload
from seaweed import Server

from fruitpipe.errors import FruitpipeError

DRAW = Path(__file__).parents[1] / "examples/draw_fruits.py"
LIMIT = 10
"""Seconds within which a cause is to be told."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="name of the image on the cluster's nodes")
    parser.add_argument("--only", default="", help="pattern of the faults' names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, s3_for_pods(Path(scratch)) as server:
        images = Path(scratch) / "images"
        subprocess.run([sys.executable, DRAW, images], check=True, stdout=subprocess.DEVNULL)
        upload(server.client(server.identities["admin"]), images, "images")
        found = [one(mishap, number, options.image, server)
                 for number, mishap in enumerate(MISHAPS) if re.search(options.only, mishap.name)]  # fmt: skip
    print(f"\n{sum(found)} of {len(found)} are named, with the next step, within {LIMIT} s")
    sys.exit(0 if all(found) else 1)


def one(mishap: Mishap, number: int, image: str, server: Server) -> bool:
    """Do it, print a row of the table; whether it was told as it should be."""
    name = f"mishap-{number}"
    try:
        with befallen(mishap, name, values_for(name, image, server, "images")) as release:
            cause, seconds = told(release, mishap.is_told_by)
    except FruitpipeError as error:
        print(f"| {mishap.name} | refused: {error} | | no |", flush=True)
        return False
    # Kubernetes' times are whole seconds.
    good = cause is not None and mishap.is_told_by(cause) and seconds <= LIMIT + 1
    print(f"| {mishap.name} | {cause} | {seconds:.0f} s | {'yes' if good else 'no'} |", flush=True)
    return good


if __name__ == "__main__":
    main()
