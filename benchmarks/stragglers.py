"""What Spark's speculation is worth: the feature stage on two executors, with it and without, also where one is slow.

An executor is slow where its Python workers stand still for most of the time. Seconds are the stage's own.

    python benchmarks/stragglers.py IMAGES --slower 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import psutil
from common import fruitpipe, subset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from processes import workers_of
from standalone import Nodes, two_nodes

CONF = {"spark.executor.memory": "512m", "spark.speculation": "true"}
TURN = 0.2
"""Seconds in which a slow worker has its share."""


def seconds(nodes: Nodes, images: Path, out: Path, slower: float, conf: dict[str, str]) -> float:
    """Of the feature stage. slower: how many times one of the executors is."""
    settings = {"backbone": "efficientnet_lite0", "spark.master": nodes.master}
    settings |= {f"spark.conf.{name}": value for name, value in conf.items()}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = fruitpipe(images, out, *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        hold = slowed(process, nodes.machines[0], slower)
        said = process.communicate()[0]
    hold.join()
    found = json.loads((out / "runs" / json.loads(said)["run"] / "manifest.json").read_text())
    return float(found["timings"]["featurize"])


def slowed(process: subprocess.Popen[bytes], node: psutil.Process, slower: float) -> threading.Thread:
    """Until a run ends, the workers of a node work one time in so many."""

    def hold() -> None:
        while process.poll() is None:
            workers = workers_of(node.pid)
            for signal, share in ((SIGSTOP, 1 - 1 / slower), (SIGCONT, 1 / slower)):
                for each in workers:
                    with suppress(psutil.NoSuchProcess):
                        each.send_signal(signal)
                time.sleep(TURN * share)

    thread = threading.Thread(target=hold if slower > 1 else process.wait, daemon=True)
    thread.start()
    return thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of photographs, searched recursively")
    parser.add_argument("--count", type=int, default=1500, help="images [%(default)s]")
    parser.add_argument("--slower", type=float, default=5, help="times that the slow executor takes [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--conf", action="append", default=[], help="NAME=VALUE, beside spark.speculation")
    options = parser.parse_args()
    speculating = CONF | dict(each.split("=", 1) for each in options.conf)
    ways = {"without": CONF | {"spark.speculation": "false"}, "with speculation": speculating}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fruitpipe-stragglers-")))
        images = subset(options.images, options.count, scratch / "images")
        (scratch / "nodes").mkdir()
        nodes = stack.enter_context(two_nodes(scratch / "nodes"))
        for slower in (1, options.slower):
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(options.rounds):
                for way, conf in list(ways.items())[:: -1 if number % 2 else 1]:
                    out = scratch / f"{slower}-{way}-{number}"
                    taken[way].append(seconds(nodes, images, out, slower, conf))
            said = ", ".join(f"{way} {statistics.median(each):.1f} s" for way, each in taken.items())
            print(f"one of two executors {slower:g} times slower: {said}", flush=True)


if __name__ == "__main__":
    main()
