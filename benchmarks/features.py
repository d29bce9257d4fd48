"""The feature stage against the limit of this machine: bare loops of Pillow and LiteRT over the same photographs.

The limit is one process a core, each with an equal share of the images, without Spark and without a file written. The
machine drifts by as much as there is to measure, so bare loops run before and after every run of fruitpipe, which is
held against the mean of both.

    python benchmarks/features.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import Row, report, subset, timed
from limit import LiteRt, Seconds, around, bare_loops, cached


def run_fruitpipe(images: Path, out: Path, cores: int, *settings: str) -> Seconds:
    """A run into a new folder: its feature stage, and the whole of it, with PCA and vectors."""
    # Not at the top, where the bare loops would import it too.
    from fruitpipe.result.runs import open_run
    from fruitpipe.storage.store import LocalStore

    options = [part for setting in settings for part in ("--set", setting)]
    allowed = ["taskset", "--cpu-list", f"0-{cores - 1}"]
    whole = timed([*allowed, sys.executable, "-m", "fruitpipe", "run", str(images), str(out), *options])
    return Seconds(open_run(LocalStore(str(out))).manifest.timings["featurize"], whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=10_000, help="how many of them")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=1, help="runs of fruitpipe")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    from fruitpipe.backbones import resolve
    from fruitpipe.config import Config, Environment

    config = Config(input="IMAGES", output="OUT", backbone=options.backbone)
    network = resolve(config, Environment.read()).engine.source
    with tempfile.TemporaryDirectory(prefix="fruitpipe-features-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        paths = cached(images)
        engine = LiteRt(network)
        limits = [bare_loops(engine, paths, options.cores)]
        ours: list[Seconds] = []
        for number in range(options.rounds):
            out = Path(folder, f"out-{number}")
            ours.append(run_fruitpipe(images, out, options.cores, f"backbone={options.backbone}"))
            limits.append(bare_loops(engine, paths, options.cores))

    rates = ", ".join(f"{len(paths) / limit.working:.0f}" for limit in limits)
    print(f"{options.backbone}, {len(paths)} images, {options.cores} cores; bare loops in turn: {rates} images/s")
    limits = around(limits)
    report(
        [
            Row("bare loops", [run.working for run in ours], [limit.working for limit in limits], len(paths), 0.90),
            Row("… whole, with start-up", [run.whole for run in ours], [limit.whole for limit in limits], len(paths)),
        ]
    )


if __name__ == "__main__":
    main()
