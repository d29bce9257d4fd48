"""What compiled resampling saves: features with it and with Pillow's, which have the same bits, in turns.

By CPU time; with --size, of photographs that are made as large as that first.

    python benchmarks/resampling.py IMAGES
    python benchmarks/resampling.py PHOTOGRAPHS --size 500 375
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from common import subset
from limit import cached
from photographs import FORMATS, photographs, saved
from PIL import Image as Pillow
from turns import in_turns

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize
from fruitpipe.vision.resampling import library

GROUP = 8


def resized(folder: Path, count: int, size: tuple[int, int], into: Path) -> Path:
    """A folder of large photographs as JPEGs of another size."""
    into.mkdir()
    for number, data in enumerate(islice(photographs(folder), count)):
        picture = Pillow.open(io.BytesIO(data)).convert("RGB").resize(size, Pillow.Resampling.LANCZOS)
        (into / f"{number:05}.jpg").write_bytes(saved(picture, **FORMATS["JPEG"]))
    return into


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=60, help="take this many [%(default)s]")
    parser.add_argument("--size", type=int, nargs=2, help="width and height, pixels, of JPEGs that are made of them")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if library() is None:
        raise SystemExit("error: compile it first: python -m fruitpipe.vision.compile")

    config = Config(input="IMAGES", output="OUT", backbone=options.backbone)
    engine = resolve(config, Environment.read()).engine.start()
    reader = Reader(config.s3, config.image.max_bytes)

    made: dict[str, bytes] = {}

    def seconds(group: list[Image], compiled: bool) -> float:
        with nullcontext() if compiled else patch("fruitpipe.vision.resampling.library", lambda: None):
            start = time.process_time()
            _, features = featurize(group, engine, config.image, reader)
            spent = time.process_time() - start
        assert made.setdefault(group[0].path, features.tobytes()) == features.tobytes(), "the same bits"
        return spent

    with tempfile.TemporaryDirectory(prefix="fruitpipe-resampling-") as folder:
        into = Path(folder, "images")
        size, count = options.size, options.count
        paths = cached(resized(options.images, count, size, into) if size else subset(options.images, count, into))
        ratios = [pillows / ours for ours, pillows in in_turns(paths, GROUP, seconds, options.rounds)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    said = f"{options.backbone}, {len(paths)} images{' of {} x {}'.format(*size) if size else ''}"
    print(f"{said}: rate compiled to Pillow's {middle:.3f}, quartiles {low:.3f} and {high:.3f}")


if __name__ == "__main__":
    main()
