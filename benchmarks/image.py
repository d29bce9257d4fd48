"""The container image in figures: its layers, a build after a change of the code, how soon it works, how fast.

Builds with `make image`'s own script, from copies of this checkout, in which nothing changes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import Row, count_images, fruitpipe, output, report, subset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from containers import Layer, engine, layers

ROOT = Path(__file__).parents[1]
TARGET, MOST, LONGEST = 0.97, 1e9, 60
MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--image", default="localhost/fruitpipe:dev", help="of `make image` [%(default)s]")
    parser.add_argument("--count", type=int, default=3000, help="images for the throughput [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="times that each measurement is made [%(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch:
        Path(scratch).chmod(0o755)
        built = layers(options.image, compress=True)
        sizes(built)
        rebuild(built, Path(scratch))
        start(options.image, options.images, Path(scratch), options.rounds)
        throughput(options.image, subset(options.images, options.count, Path(scratch, "images")), options.rounds)


def sizes(built: list[Layer]) -> None:
    print(f"{'MB compressed':>14}{'unpacked':>10}  layer")
    for layer in built:
        made = layer.command.removeprefix("/bin/sh -c ").removeprefix("#(nop) ")
        print(f"{layer.compressed / MEGABYTE:>14.1f}{layer.size / MEGABYTE:>10.1f}  {' '.join(made.split())[:80]}")
    whole, unpacked = (sum(values) / MEGABYTE for values in zip(*((x.compressed, x.size) for x in built), strict=True))
    print(f"{whole:>14.1f}{unpacked:>10.1f}  in all (target: at most {MOST / MEGABYTE:.0f} compressed)\n")


@contextmanager
def checkout(scratch: Path) -> Iterator[Path]:
    """A copy of what the image is built of, with its history."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        copy = Path(name, "fruitpipe")
        kept = ("docker", "fruitpipe", "scripts", ".git")
        for folder in kept:
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", ".dockerignore"):
            shutil.copy(ROOT / file, copy)
        yield copy


def build(source: Path) -> tuple[float, list[Layer]]:
    """Seconds of a build, and what it made."""
    name = f"localhost/fruitpipe-benchmark:{os.getpid()}"
    start = time.perf_counter()
    output([str(source / "scripts/image"), name])
    seconds = time.perf_counter() - start
    try:
        return seconds, layers(name, compress=True)
    finally:
        output([str(engine()), "rmi", name])


def rebuild(before: list[Layer], scratch: Path) -> None:
    with checkout(scratch) as copy:
        module = copy / "fruitpipe/pipeline/run.py"
        module.write_text(module.read_text() + "\n# changed\n")
        seconds, after = build(copy)
    new = [layer for layer in after if layer.digest not in {each.digest for each in before}]
    print(f"after a change of the code: {seconds:.0f} s (target: at most {LONGEST})")
    print(
        f"  {len(new)} of {len(after)} layers are new, {sum(each.compressed for each in new) / MEGABYTE:.1f} MB to push"
    )


def container(image: str, images: Path, out: Path) -> list[str]:
    """A run in a container with a read-only root and no network, by the user who calls."""
    out.mkdir()
    command = [str(engine()), "run", "--rm", "--read-only", "--network=none", f"--user={os.getuid()}:0"]
    mounts = [f"--volume={images}:/in:ro", f"--volume={out}:/out"]
    return [*command, *mounts, image, "run", "/in", "/out", "--json"]


def start(image: str, images: Path, scratch: Path, rounds: int) -> None:
    """From `docker run` to the first feature part, of one image per core; beside it the same without a container."""
    few = subset(images, max(os.cpu_count() or 1, 2), scratch / "few")
    inside = [first_part(container(image, few, out := scratch / f"first-{n}"), out) for n in range(rounds)]
    outside = [first_part(fruitpipe(few, out := scratch / f"outside-{n}"), out) for n in range(rounds)]
    print(f"from `{engine()} run` to the first images featurized: {statistics.median(inside):.1f} s", end="")
    print(f" (without a container {statistics.median(outside):.1f} s)\n")


def first_part(command: list[str], out: Path) -> float:
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any((out / "features").rglob("*.parquet")):
            if process.poll():
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - begun


def throughput(image: str, images: Path, rounds: int) -> None:
    """The feature stage in a container and outside, in turn."""
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch:
        inside: list[float] = []
        outside: list[float] = []
        for number in range(rounds):
            here, there = Path(scratch, f"outside-{number}"), Path(scratch, f"inside-{number}")
            pair = [
                lambda here=here: outside.append(featurized(fruitpipe(images, here), here)),
                lambda there=there: inside.append(featurized(container(image, images, there), there)),
            ]
            for measure in pair[:: -1 if number % 2 else 1]:
                measure()
        report([Row("outside a container", inside, outside, count_images(images), TARGET)])


def featurized(command: list[str], out: Path) -> float:
    """Seconds of the feature stage of a run."""
    output(command)
    (manifest,) = out.glob("runs/*/manifest.json")
    return float(json.loads(manifest.read_text())["timings"]["featurize"])


if __name__ == "__main__":
    main()
