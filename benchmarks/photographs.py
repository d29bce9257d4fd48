"""Large photographs: fruitpipe against peers and a bare loop that decode them whole, and what scaled decoding changes.

    python benchmarks/photographs.py PHOTOGRAPHS          images/s and memory at 12 megapixels, and the worst cosine
    python benchmarks/photographs.py PHOTOGRAPHS --rule   features at several scales against the photograph saved again

Real photographs of 2 to 24 megapixels come with Debian's packages of wallpapers: mate-backgrounds, gnome-backgrounds,
plasma-workspace-wallpapers, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and ukui-wallpapers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from fruitpipe.vision import scale
from fruitpipe.vision.decode import decode

PHONE = (4032, 3024)
"""Pixels of a photograph of 12 megapixels."""
LEAST = 1.9e6
"""Pixels of a photograph that counts as large."""
TARGET = 2.0
EXACT, SCALED = ImageConfig(decode="exact"), ImageConfig(decode="scaled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of large photographs, searched recursively")
    parser.add_argument("--count", type=int, default=1000, help="photographs of 12 megapixels [%(default)s]")
    parser.add_argument("--rule", action="store_true", help="compare scales instead")
    options = parser.parse_args()
    if options.rule:
        for name in ("mobilenet_v2", "efficientnet_lite0"):
            compare_scales(name, list(photographs(options.photographs)))
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
                yield data if image.format == "JPEG" else saved(image.convert("RGB"), 92)


def saved(image: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def start(backbone: str) -> Engine:
    config = Config(input="IMAGES", output="OUT", backbone=backbone)
    return resolve(config, Environment.read()).engine.packed().start()


def feature(engine: Engine, data: bytes, rules: ImageConfig) -> NDArray[np.float32]:
    row = np.empty((1, engine.dimension), np.float32)
    engine.run(decode(data, engine.side, rules).pixels[np.newaxis], row)
    return row[0]


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def compare_scales(backbone: str, files: list[bytes]) -> None:
    """Print how far features move with each rule, and with the photograph saved again, for the same photographs."""
    engine = start(backbone)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            kind = "progressive" if image.info.get("progressive") else "baseline"
            again = saved(image.convert("RGB"), 95)
        exact = feature(engine, data, EXACT)
        resaved = cosine(exact, feature(engine, again, EXACT))
        for scale.ENOUGH in (2, 3, 4, 5, 6):
            with Image.open(io.BytesIO(data)) as image:
                times = scale.scale_for(image, data, engine.side, SCALED)
            if times > 1:
                pair = cosine(exact, feature(engine, data, SCALED)), resaved
                found.setdefault((kind, scale.ENOUGH), []).append(pair)
                found.setdefault(("both", scale.ENOUGH), []).append(pair)
    columns = "".join(f"{name:>10}" for name in ("worst", "5 %", "median"))
    print(f"\n{backbone:<20}{'n':>5}{'':>4}scaled{columns}    saved again{columns}")
    for (kind, enough), pairs in sorted(found.items()):
        cosines = np.sort(np.array(pairs), axis=0)
        shown = [
            "".join(f"{value:>10.5f}" for value in (column[0], np.quantile(column, 0.05), np.median(column)))
            for column in cosines.T
        ]
        print(f"{kind:<13}{enough:>2} x in{len(pairs):>5}{'':>10}{shown[0]}{'':>15}{shown[1]}")


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
    for data in photographs(folder):
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height < PHONE[0] * PHONE[1] / 2:
                continue
            made.append(into / f"{len(made):05}.jpg")
            made[-1].write_bytes(saved(ImageOps.fit(image.convert("RGB"), PHONE), 92))
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
