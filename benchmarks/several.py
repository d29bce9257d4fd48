"""Several backbones at once, against the sum of their runs alone, and against that sum less one reading and decoding.

First one process featurizes the same images as a worker does, group by group: for each backbone, for all at once, and
for none, which only reads and decodes; in turns, by CPU time, which others on the machine do not take part in. Medians
of the groups' own ratios. Then whole runs, in turns as well, by the clock; their reading and decoding is that of the
process before, shared by the cores.

    python benchmarks/several.py IMAGES --count 4000
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import count_images, output, race, subset
from limit import cached
from numpy.typing import NDArray

from fruitpipe.backbones import resolve
from fruitpipe.config import Environment, load_config
from fruitpipe.result.runs import open_run
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.featurize import View, featurize_for
from fruitpipe.vision.bad_image import BadImage

GROUP = 64
"""Images of a group: fewer than a part has."""
FEW = 200
TARGET = 1.05
TOGETHER, NOTHING = "together", "nothing"


class Nothing:
    """An engine that gives features of one zero, whatever it sees."""

    dimension = 1

    def __init__(self, side: int, batch: int) -> None:
        self.side, self.batch = side, batch

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        return {}


def in_worker(images: Path, backbones: Sequence[str]) -> float:
    """Print what all at once cost a worker; return the seconds of reading and decoding an image once."""
    config = load_config(input="IMAGES", output="OUT", backbones=list(backbones))
    reader = Reader(config.s3, config.image.max_bytes)
    environment = Environment.read()
    engines = {name: resolve(part, environment).engine.start() for name, part in config.parts.items()}
    alone = {name: [View(engines[name], part.image)] for name, part in config.parts.items()}
    smallest = min((view for (view,) in alone.values()), key=lambda view: view.engine.side)
    contenders = alone | {
        TOGETHER: [view for (view,) in alone.values()],
        NOTHING: [View(Nothing(smallest.engine.side, smallest.engine.batch), smallest.rules)],
    }

    def seconds(group: list[Image], views: Sequence[View]) -> float:
        start = time.process_time()
        featurize_for(group, views, reader)
        return time.process_time() - start

    paths = cached(images)
    groups = [[Image(str(path)) for path in paths[first : first + GROUP]] for first in range(0, len(paths), GROUP)]
    for views in contenders.values():
        seconds(groups[0], views)
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for place, group in enumerate(groups):
        for name in list(contenders)[:: -1 if place % 2 else 1]:
            spent[name].append(seconds(group, contenders[name]))
    sums = [sum(each) for each in zip(*(spent[name] for name in alone), strict=True)]
    times = ", ".join(f"{name} {1000 * sum(each) / len(paths):.2f}" for name, each in spent.items())
    print(f"CPU time of a worker, ms an image of {len(paths)}: {times}")
    shared = [(len(alone) - 1) * each for each in spent[NOTHING]]
    told("worker", spent[TOGETHER], sums, shared)
    return sum(spent[NOTHING]) / len(paths)


def told(what: str, together: list[float], sums: list[float], shared: list[float]) -> None:
    """Print ratios: quartiles, as far as there are any."""
    for name, saved, target in (("the sum", len(sums) * [0.0], ""), ("… less decoding", shared, f" (target {TARGET})")):
        ratios = [each / (alone - less) for each, alone, less in zip(together, sums, saved, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else 3 * ratios
        print(f"{what}, together to {name}: {middle:.3f}, quartiles {low:.3f} and {high:.3f}{target}", flush=True)


def whole_runs(images: Path, backbones: Sequence[str], rounds: int, cores: int, decoding: float, scratch: Path) -> None:
    """Print the same of whole runs by the clock, and of their stage that featurizes.

    decoding: seconds of one core that reading and decoding an image takes.
    """
    features: dict[str, list[float]] = {name: [] for name in (*backbones, TOGETHER)}

    def run(name: str, folder: Path, out: Path) -> float:
        chosen = f"backbones=[{', '.join(backbones)}]" if name == TOGETHER else f"backbone={name}"
        words = [sys.executable, "-m", "fruitpipe", "run", str(folder), str(out), "--set", chosen]
        start = time.perf_counter()
        output([*words, "--set", f"spark.master=local[{cores}]"])
        seconds = time.perf_counter() - start
        result = next(each.parent for each in (out / "latest.json", *out.glob("*/latest.json")) if each.exists())
        features[name].append(open_run(LocalStore(str(result))).manifest.timings["featurize"])
        return seconds

    contenders = {name: lambda folder, out, name=name: run(name, folder, out) for name in features}
    few = subset(images, min(FEW, count_images(images)), scratch / "few")
    seconds = race(contenders, images, few, scratch, rounds)
    shared = rounds * [(len(backbones) - 1) * decoding * count_images(images) / cores]
    for what, times in (("stage", {name: each[1:] for name, each in features.items()}), ("whole run", seconds)):
        middle = ", ".join(f"{statistics.median(each):.1f} s {name}" for name, each in times.items())
        print(f"{what} by the clock, median of {rounds} rounds: {middle}")
        sums = [sum(each) for each in zip(*(times[name] for name in backbones), strict=True)]
        told(what, times[TOGETHER], sums, shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, help="take this many, evenly spaced [all]")
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "efficientnet_lite0"], help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="whole runs of each; 0 for none [%(default)s]")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-several-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        decoding = in_worker(images, options.backbones)
        if options.rounds:
            whole_runs(images, options.backbones, options.rounds, options.cores, decoding, Path(folder))


if __name__ == "__main__":
    main()
