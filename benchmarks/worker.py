"""Choices inside a Python worker, each against its alternative, on one core: images decoded in groups or in turn with
inference, memory in huge pages or not, features kept as binary or as lists, files read several in one go or each alone.

python benchmarks/worker.py IMAGES [--count 500]
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import EXTENSIONS, output

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.source import Reader, fetching
from fruitpipe.source.fetching import Image
from fruitpipe.source.files import read_image
from fruitpipe.vision.decode import decode

HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
RULES = ImageConfig()


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(paths: list[str]) -> None:
    """Print milliseconds an image, in turn and in groups."""
    engine = resolve(Config(input="IMAGES", output="OUT"), Environment.read()).engine.start()
    feature = np.empty((1, engine.dimension), np.float32)

    def run(group: int) -> None:
        for start in range(0, len(paths), group):
            names = paths[start : start + group]
            pictures = [decode(read_image(name, RULES.max_bytes), engine.side, RULES) for name in names]
            for picture in pictures:
                engine.run(picture.pixels[np.newaxis], feature)

    print(*(1000 * seconds(lambda size=size: run(size)) / len(paths) for size in (1, engine.batch)))  # type: ignore[misc]


def read_ratio() -> float:
    """How many times faster a column of features is read as binary than as a list of floats."""
    features = np.random.default_rng(0).random((2000, 1280), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 1280)
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(5120), 2000, [None, pa.py_buffer(features)])
    times = []
    for column in (lists, binary):
        file = io.BytesIO()
        pq.write_table(pa.table({"f": column}), file, compression="zstd", compression_level=1, use_dictionary=False)
        times.append(seconds(lambda file=file: pq.read_table(file, use_threads=False)))  # type: ignore[misc]
    return times[0] / times[1]


def fetch_microseconds(paths: list[str]) -> list[float]:
    """CPU time of fetching an image that is in the page cache, where each is read alone and where several are."""
    reader, images, times = Reader(S3Config(), RULES.max_bytes), [Image(path) for path in paths], []
    for together in (1, fetching.TOGETHER):
        with patch.object(fetching, "TOGETHER", together):
            used = []
            for _ in range(5):
                began = time.process_time()
                deque(fetching.fetch(images, reader), maxlen=0)
                used.append(time.process_time() - began)
        times.append(1e6 * statistics.median(used) / len(paths))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    found = sorted(str(path) for path in options.images.rglob("*") if path.suffix.lower() in EXTENSIONS)
    paths = found[:: max(len(found) // options.count, 1)][: options.count]
    if "MEASURE" in os.environ:
        measure(paths)
        return
    command = [sys.executable, __file__, str(options.images), "--count", str(options.count)]
    for name, pages in (("usual pages", {}), ("huge pages", HUGE)):
        turn, groups = map(float, output(command, MEASURE="1", **pages).split())
        print(f"{name:<12} in turn {turn:.2f} ms, in groups {groups:.2f} ms an image: ratio {turn / groups:.3f}")
    alone, together = fetch_microseconds(paths)
    print(f"files read alone {alone:.0f} µs, several in one go {together:.0f} µs of CPU time each")
    print(f"features read as binary: {read_ratio():.1f} times the speed of lists")


if __name__ == "__main__":
    main()
