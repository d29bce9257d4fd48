"""Images per second of networks on a GPU, by the engine and by onnxruntime alone, and on a core of the CPU.

python benchmarks/gpu.py FILE.onnx [FILE.onnx ...]

Each has its sidecar beside it. Of how close both are, the worst cosine of 64 drawn pictures counts. For --tasks, the
engine has such a part of the card's memory as each of so many tasks has. Where there is no GPU, one line says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fruitpipe.engines import CPU, EngineSpec
from fruitpipe.engines.choice import without_gpu
from fruitpipe.engines.gpu import Gpu
from fruitpipe.engines.package import Package, beside
from fruitpipe.engines.reference_pictures import reference_picture
from fruitpipe.engines.runtimes import CudaRuntime
from fruitpipe.errors import UserError

PICTURES = 64
ROUNDS, SECONDS = 5, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="networks in ONNX")
    parser.add_argument("--gpu", type=int, default=0, help="its number, 0 by default")
    parser.add_argument("--tasks", type=int, default=1, help="tasks that share it, 1 by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each of five rounds, 1 by default")
    options = parser.parse_args()
    try:
        measure(options.files, Gpu(options.gpu, options.tasks), options.seconds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def measure(files: list[Path], gpu: Gpu, seconds: float) -> None:
    """Print a table. Raises UserError where there is no GPU."""
    memory = gpu.memory
    if said := without_gpu("onnx"):
        raise UserError(said)
    print(f"GPU {gpu.number}: {memory >> 20} MiB for each of {gpu.tasks} tasks")
    print(f"{'network':<28}{'at once':>8}{'engine':>14}{'alone':>14}{'share':>8}{'core':>14}{'cosine':>10}")
    for file in files:
        print(f"{file.name:<28}{row(file, gpu, seconds)}", flush=True)


def row(file: Path, gpu: Gpu, seconds: float) -> str:
    """Of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        path, sidecar = Path(scratch, "package.zip"), file.with_name(beside(file.name))
        Package(file.name, file.read_bytes(), sidecar.read_bytes() if sidecar.exists() else b"").write(path)
        spec = EngineSpec("onnx", path)
        engines = [spec._replace(device=device).start() for device in (str(gpu), CPU)]
    ours, core = engines
    pictures = np.stack([reference_picture("tiles", seed, ours.side) for seed in range(PICTURES)])
    found = [np.empty((PICTURES, engine.dimension), np.float32) for engine in engines]
    alone = opened(file, gpu, ours.side)
    count = len(alone.given[0])
    rates = [
        rate(lambda: ours.run(pictures, found[0]), PICTURES, seconds),
        rate(alone.infer, count, seconds),
        rate(lambda: core.run(pictures[:1], found[1][:1]), 1, seconds),
    ]
    core.run(pictures, found[1])
    a, b = (each.astype(np.float64) for each in found)
    cosine = ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()
    on_gpu, by_itself, on_core = (f"{each:>8.0f} img/s" for each in rates)
    return f"{count:>8}{on_gpu}{by_itself}{rates[0] / rates[1]:>8.2f}{on_core}{cosine:>10.6f}"


def opened(file: Path, gpu: Gpu, side: int) -> CudaRuntime:
    """The network alone, with noise for its images."""
    runtime = CudaRuntime(file.read_bytes(), gpu)
    shape = runtime.inputs[0].shape
    channels_last = shape is not None and shape[3] == 3
    runtime.open([(1, side, side, 3) if channels_last else (1, 3, side, side)], 0)
    runtime.given[0][...] = np.random.default_rng(7).normal(size=runtime.given[0].shape)
    return runtime


def rate(work: Callable[[], object], images: int, seconds: float) -> float:
    """Images per second of the best round."""
    best = 0.0
    for _ in range(ROUNDS):
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            work()
            count += images
        best = max(best, count / took)
    return best


if __name__ == "__main__":
    main()
