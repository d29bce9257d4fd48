"""The limit of this machine: bare loops over photographs, one process a core, without Spark and without a file written.

Their time begins when processes and imports are there, and holds what fruitpipe's feature stage holds: the start of
each engine, with its weights read and compiled, and then every image.
"""

from __future__ import annotations

import multiprocessing
import time
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image


class Seconds(NamedTuple):
    """What a contender took."""

    working: float
    """without start-up"""
    whole: float
    """from the launch of its first process"""
    engine: float = 0.0
    """CPU time of a bare engine's runs, all processes together"""


class Bare(Protocol):
    """An engine as its library has it, on one thread, an image at a time. Started in the process that runs it."""

    mode: str
    """of the images that it takes, as Pillow names them"""

    def start(self) -> tuple[int, int]:
        """Side of its input, pixels, and length of a feature."""

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the feature of an image."""


class LiteRt:
    """LiteRT's interpreter of a flatbuffer."""

    mode = "RGB"

    def __init__(self, flatbuffer: Path) -> None:
        self.flatbuffer = str(flatbuffer)

    def start(self) -> tuple[int, int]:
        interpreter = Interpreter(model_path=self.flatbuffer, num_threads=1)
        interpreter.allocate_tensors()
        (image,), (feature,) = interpreter.get_input_details(), interpreter.get_output_details()
        # In place: `set_tensor` would copy the image once more.
        self.pixels, self.feature = interpreter.tensor(image["index"]), interpreter.tensor(feature["index"])
        self.invoke = interpreter.invoke
        return int(image["shape"][1]), int(feature["shape"][-1])

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        self.pixels()[0][...] = pixels
        self.invoke()
        out[...] = self.feature()[0]


def bare_loop(engine: Bare, paths: list[Path], pipe: Connection) -> None:
    """Features of images, as tight as Python allows; says when it is ready and when it is done."""
    pipe.send("ready")
    pipe.recv()
    side, dimension = engine.start()
    features = np.empty((len(paths), dimension), np.float32)
    used = 0.0
    for path, feature in zip(paths, features, strict=True):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert(engine.mode).resize((side, side), Image.Resampling.BICUBIC))
        began = time.process_time()
        engine.run(pixels, feature)
        used += time.process_time() - began
    pipe.send(used)


def bare_loops(engine: Bare, paths: list[Path], cores: int) -> Seconds:
    """The limit. Raises EOFError where a loop died; it has said why on standard error."""
    launched = time.perf_counter()
    pipes = [start_loop(engine, paths[core::cores]) for core in range(cores)]
    for pipe in pipes:
        pipe.recv()
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    used = sum(pipe.recv() for pipe in pipes)
    ended = time.perf_counter()
    return Seconds(ended - began, ended - launched, used)


def start_loop(engine: Bare, paths: list[Path]) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    # Spawned, so that a loop's start-up is its own: a fork would inherit every import.
    context = multiprocessing.get_context("spawn")
    context.Process(target=bare_loop, args=(engine, paths, theirs), daemon=True).start()
    theirs.close()  # the end of the loop's process is then an EOFError here
    return ours


def around(limits: list[Seconds]) -> list[Seconds]:
    """Means of each two that follow one another: what a run between them is held against."""
    return [Seconds(*np.mean(pair, axis=0)) for pair in pairwise(limits)]


def cached(folder: Path) -> list[Path]:
    """The images of a folder, in the page cache: the first loop should not pay for the disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        path.read_bytes()
    return paths
