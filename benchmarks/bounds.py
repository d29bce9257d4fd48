"""What it costs to bound the memory and time of each image: features with the bounds and without, in turns.

One process featurizes the same photographs as a worker does, group by group; every other time it decodes without
asking what an image may take. Groups are short, so that the machine's drift meets both alike; what counts is
the median of their ratios, by CPU time, which others on the machine do not take part in.

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

    ratios = []
    with tempfile.TemporaryDirectory(prefix="fruitpipe-bounds-") as folder:
        paths = cached(subset(options.images, options.count, Path(folder, "images")))
        groups = [[Image(str(path)) for path in paths[first : first + GROUP]] for first in range(0, len(paths), GROUP)]
        seconds(groups[0], bounds=True)
        for number in range(options.rounds):
            for place, group in enumerate(groups):
                order = (True, False) if (place + number) % 2 else (False, True)
                spent = {bounds: seconds(group, bounds) for bounds in order}
                ratios.append(spent[False] / spent[True])
    said = f"{options.backbone}, {len(paths)} images, {options.rounds} rounds"
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{said}: rate with bounds to without {middle:.3f}, quartiles {low:.3f} and {high:.3f} (target 0.99)")


if __name__ == "__main__":
    main()
