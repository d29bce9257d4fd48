"""What it costs to bound the memory and time of each image: features with the bounds and without, in turns.

Every other time, images are decoded without asking what one may take.

    python benchmarks/bounds.py IMAGES
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from common import subset
from limit import cached
from turns import in_turns

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize
from fruitpipe.vision.decode import decode_for

GROUP = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=1600, help="how many of them")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    config = Config(input="IMAGES", output="OUT", backbone=options.backbone)
    engine = resolve(config, Environment.read()).engine.start()
    reader = Reader(config.s3, config.image.max_bytes)

    def seconds(group: list[Image], bounds: bool) -> float:
        within = "fruitpipe.tasks.featurize.decode_for_all"
        with nullcontext() if bounds else patch(within, decode_for):
            start = time.process_time()
            featurize(group, engine, config.image, reader)
            return time.process_time() - start

    with tempfile.TemporaryDirectory(prefix="fruitpipe-bounds-") as folder:
        paths = cached(subset(options.images, options.count, Path(folder, "images")))
        ratios = [free / bound for bound, free in in_turns(paths, GROUP, seconds, options.rounds)]
    said = f"{options.backbone}, {len(paths)} images, {options.rounds} rounds"
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{said}: rate with bounds to without {middle:.3f}, quartiles {low:.3f} and {high:.3f} (target 0.99)")


if __name__ == "__main__":
    main()
