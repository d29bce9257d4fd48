"""The feature stage against the limit of this machine: bare loops of Pillow and LiteRT over the same photographs.

The limit is one process a core, each with an equal share of the images, without Spark and without a file written. The
machine drifts by as much as there is to measure, so bare loops run before and after every run of fruitpipe, which is
held against the mean of both.

    python benchmarks/features.py IMAGES
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from common import Row, report, subset, timed
from PIL import Image


class Seconds(NamedTuple):
    """What a contender took."""

    working: float
    """without start-up"""
    whole: float
    """from the launch of its first process"""


def bare_loop(flatbuffer: str, paths: list[Path], pipe: Connection) -> None:
    """Features of images, as tight as Python allows; says when it is ready and when it is done."""
    interpreter = Interpreter(model_path=flatbuffer, num_threads=1)
    interpreter.allocate_tensors()
    (image,), (feature,) = interpreter.get_input_details(), interpreter.get_output_details()
    # In place: `set_tensor` would copy the image once more.
    pixels, result = interpreter.tensor(image["index"]), interpreter.tensor(feature["index"])
    size = (int(image["shape"][2]), int(image["shape"][1]))
    features = np.empty((len(paths), feature["shape"][-1]), np.float32)
    pipe.send("ready")
    pipe.recv()
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            pixels()[0][...] = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        interpreter.invoke()
        features[number] = result()[0]
    pipe.send("done")


def bare_loops(flatbuffer: Path, paths: list[Path], cores: int) -> Seconds:
    """The limit. Raises EOFError where a loop died; it has said why on standard error."""
    launched = time.perf_counter()
    pipes = [start_loop(flatbuffer, paths[core::cores]) for core in range(cores)]
    for pipe in pipes:
        pipe.recv()
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    for pipe in pipes:
        pipe.recv()
    ended = time.perf_counter()
    return Seconds(ended - began, ended - launched)


def start_loop(flatbuffer: Path, paths: list[Path]) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    # Spawned, so that a loop's start-up is its own: a fork would inherit every import.
    context = multiprocessing.get_context("spawn")
    context.Process(target=bare_loop, args=(str(flatbuffer), paths, theirs), daemon=True).start()
    theirs.close()  # the end of the loop's process is then an EOFError here
    return ours


def run_fruitpipe(images: Path, out: Path, backbone: str, cores: int) -> Seconds:
    """A run into a new folder: its feature stage, and the whole of it, with PCA and vectors."""
    from fruitpipe.runs import open_run
    from fruitpipe.store import LocalStore

    options = ["--set", f"backbone={backbone}", "--set", f"spark.master=local[{cores}]"]
    whole = timed([sys.executable, "-m", "fruitpipe", "run", str(images), str(out), *options])
    return Seconds(open_run(LocalStore(str(out))).manifest.timings["featurize"], whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=10_000, help="how many of them")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=1, help="runs of fruitpipe")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    # Not at the top, where the bare loops would import it too.
    from fruitpipe.backbones import flatbuffer
    from fruitpipe.config import Choice, Environment

    _, network = flatbuffer(Choice(options.backbone), Environment.read())
    with tempfile.TemporaryDirectory(prefix="fruitpipe-features-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        paths = sorted(path for path in images.rglob("*") if path.is_file())
        for path in paths:
            path.read_bytes()  # into the page cache: the first loop should not pay for the disk
        limits = [bare_loops(network, paths, options.cores)]
        ours: list[Seconds] = []
        for number in range(options.rounds):
            ours.append(run_fruitpipe(images, Path(folder, f"out-{number}"), options.backbone, options.cores))
            limits.append(bare_loops(network, paths, options.cores))

    rates = ", ".join(f"{len(paths) / limit.working:.0f}" for limit in limits)
    print(f"{options.backbone}, {len(paths)} images, {options.cores} cores; bare loops in turn: {rates} images/s")
    around = np.add(limits[:-1], limits[1:]) / 2
    report(
        [
            Row("bare loops", [run.working for run in ours], around[:, 0].tolist(), len(paths), 0.90),
            Row("… whole, with start-up", [run.whole for run in ours], around[:, 1].tolist(), len(paths)),
        ]
    )


if __name__ == "__main__":
    main()
