"""The feature stage of each backbone on each engine against the limit of this machine: the same engine in bare loops.

Bare loops run before and after every run of fruitpipe, which is held against the mean of both. Both times hold the
start of the engine in each process, and fruitpipe's what it needs besides to bring the weights there. The CPU time of
the engine alone is what `fruitpipe/engines/choice.py` goes by.

    python benchmarks/backbones.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import openvino
from common import subset
from features import run_fruitpipe
from limit import Bare, LiteRt, around, bare_loops, cached
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

TARGET = 0.90
BACKBONES = {"mobilenet_v2": 4000, "efficientnet_lite0": 3000, "resnet50": 600, "vgg16": 320, "orb": 8000}
"""Images of each, so that a side takes some 10 to 50 s on two cores."""
TRAINED = ("mobilenet_v2", "efficientnet_lite0")
ENGINES = ("litert", "openvino", "bf16")


class OpenVino:
    """OpenVINO's compiled model of a flatbuffer."""

    mode = "RGB"

    def __init__(self, flatbuffer: Path, precision: str) -> None:
        self.flatbuffer, self.precision = flatbuffer, precision

    def start(self) -> tuple[int, int]:
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        settings["ENABLE_CPU_PINNING"] = False  # or all loops would share the first core
        compiled = core.compile_model(core.read_model(self.flatbuffer), "CPU", settings)
        self.request = compiled.create_infer_request()
        self.pixels = self.request.get_input_tensor().data
        self.feature = self.request.get_output_tensor().data
        return self.pixels.shape[1], self.feature.shape[-1]

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        self.pixels[0] = pixels
        self.request.infer()
        out[...] = self.feature[0]


class Orb:
    """OpenCV's ORB, and the nearest of some words to each descriptor."""

    mode = "L"

    def start(self) -> tuple[int, int]:
        cv2.setNumThreads(1)
        threadpool_limits(1)  # NumPy's, or its threads would be in each other's way
        self.orb = cv2.ORB.create(500)
        # Which words they are makes no difference to the time.
        self.words = np.random.default_rng(0).random((48, 256), np.float32)
        self.squares = np.square(self.words).sum(axis=1)
        return 320, len(self.words)

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        _, found = self.orb.detectAndCompute(pixels, None)
        out[...] = 0
        if found is not None:
            points = np.unpackbits(found, axis=1).astype(np.float32)
            nearest = (self.squares - 2 * points @ self.words.T).argmin(axis=1)
            out[...] = np.sqrt(np.bincount(nearest, minlength=len(out)))


class Case(NamedTuple):
    """A line of the table."""

    backbone: str
    engine: str
    bare: Bare
    settings: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="these backbones [all]")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="of networks [all]")
    parser.add_argument("--scale", type=float, default=1.0, help="this many times as many images [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="runs of fruitpipe [%(default)s]")
    parser.add_argument("--trained", nargs="*", choices=BACKBONES, default=TRAINED,
                        help="backbones with weights of ImageNet, random ones for the others %(default)s")  # fmt: skip
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    print(f"{'backbone':<20}{'engine':<10}{'images':>7}{'images/s':>17}{'ratio':>8}{'target':>9}{'CPU ms/image':>15}")
    for case in cases(options.only, options.engines, options.trained):
        measure(case, options.images, round(options.scale * BACKBONES[case.backbone]), options.rounds, options.cores)


def cases(backbones: list[str], engines: list[str], trained: list[str]) -> Iterator[Case]:
    for backbone in backbones:
        if backbone == "orb":
            yield Case(backbone, "words", Orb(), [f"backbone={backbone}", "words.size=48"])
            continue
        weights = "imagenet" if backbone in trained else "random:7"
        network = converted(backbone, weights)
        for engine in engines:
            if engine == "bf16" and not computes_bf16():
                print(f"{backbone:<20}{engine:<10} skipped: this CPU has neither AVX512-BF16 nor AMX")
                continue
            yield Case(
                backbone,
                engine,
                LiteRt(network) if engine == "litert" else OpenVino(network, "bf16" if engine == "bf16" else "f32"),
                [
                    f"backbone={backbone}",
                    f"weights={weights}",
                    *(["engine=openvino", "precision=bf16"] if engine == "bf16" else [f"engine={engine}"]),
                ],
            )


def converted(backbone: str, weights: str) -> Path:
    # Not at the top, where the bare loops would import it too.
    from fruitpipe.backbones import resolve
    from fruitpipe.config import Config, Environment

    config = Config(input="IMAGES", output="OUT", backbone=backbone, weights=weights)
    return Path(str(resolve(config, Environment.read()).engine.source))


def computes_bf16() -> bool:
    capabilities: Any = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def measure(case: Case, images: Path, count: int, rounds: int, cores: int) -> None:
    """Print one line: medians of the rounds, and of their ratios."""
    with tempfile.TemporaryDirectory(prefix="fruitpipe-backbones-") as folder:
        chosen = subset(images, count, Path(folder, "images"))
        paths = cached(chosen)
        limits, ours = [bare_loops(case.bare, paths, cores)], []
        for number in range(rounds):
            ours.append(run_fruitpipe(chosen, Path(folder, f"out-{number}"), cores, *case.settings).working)
            limits.append(bare_loops(case.bare, paths, cores))
    bare = [limit.working for limit in around(limits)]
    ratio = float(np.median(np.divide(bare, ours)))
    rates = f"{count / np.median(ours):.1f} : {count / np.median(bare):.1f}"
    engine = 1000 * float(np.median([limit.engine for limit in limits])) / count
    name = f"{case.backbone:<20}{case.engine:<10}{count:>7}"
    print(f"{name}{rates:>17}{ratio:>8.2f}{f'>= {TARGET:g}':>9}{engine:>15.1f}", flush=True)


if __name__ == "__main__":
    main()
