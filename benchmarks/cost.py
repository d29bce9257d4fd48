"""Images for a dollar, of each backbone: what a core of this machine featurizes, at the list prices of prices.yaml.

Rates are by CPU time of one process that works as a worker does, so that others on the machine take no part in them. A
virtual CPU is taken for a core of this machine. Networks that this machine has no trained weights of have random ones,
which take the same time. Backbones of visual words are left out: they are learnt from images first.

    python benchmarks/cost.py IMAGES
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from common import output, subset
from limit import cached

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment
from fruitpipe.errors import NoWeights
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize

PRICES = Path(__file__).with_name("prices.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=64, help="how many of them [%(default)s]")
    parser.add_argument("--only", nargs="+", help="these backbones [all]")
    options = parser.parse_args()

    prices = yaml.safe_load(PRICES.read_text())
    names = [f"{machine['name']}, {machine['provider']}" for machine in prices["machines"]]
    print(f"| backbone | images/s on a core | {' | '.join(names)} |")
    print(f"|---|{'---:|' * (1 + len(names))}")
    with tempfile.TemporaryDirectory(prefix="fruitpipe-cost-") as folder:
        images = [Image(str(path)) for path in cached(subset(options.images, options.count, Path(folder, "images")))]
        for name in options.only or networks():
            rate = images_per_second(name, images)
            costs = " | ".join(f"{images_per_dollar(rate, machine):,.0f}" for machine in prices["machines"])
            print(f"| {name} | {rate:.1f} | {costs} |", flush=True)


def networks() -> list[str]:
    """Small ones first."""
    known = json.loads(output([sys.executable, "-m", "fruitpipe", "backbones", "--json"]))
    found = [each for each in known if each["parameters"]]
    return [each["name"] for each in sorted(found, key=lambda each: each["parameters"])]


def images_per_second(backbone: str, images: list[Image]) -> float:
    """Of a core's time. The first images are not counted: memory comes with them."""
    config = Config(input="IMAGES", output="OUT", backbone=backbone)
    try:
        engine = resolve(config, Environment.read()).engine.start()
    except NoWeights:
        config = config.model_copy(update={"weights": "random:7"})
        engine = resolve(config, Environment.read()).engine.start()
    reader = Reader(config.s3, config.image.max_bytes)
    featurize(images[: engine.batch], engine, config.image, reader)
    began = time.process_time()
    for first in range(0, len(images), engine.batch):
        featurize(images[first : first + engine.batch], engine, config.image, reader)
    return len(images) / (time.process_time() - began)


def images_per_dollar(rate: float, machine: dict[str, Any]) -> float:
    return rate * machine["cpus"] * 3600 / machine["hour"]


if __name__ == "__main__":
    main()
