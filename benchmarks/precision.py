"""What a precision costs and gains: CPU time of an image on one thread, and cosines of features to those in float32.

int8 is calibrated on other images than those that are compared, and shown without the two things that keep it near
(`fruitpipe/backbones/int8.py`), too. Engines take turns, with as many images at a time as in a run, so that a busy
machine slows all alike.

    python benchmarks/precision.py IMAGES
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from common import subset
from numpy.typing import NDArray

from fruitpipe.backbones import int8, resolve
from fruitpipe.backbones.calibrated import IMAGES
from fruitpipe.config import Config, Environment, ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.engine import BATCH
from fruitpipe.engines.litert import silence
from fruitpipe.errors import UserError
from fruitpipe.numeric import precision
from fruitpipe.vision.decode import decode

BOUND = 0.99
Engines = dict[str, EngineSpec]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "efficientnet_lite0"], metavar="NAME",
                        help="[mobilenet_v2 efficientnet_lite0]")  # fmt: skip
    parser.add_argument("--weights", default="imagenet", help="of all of them [%(default)s]")
    parser.add_argument("--count", type=int, default=precision.SAMPLE, help="images that are compared [%(default)s]")
    options = parser.parse_args()

    print(f"{'backbone':<20}{'precision':<34}{'CPU ms/image':>13}{'times as fast':>15}{'worst cosine':>14}{'mean':>8}")
    for name in options.backbones:
        config = Config(input="IMAGES", output="OUT", backbone=name, weights=options.weights)
        found = resolve(config, Environment.read())
        flatbuffer = EngineSpec("litert", found.engine.source)
        with tempfile.TemporaryDirectory(prefix="fruitpipe-precision-") as folder:
            pixels = pixels_of(subset(options.images, options.count + IMAGES, Path(folder)), found.facts.input_size)
        # every so many, as neighbours in a folder may be alike
        calibrating = np.linspace(0, len(pixels) - 1, IMAGES).astype(int)
        engines = engines_of(flatbuffer, pixels[calibrating])
        table(name, engines, np.delete(pixels, calibrating, axis=0))


def pixels_of(folder: Path, side: int) -> NDArray[np.uint8]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return np.stack([decode(path.read_bytes(), side, ImageConfig()).pixels for path in paths])


def engines_of(exact: EngineSpec, calibrating: NDArray[np.uint8]) -> Engines:
    """All that this machine has, float32 first."""
    found = {"float32": exact, "float16 weights": exact._replace(source=float16(exact.data))}
    for name, kind in (("float32, OpenVINO", "openvino"), ("bf16", "openvino_bf16")):
        try:
            exact._replace(kind=kind).start()
        except UserError as reason:
            print(f"{name}: {reason}")
        else:
            found[name] = exact._replace(kind=kind)
    as_it_is = patch.object(int8.Convolution, "corrected", lambda each, bounds, seen: each.bias)
    found["int8"] = exact._replace(source=quantised(exact.data, calibrating))
    with patch.object(int8, "EXACT", 0):
        found["int8, first convolutions too"] = exact._replace(source=quantised(exact.data, calibrating))
        with as_it_is:
            found["int8, these, biases as they are"] = exact._replace(source=quantised(exact.data, calibrating))
    return found


def quantised(flatbuffer: bytes, images: NDArray[np.uint8]) -> bytes:
    calibration = int8.Calibration(flatbuffer)
    return int8.quantised(flatbuffer, int8.Seen.together([calibration(image) for image in images]))


def float16(flatbuffer: bytes) -> bytes:
    """The flatbuffer with weights of 16 bits, which are float32 again when they are computed with."""
    quantizer = Quantizer(flatbuffer)
    for kind in int8.CONVOLUTIONS:
        quantizer.add_weight_only_config(
            ".*", TFLOperationName(kind), num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
    with silence():
        made = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(made.quantized_model)


def table(backbone: str, engines: Engines, pixels: NDArray[np.uint8]) -> None:
    started = {name: spec.start() for name, spec in engines.items()}
    features = {name: np.empty((len(pixels), engine.dimension), np.float32) for name, engine in started.items()}
    used: dict[str, list[float]] = {name: [] for name in started}
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        for name, engine in started.items():
            began = time.process_time()
            engine.run(batch, features[name][start : start + BATCH])
            used[name].append((time.process_time() - began) / len(batch))
    each = {name: 1000 * float(np.median(times)) for name, times in used.items()}
    cosines = {name: cosines_of(found, features["float32"]) for name, found in features.items()}
    for name, milliseconds in each.items():
        faster = each["float32"] / milliseconds
        print(f"{backbone:<20}{name:<34}{milliseconds:>13.2f}{faster:>15.2f}{cosines[name].min():>14.4f}"
              f"{cosines[name].mean():>8.4f}", flush=True)  # fmt: skip
    near = [name for name in each if cosines[name].min() >= BOUND]
    fastest = min(near, key=lambda name: each[name])
    print(f"{backbone}: the fastest of worst cosine >= {BOUND} is {fastest}")


def cosines_of(found: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[Any]:
    a, b = found.astype(np.float64), exact.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


if __name__ == "__main__":
    main()
