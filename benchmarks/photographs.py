"""Large photographs: fruitpipe against peers and a bare loop that decode them whole, and what scaled decoding changes.

    python benchmarks/photographs.py PHOTOGRAPHS          images/s and memory at 12 megapixels, and the worst cosine
    python benchmarks/photographs.py PHOTOGRAPHS --rule   features at several scales against the photograph saved again
    python benchmarks/photographs.py PHOTOGRAPHS --parts  CPU time of decoding and of resampling, by format and scale

Real photographs of 2 to 24 megapixels come with Debian's packages of wallpapers: mate-backgrounds, gnome-backgrounds,
plasma-workspace-wallpapers, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and ukui-wallpapers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from common import Row, Sampler, fruitpipe, race, report, resident, timed
from limit import LiteRt, bare_loops, cached
from numpy.typing import NDArray
from peers import REQUIREMENTS, SCRIPTS, install
from PIL import Image, ImageOps

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment, ImageConfig
from fruitpipe.engines import Engine
from fruitpipe.vision import preprocess, scale
from fruitpipe.vision.colours import to_rgb
from fruitpipe.vision.decode import decode
from fruitpipe.vision.formats import open_image
from fruitpipe.vision.resampling import FILTERS, Box, Pixels

PHONE = (4032, 3024)
"""Pixels of a photograph of 12 megapixels."""
LEAST = 1.9e6
"""Pixels of a photograph that counts as large."""
TARGET = 2.0
SIDE = 224
"""Pixels a side that MobileNetV2 sees."""
GAP = 3
"""Pixels, at least, that means leave for each that is seen: with three, says Pillow's documentation of `reducing_gap`,
the result can mostly not be told from that of all pixels."""
SOME, OFTEN = 9, 3
"""Photographs whose parts are timed, and how many times each."""
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 92},
    "JPEG, progressive": {"format": "JPEG", "quality": 92, "progressive": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "quality": 92},
    "AVIF": {"format": "AVIF", "quality": 85, "speed": 10},
}
EXACT, SCALED = ImageConfig(decode="exact"), ImageConfig(decode="scaled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of large photographs, searched recursively")
    parser.add_argument("--count", type=int, default=1000, help="photographs of 12 megapixels [%(default)s]")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--rule", action="store_true", help="compare scales instead")
    instead.add_argument("--parts", action="store_true", help="time decoding and resampling instead")
    options = parser.parse_args()
    if options.rule:
        for name in ("mobilenet_v2", "efficientnet_lite0"):
            compare_scales(name, list(photographs(options.photographs)))
    elif options.parts:
        time_parts(list(islice(phone_pictures(options.photographs), SOME)))
    else:
        compare_peers(options.photographs, options.count)


def photographs(folder: Path) -> Iterator[bytes]:
    """Files of large photographs, each once; those that are no JPEGs saved as such."""
    seen = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        data = path.read_bytes()
        with suppress(OSError), Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            digest = hashlib.sha256(data).digest()
            if image.width * image.height >= LEAST and digest not in seen:
                seen.add(digest)
                yield data if image.format == "JPEG" else saved(image.convert("RGB"), **FORMATS["JPEG"])


def phone_pictures(folder: Path) -> Iterator[Image.Image]:
    """Pictures of 12 megapixels, cut from those photographs that are not much smaller."""
    for data in photographs(folder):
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height >= PHONE[0] * PHONE[1] / 2:
                yield ImageOps.fit(image.convert("RGB"), PHONE)


def saved(image: Image.Image, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, **options)
    return sink.getvalue()


def start(backbone: str) -> Engine:
    config = Config(input="IMAGES", output="OUT", backbone=backbone)
    return resolve(config, Environment.read()).engine.start()


def feature(engine: Engine, data: bytes, rules: ImageConfig) -> NDArray[np.float32]:
    row = np.empty((1, engine.dimension), np.float32)
    engine.run(decode(data, engine.side, rules).pixels[np.newaxis], row)
    return row[0]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def by_means(image: Image.Image, box: Box, side: int, rules: ImageConfig) -> Pixels:
    """Resample means of pixels, of as many as leave `GAP` for each that is seen."""
    return np.asarray(image.resize((side, side), FILTERS[rules.resample], box, reducing_gap=GAP))


def in_floats(image: Image.Image, box: Box, side: int, rules: ImageConfig) -> Pixels:
    """Resample in floating point, where Pillow rounds to 8 bits between its two passes."""
    filtering = FILTERS[rules.resample]
    channels = [channel.convert("F").resize((side, side), filtering, box) for channel in image.split()]
    return np.rint(np.clip(np.dstack(channels), 0, 255)).astype(np.uint8)


def compare_scales(backbone: str, files: list[bytes]) -> None:
    """Print how far features move with each rule, and with the photograph saved again, for the same photographs.

    And with other ways to resample those that fruitpipe scales, decoded whole.
    """
    engine = start(backbone)
    kept = scale.ENOUGH
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            kind = "progressive" if image.info.get("progressive") else "baseline"
            again = saved(image.convert("RGB"), format="JPEG", quality=95)
        exact = feature(engine, data, EXACT)
        moved: dict[str, NDArray[np.float32]] = {}
        for enough in (2, 3, 4, 5, 6):
            with patch.object(scale, "ENOUGH", enough), Image.open(io.BytesIO(data)) as image:
                if scale.scale_for(image, data, engine.side, SCALED) > 1:
                    moved[f"{enough} x in"] = feature(engine, data, SCALED)
        if f"{kept} x in" in moved:
            for name, resized in (("means", by_means), ("floats", in_floats)):
                with patch.object(preprocess, "resized", resized):
                    moved[name] = feature(engine, data, EXACT)
        resaved = cosine(exact, feature(engine, again, EXACT))
        for name, other in moved.items():
            for each in (kind, "both"):
                found.setdefault((each, name), []).append((cosine(exact, other), resaved))
    columns = "".join(f"{name:>10}" for name in ("worst", "5 %", "median"))
    print(f"\n{backbone:<20}{'n':>5}{'':>4}moved {columns}    saved again{columns}")
    for (kind, name), pairs in sorted(found.items()):
        cosines = np.sort(np.array(pairs), axis=0)
        shown = [
            "".join(f"{value:>10.5f}" for value in (column[0], np.quantile(column, 0.05), np.median(column)))
            for column in cosines.T
        ]
        print(f"{kind:<13}{name:<7}{len(pairs):>5}{'':>10}{shown[0]}{'':>15}{shown[1]}")


def time_parts(pictures: list[Image.Image]) -> None:
    """Print milliseconds of CPU time in each format and at each of its scales: of the pictures' least, the median."""
    columns = "".join(f"{name:>14}" for name in ("scale", "decoding", "resampling", "of means"))
    print(f"{f'{len(pictures)} of 12 megapixels':<24}{columns}")
    for name, options in FORMATS.items():
        files = [saved(picture, **options) for picture in pictures]
        for times in sorted({1, *scale.SCALES}) if options["format"] == "JPEG" else [1]:
            least = [np.min([parts(data, times) for _ in range(OFTEN)], axis=0) for data in files]
            medians = np.median(least, axis=0)
            print(f"{name:<24}{f'1/{times}':>14}" + "".join(f"{1000 * seconds:>14.0f}" for seconds in medians))


