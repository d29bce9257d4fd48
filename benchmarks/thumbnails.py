"""What thumbnails cost a run, and how large the page is that shows them.

First one process featurizes the same images as a worker does, group by group, with thumbnails and without, in turns:
the median of the groups' own ratios, by CPU time, which others on the machine do not take part in. Then whole runs, in
turns as well, by the clock, and the pages of the last two.

    python benchmarks/thumbnails.py IMAGES --count 4000
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import count_images, fruitpipe, output, race, subset
from limit import cached
from turns import in_turns

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment
from fruitpipe.result.runs import open_run
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.featurize import featurize
from fruitpipe.vision.thumbnails import Sheet

GROUP = 64
"""Images of a group: fewer than a part has, so that a sheet costs more here."""
FEW = 200
TARGET = 0.03


def in_worker(images: Path, side: int, backbone: str) -> None:
    """Print what thumbnails cost a worker."""
    config = Config(input="IMAGES", output="OUT", backbone=backbone)
    engine = resolve(config, Environment.read()).engine.start()
    reader = Reader(config.s3, config.image.max_bytes)

    def seconds(group: list[Image], with_sheet: bool) -> float:
        start = time.process_time()
        sheet = Sheet(len(group), side) if with_sheet else None
        featurize(group, engine, config.image, reader, sheet)
        if sheet:
            sheet.encoded()
        return time.process_time() - start

    paths = cached(images)
    costs = [sheets / none - 1 for sheets, none in in_turns(paths, GROUP, seconds)]
    low, middle, high = statistics.quantiles(costs, n=4) if len(costs) > 1 else 3 * costs
    told = f"{middle:+.1%}, quartiles {low:+.1%} and {high:+.1%} (target {TARGET:.0%})"
    print(f"{backbone}, CPU time of a worker, {len(paths)} images: {told}", flush=True)


def whole_runs(images: Path, side: int, rounds: int, scratch: Path) -> None:
    """Print what thumbnails cost a run by the clock, and the sizes of what they add."""

    def run(settings: tuple[str, ...], folder: Path, out: Path) -> float:
        output(fruitpipe(folder, out, *settings))
        return float(open_run(LocalStore(str(out))).manifest.timings["featurize"])

    wanted = {"without": (), "with": ("--set", f"thumbnails={side}")}
    contenders = {name: lambda folder, out, more=more: run(more, folder, out) for name, more in wanted.items()}
    few = subset(images, min(FEW, count_images(images)), scratch / "few")
    seconds = race(contenders, images, few, scratch, rounds)
    cost = statistics.median(more / plain - 1 for plain, more in zip(*seconds.values(), strict=True))
    middle = " and ".join(f"{statistics.median(each):.1f} s {name}" for name, each in seconds.items())
    print(f"feature stage by the clock, median of {rounds} rounds: {middle}, {cost:+.1%}")
    made, count = scratch / f"with-{rounds - 1}", count_images(images)
    for kind, what in (("parquet", "features"), ("webp", "thumbnails")):
        kept = sum(each.stat().st_size for each in (made / "features").rglob(f"*.{kind}"))
        print(f"{what}: {kept / 1e6:.1f} MB, {kept / count:.0f} bytes an image")
    page = scratch / "page.html"
    for name in wanted:
        output([sys.executable, "-m", "fruitpipe", "explore", str(scratch / f"{name}-{rounds - 1}"), "-o", str(page)])
        print(f"page of {count} images {name}: {page.stat().st_size / 1e6:.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, help="take this many, evenly spaced [all]")
    parser.add_argument("--rounds", type=int, default=1, help="whole runs of each; 0 for none [%(default)s]")
    parser.add_argument("--side", type=int, default=48, help="of the thumbnails, pixels [%(default)s]")
    parser.add_argument("--backbone", default="mobilenet_v2", help="in the worker [%(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-thumbnails-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        in_worker(images, options.side, options.backbone)
        if options.rounds:
            whole_runs(images, options.side, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
