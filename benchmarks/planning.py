"""Plan millions of images that are only named: time, and memory of the driver.

python benchmarks/planning.py [--count 10000000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe.pipeline.plan import Plan
from fruitpipe.source import LISTING
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore

BATCH = 100_000
DIGEST = "d" * 64


def names(start: int, stop: int) -> pa.Array:
    return pa.array([f"/photographs/2026/variety-{i % 997:03d}/IMG_{i:012d}.jpg" for i in range(start, stop)])


def listing(count: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        rows = stop - start
        etags = pa.array([f"{i % 9000 + 1000}-{i}" for i in range(start, stop)])
        labels = pa.array([f"variety-{i % 997:03d}" for i in range(start, stop)])
        sizes = pa.array(np.full(rows, 5000))
        columns = [names(start, stop), etags, pa.nulls(rows, pa.string()), sizes, labels]
        yield pa.RecordBatch.from_arrays(columns, schema=LISTING)


def write_known(folder: Path, count: int, rows: int = 4096) -> None:
    """Feature parts, without the features, of the first `count` images."""
    known = folder / layout.features(DIGEST)
    known.mkdir(parents=True)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        nothing = pa.nulls(stop - start, pa.string())
        sides = pa.array(np.full(stop - start, 100, np.int32))
        columns = {
            "path": names(start, stop),
            "etag": pa.array([f"{i % 9000 + 1000}-{i}" for i in range(start, stop)]),
            "content": nothing,
            "width": sides,
            "height": sides,
            "status": pa.array(["ok"] * (stop - start)),
            "error": nothing,
        }
        pq.write_table(pa.table(columns, schema=layout.FACTS), known / f"part-{start:032x}.parquet")


def memory() -> float:
    """Largest resident set of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        write_known(Path(folder), count // 2)
        print(f"{count} images, half of them known; memory before planning {memory():.0f} MB")
        plan = Plan(Path(folder), verify_content=False, retry="transient")
        steps = {
            "list": lambda: plan.add_images(listing(count), LISTING),
            "join": lambda: plan.add_features(LocalStore(folder), DIGEST),
            "count": plan.summary,
            "write what is to do": lambda: plan.write_todo(Path(folder, "todo.parquet"), slots=2),
        }
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            print(f"{name:<20} {time.perf_counter() - started:7.1f} s   {memory():6.0f} MB")
        summary = plan.summary()
        print(f"known {summary.known}, new {summary.new}")


if __name__ == "__main__":
    main()
