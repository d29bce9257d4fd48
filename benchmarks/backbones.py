"""The feature stage of each backbone on each engine against the limit of this machine: the same engine in bare loops.

Bare loops run before and after every run of fruitpipe, which is held against the mean of both. Both times hold the
start of the engine in each process, and fruitpipe's what it needs besides to bring the weights there. On a machine that
does other things, go by the CPU time that both take in one process, in turns of a few images, once their engines are
started. That of the engine alone is what `fruitpipe/engines/choice.py` goes by. Of networks in files, which are
MobileNetV2's, it prints the lowest cosine of features to those of the flatbuffer besides, which
`benchmarks/equality.py` holds against Keras'. Other networks in files of several kinds, such as presets of keras-hub
(`benchmarks/hub_presets.py`), are held to the first of these.

    python benchmarks/backbones.py IMAGES
    python benchmarks/backbones.py IMAGES --files dinov2_small.tflite dinov2_small.onnx --count 400
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import openvino
from common import subset
from features import run_fruitpipe
from limit import Bare, LiteRt, around, bare_loops, cached
from numpy.typing import NDArray
from PIL import Image as Pictures
from threadpoolctl import threadpool_limits

TARGET, TARGET_OF_FILES = 0.90, 0.95
FILES = {"mobilenet_v2.onnx": 4000, "mobilenet_v2.tflite": 4000}
BACKBONES = {"mobilenet_v2": 4000, "efficientnet_lite0": 3000, "resnet50": 600, "vgg16": 320, "orb": 8000, **FILES}
"""Images of each, so that a side takes some 10 to 50 s on two cores."""
TRAINED = ("mobilenet_v2", "efficientnet_lite0")
ENGINES = ("litert", "openvino", "bf16")
TURN = 32
"""Images in a row, where CPU times are compared."""


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
    reference: Path | None = None
    """flatbuffer of the same network, for one in a file"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="these backbones [all]")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="of networks [all]")
    parser.add_argument("--scale", type=float, default=1.0, help="this many times as many images [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="runs of fruitpipe [%(default)s]")
    parser.add_argument("--trained", nargs="*", choices=BACKBONES, default=TRAINED,
                        help="backbones with weights of ImageNet, random ones for the others %(default)s")  # fmt: skip
    parser.add_argument("--files", nargs="+", type=Path, default=[],
                        help="one network instead, by `fruitpipe convert`: in TFLite, then others")  # fmt: skip
    parser.add_argument("--count", type=int, default=400, help="images of each of these files [%(default)s]")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    if options.count < 4 * TURN:
        parser.error(f"--count {options.count}: at least {4 * TURN}, or there is not enough to compare CPU times")
    if options.files and options.files[0].suffix != ".tflite":
        parser.error(f"{options.files[0]}: name the network in TFLite first, to which the others are held")

    print(f"{'backbone':<20}{'engine':<10}{'images':>7}{'images/s':>17}{'ratio':>8}{'by CPU':>8}{'target':>9}"
          f"{'CPU ms/image':>15}{'worker':>10}{'cosine':>9}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fruitpipe-backbones-") as folder:
        given = (in_a_file(path, options.files[0]) for path in options.files)
        for case in given if options.files else cases(options.only, options.engines, options.trained, Path(folder)):
            count = options.count if options.files else round(options.scale * BACKBONES[case.backbone])
            measure(case, options.images, count, options.rounds, options.cores)


def cases(backbones: list[str], engines: list[str], trained: list[str], folder: Path) -> Iterator[Case]:
    for backbone in backbones:
        if backbone in FILES:
            weights = "imagenet" if Path(backbone).stem in trained else "random:7"
            yield in_a_file(put_in_a_file(backbone, weights, folder), converted(Path(backbone).stem, weights))
            continue
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


def put_in_a_file(name: str, weights: str, folder: Path) -> Path:
    """A known network as a file with its sidecar."""
    from fruitpipe.cli.app import app

    path = folder / name
    with redirect_stdout(io.StringIO()):
        app(
            ["convert", "--backbone", path.stem, "--set", f"weights={weights}", "--output", str(path)],
            standalone_mode=False,
        )
    return path


def in_a_file(path: Path, reference: Path) -> Case:
    """A network in a file. reference: the same in TFLite."""
    bare: Bare = LiteRt(path) if path.suffix == ".tflite" else OpenVino(path, "f32")
    engine = "litert" if path.suffix == ".tflite" else "openvino"
    return Case(path.name, engine, bare, [f"backbone={path}"], reference)


def by_cpu_time(case: Case, paths: list[Path]) -> tuple[float, float]:
    """How many times as fast as a bare loop a task is, by CPU time, median of turns; and the lowest cosine of its
    features to those of the reference, NaN without one."""
    from fruitpipe.backbones import resolve
    from fruitpipe.config import Environment, ImageConfig, S3Config, load_config
    from fruitpipe.engines import EngineSpec
    from fruitpipe.engines.portable import cosine
    from fruitpipe.source import Reader
    from fruitpipe.source.fetching import Image
    from fruitpipe.tasks.featurize import featurize

    resolved = resolve(load_config(assignments=case.settings, input="IMAGES", output="OUT"), Environment.read())
    reader = Reader(S3Config(), 1 << 26)
    engine, (side, dimension) = resolved.engine.start(), case.bare.start()
    found, spent = np.empty((2, len(paths), dimension), np.float32), []

    def ours(turn: slice) -> None:
        found[0][turn] = featurize([Image(str(path)) for path in paths[turn]], engine, ImageConfig(), reader)[1]

    def theirs(turn: slice) -> None:
        for path, feature in zip(paths[turn], found[1][turn], strict=True):
            with Pictures.open(path) as picture:
                pixels = picture.convert(case.bare.mode).resize((side, side), Pictures.Resampling.BICUBIC)
            case.bare.run(np.asarray(pixels), feature)

    def seconds(side: Callable[[slice], None], turn: slice) -> float:
        began = time.process_time()
        side(turn)
        return time.process_time() - began

    turns = [slice(first, first + TURN) for first in range(0, len(paths) - TURN + 1, TURN)]
    for number, turn in enumerate([turns[0], *turns]):  # the first one not counted
        order = (ours, theirs) if number % 2 else (theirs, ours)
        used = {side: seconds(side, turn) for side in order}
        spent.append(used[theirs] / used[ours])
    ratio = float(np.median(spent[1:]))
    if case.reference is None:
        return ratio, float("nan")
    some = turns[0]
    wanted = featurize(
        [Image(str(path)) for path in paths[some]], EngineSpec("litert", case.reference).start(), ImageConfig(), reader
    )[1]
    return ratio, min(map(cosine, found[0][some], wanted))


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
        limits, ours, workers = [bare_loops(case.bare, paths, cores)], [], []
        for number in range(rounds):
            out = Path(folder, f"out-{number}")
            ours.append(run_fruitpipe(chosen, out, cores, *case.settings).working)
            workers.append(worker_memory(out))
            limits.append(bare_loops(case.bare, paths, cores))
        used, cosine = by_cpu_time(case, paths[::4]) if case.backbone != "orb" else (float("nan"), float("nan"))
    bare = [limit.working for limit in around(limits)]
    ratio = float(np.median(np.divide(bare, ours)))
    rates = f"{count / np.median(ours):.1f} : {count / np.median(bare):.1f}"
    engine = 1000 * float(np.median([limit.engine for limit in limits])) / count
    name = f"{case.backbone:<20}{case.engine:<10}{count:>7}"
    target = TARGET_OF_FILES if case.reference else TARGET
    print(
        f"{name}{rates:>17}{ratio:>8.2f}{used:>8.2f}{f'>= {target:g}':>9}{engine:>15.1f}{f'{max(workers)} MiB':>10}"
        f"{f'{cosine:.6f}' if case.reference else '':>9}",
        flush=True,
    )


def worker_memory(out: Path) -> int:
    """The most that a Python worker of a run had, MiB."""
    from fruitpipe.result.runs import open_run
    from fruitpipe.storage.store import LocalStore

    return open_run(LocalStore(str(out))).manifest.worker_memory >> 20


if __name__ == "__main__":
    main()
