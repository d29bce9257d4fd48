"""Plan millions of images that are only named, most of which are known: time by step, and memory of the driver.

Feature parts are there by their names alone: what they say of their images is in indexes of facts.

python benchmarks/planning.py [--known 10000000] [--new 10000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import Memory

from fruitpipe.pipeline.plan import Plan
from fruitpipe.result import facts_index
from fruitpipe.result.facts_index import LARGEST
from fruitpipe.source import LISTING
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.feature_part import LARGEST_PART
from fruitpipe.vision.bad_image import OK

BATCH = 100_000
DIGEST = "d" * 64


def names(start: int, stop: int) -> pa.Array:
    return pa.array([f"/photographs/2026/variety-{i % 997:03d}/IMG_{i:012d}.jpg" for i in range(start, stop)])


def etags(start: int, stop: int) -> pa.Array:
    """As many characters as S3's, no two the same."""
    return pa.array([f"{i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" for i in range(start, stop)])


def listing(count: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        rows = stop - start
        labels = pa.array([f"variety-{i % 997:03d}" for i in range(start, stop)])
        sizes = pa.array(np.full(rows, 5000))
        columns = [names(start, stop), etags(start, stop), pa.nulls(rows, pa.string()), sizes, labels]
        yield pa.RecordBatch.from_arrays(columns, schema=LISTING)


def write_known(store: LocalStore, scratch: Path, count: int) -> None:
    """Empty feature parts, and indexes of what they would say of the first `count` images."""
    for first in range(0, count, LARGEST):
        end = min(first + LARGEST, count)
        parts = [layout.part(DIGEST, f"{start:032x}") for start in range(first, end, LARGEST_PART)]
        for name in parts:
            store.put(name, b"")
        index = scratch / "facts.parquet"
        name = facts_index.write(index, dict.fromkeys(parts, 0), facts(first, end))
        store.upload(index, name)


def facts(first: int, end: int) -> Iterator[pa.RecordBatch]:
    for start in range(first, end, LARGEST_PART):
        rows = min(LARGEST_PART, end - start)
        part, side = (pa.array(np.full(rows, value, np.int32)) for value in ((start - first) // LARGEST_PART, 100))
        nothing = pa.nulls(rows, pa.string())
        columns = [names(start, start + rows), etags(start, start + rows), nothing, side, side, pa.repeat(OK, rows)]
        columns += [nothing, part, pa.array(np.arange(rows, dtype=np.int32))]
        yield pa.RecordBatch.from_arrays(columns, schema=facts_index.NUMBERED)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=10_000_000)
    parser.add_argument("--new", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = LocalStore(str(folder / "out"))
        write_known(store, folder, options.known)
        print(f"{options.known} known images and {options.new} new ones; {size_of(folder) / 1e6:.0f} MB of indexes")
        plan = Plan(folder, verify_content=False, retry="transient")
        steps = {
            "list": lambda: plan.add_images(listing(options.known + options.new), LISTING),
            "join": lambda: plan.add_features(store, DIGEST),
            "count": plan.summary,
            "write what is to do": lambda: plan.write_todo(folder / "todo.parquet", slots=2),
        }
        print(f"{'':<20}{'seconds':>9}{'CPU':>9}{'memory, MB':>12}{'disk, MB':>10}")
        for what, step in steps.items():
            before, used = time.perf_counter(), time.process_time()
            with Memory() as peaks:
                step()
            figures = f"{time.perf_counter() - before:>9.1f}{time.process_time() - used:>9.1f}"
            print(f"{what:<20}{figures}{peaks.driver / 1e6:>12.0f}{size_of(folder) / 1e6:>10.0f}", flush=True)
        summary = plan.summary()
        print(f"known {summary.known}, new {summary.new}")
        plan.close()


if __name__ == "__main__":
    main()