def parts(data: bytes, times: int) -> tuple[float, float, float]:
    """CPU seconds of decoding so many times smaller, of resampling, and of resampling means."""
    clock = [time.process_time()]
    with open_image(data) as image:
        box = scale.load(image, times)
        picture = to_rgb(image, data)
    clock.append(time.process_time())
    for resized in (preprocess.resized, by_means):
        resized(picture, box, SIDE, EXACT)
        clock.append(time.process_time())
    decoding, resampling, of_means = np.diff(clock)
    return decoding, resampling, of_means


class Peak(Sampler):
    """The most resident memory, in bytes, of a Python process below this one."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def sample(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "python" in process.name() or "ray::" in process.name():
                    self.bytes = max(self.bytes, resident(process))


def phone_photographs(folder: Path, count: int, into: Path) -> Path:
    """A folder of so many JPEGs of 12 megapixels, cut from the photographs in turn."""
    into.mkdir()
    made: list[Path] = []
    for picture in phone_pictures(folder):
        made.append(into / f"{len(made):05}.jpg")
        made[-1].write_bytes(saved(picture, **FORMATS["JPEG"]))
    for number in range(len(made), count):
        os.link(made[number % len(made)], into / f"{number:05}.jpg")
    for path in made[count:]:
        path.unlink()
    print(
        f"{count} photographs of 12 megapixels, cut from {len(made)}; {made[0].stat().st_size / 1e6:.1f} MB the first"
    )
    return into


def compare_peers(folder: Path, count: int) -> None:
    environment = Environment.read()
    network = resolve(Config(input="IMAGES", output="OUT"), environment).engine.source
    pythons = {peer: install(peer, environment.cache / "benchmarks") for peer in REQUIREMENTS}
    memory: dict[str, int] = {}

    def watched(name: str, command: Callable[[Path, Path], list[str]], **env: str) -> Callable[[Path, Path], float]:
        def run(images: Path, out: Path) -> float:
            with Peak() as peak:
                seconds = timed(command(images, out), **env)
            memory[name] = max(memory.get(name, 0), peak.bytes)
            return seconds

        return run

    def peer(name: str) -> Callable[[Path, Path], list[str]]:
        return lambda images, out: [
            str(pythons[name]), str(SCRIPTS / f"{name}_job.py"), str(images), str(out), str(network)
        ]  # fmt: skip

    shared: dict[str, Any] = {"PYTHONPATH": str(SCRIPTS), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch:
        images = phone_photographs(folder, count, Path(scratch, "images"))
        few = Path(scratch, "few")
        few.mkdir()
        for path in sorted(images.iterdir())[:40]:
            os.link(path, few / path.name)
        contenders = {"fruitpipe": watched("fruitpipe", fruitpipe)}
        contenders |= {name: watched(name, peer(name), **shared) for name in REQUIREMENTS}
        seconds = race(contenders, images, few, Path(scratch), rounds=1)
        paths = cached(images)
        bare = bare_loops(LiteRt(network), paths, os.cpu_count() or 1)
        report(
            [
                *(Row(name, seconds["fruitpipe"], seconds[name], count, TARGET) for name in REQUIREMENTS),
                Row("bare loops, no output", seconds["fruitpipe"], [bare.whole], count),
            ]
        )
        print("largest Python process: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in memory.items()))
        engine = start("mobilenet_v2")
        files = [path.read_bytes() for path in {path.stat().st_ino: path for path in paths}.values()]
        cosines = [cosine(feature(engine, data, SCALED), feature(engine, data, EXACT)) for data in files]
        worst, median = min(cosines), np.median(cosines)
        print(f"cosine of features with those of whole decoding: worst {worst:.5f}, median {median:.5f}")


if __name__ == "__main__":
    main()
