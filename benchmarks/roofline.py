"""How near a bare engine comes to what a core can do: MobileNetV2 by LiteRT against a large product of matrices.

Both in float32 on one thread, in turn and by CPU time, the least of all rounds: what else goes on takes from each. The
engine is given images one at a time, as it is everywhere, and several at once; features are compared by their bits.
Beside it, what an image takes until its features are there, decoding and all.

    python benchmarks/roofline.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize

OPERATIONS = 0.6e9
"""Of an image in MobileNetV2 at 224 x 224: 0.30e9 multiplications with an addition (Sandler et al. 2018, table 4)."""
SIDE = 2048
"""Of the matrices."""
IMAGES = 16
"""In each round."""


def in_batches(flatbuffer: Path, batch: int, pixels: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
    """Features of all of the pixels, shape (n, d), so many at a time."""
    interpreter = Interpreter(model_path=str(flatbuffer), num_threads=1)
    (image,), (feature,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(image["index"], [batch, *image["shape"][1:]])
    interpreter.allocate_tensors()

    def run() -> NDArray[np.float32]:
        found = []
        for first in range(0, len(pixels), batch):
            interpreter.tensor(image["index"])()[...] = pixels[first : first + batch]
            interpreter.invoke()
            found.append(interpreter.get_tensor(feature["index"]))
        return np.concatenate(found)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--rounds", type=int, default=20, help="[%(default)s]")
    options = parser.parse_args()

    spec = resolve(Config(input="IMAGES", output="OUT"), Environment.read()).engine
    paths = sorted(path for path in options.images.rglob("*") if path.is_file())[:IMAGES]
    images = [Image(str(path)) for path in paths]
    engine, rules = spec.start(), ImageConfig()
    reader = Reader(S3Config(), rules.max_bytes)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, engine.side, engine.side, 3)).astype(np.float32)
    left, right = random.random((2, SIDE, SIDE), np.float32)
    batches = {batch: in_batches(spec.source, batch, pixels) for batch in (1, 2, 4, 8, 16)}
    bits = {run().tobytes() for run in batches.values()}

    contenders: dict[str, Callable[[], object]] = {"product": lambda: left @ right}
    contenders |= {f"engine, {batch} at once": run for batch, run in batches.items()}
    contenders["whole image"] = lambda: featurize(images, engine, rules, reader)
    least = dict.fromkeys(contenders, float("inf"))
    for _ in range(options.rounds):
        for name, run in contenders.items():
            began = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - began)

    peak = 2 * SIDE**3 / least.pop("product")
    print(f"a product of {SIDE} x {SIDE}: {peak / 1e9:.0f} GFLOP/s; the same bits in all batches: {len(bits) == 1}")
    for name, seconds in least.items():
        each = seconds / IMAGES
        print(f"{name:<20}{each * 1000:6.2f} ms an image, {OPERATIONS / each / peak:4.0%} of that")


if __name__ == "__main__":
    main()
