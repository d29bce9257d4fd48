"""CPU time of an image by OpenVINO and by onnxruntime, one thread each: what `fruitpipe/engines/choice.py` goes by.

python benchmarks/onnx_libraries.py FILE.onnx [FILE.onnx ...]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from fruitpipe.engines.runtimes import OnnxRuntime, OpenVinoRuntime, Runtime

ROUNDS, SECONDS = 5, 0.5
SIDE = 224
"""Of inputs that leave it open."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="networks of one image")
    options = parser.parse_args()

    print(f"{'network':<28}{'OpenVINO':>12}{'onnxruntime':>14}{'cosine':>10}")
    for file in options.files:
        network = file.read_bytes()
        runtimes: list[Runtime] = [OpenVinoRuntime(network), OnnxRuntime(network)]
        outputs = [opened(runtime) for runtime in runtimes]
        used = np.array([[milliseconds(runtime) for runtime in runtimes] for _ in range(ROUNDS)])
        cosine = float(outputs[0] @ outputs[1] / np.linalg.norm(outputs[0]) / np.linalg.norm(outputs[1]))
        ours, theirs = used.min(axis=0)
        print(f"{file.name:<28}{ours:>9.1f} ms{theirs:>11.1f} ms{cosine:>10.6f}", flush=True)


def opened(runtime: Runtime) -> np.ndarray:
    """What a network gives for noise, float64 in a row."""
    given = runtime.inputs[0].shape or (1, 3, SIDE, SIDE)
    runtime.open([tuple(length or (SIDE if at else 1) for at, length in enumerate(given))], 0)
    runtime.given[0][...] = np.random.default_rng(7).normal(size=runtime.given[0].shape)
    return runtime.infer().astype(np.float64).ravel()


def milliseconds(runtime: Runtime) -> float:
    """CPU time of an image."""
    count, began = 0, time.process_time()
    while (used := time.process_time() - began) < SECONDS:
        runtime.infer()
        count += 1
    return 1000 * used / count


if __name__ == "__main__":
    main()
