"""Plan millions of images that are only named, most of which are known: time, memory and disk by step.

Feature parts are there by their names alone: what they say of their images is in indexes of facts. Names and etags are
made as they are asked for, in the CPU seconds of the column "making", which the column before it contains. Disk is what
a step takes at most: of the plan's database, and of what does not fit into its memory. What would lie in a bucket is
counted and dropped, the indexes of facts once they are read.

    python benchmarks/planning.py
    python benchmarks/planning.py --known 99000000 --new 1000000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import Memory, Sampler

from fruitpipe.pipeline.plan import Plan
from fruitpipe.result import facts_index
from fruitpipe.result.facts_index import LARGEST
from fruitpipe.source import LISTING
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.feature_part import LARGEST_PART
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import OK

BATCH = 100_000
DIGEST, RUN = "d" * 64, "20260101-000000-0000"
DIMENSION, SLOTS = 1280, 2
LABELS = pa.array([f"variety-{number:03d}" for number in range(997)])
HEX = np.array([f"{byte:02x}" for byte in range(256)], "S2")
MEGABYTE = 1e6


def labels(numbers: np.ndarray) -> pa.Array:
    return LABELS.take(pa.array(numbers % len(LABELS)))


def names(numbers: np.ndarray) -> pa.Array:
    image = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 12, "0")
    return pc.binary_join_element_wise("/photographs/2026/", labels(numbers), "/IMG_", image, ".jpg", "")


def etags(numbers: np.ndarray) -> pa.Array:
    """As many characters as S3's, no two the same, and as hard to compress."""
    mixed = numbers.astype(np.uint64)[:, None] * np.array([0x9E3779B97F4A7C15, 0xF39CC0605CEDC835], np.uint64)
    mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0xBF58476D1CE4E5B9)
    data = HEX[(mixed ^ mixed >> np.uint64(29)).view(np.uint8)]
    ends = np.arange(len(numbers) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(ends), pa.py_buffer(data))


def listing(count: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, BATCH):
        numbers = np.arange(start, min(start + BATCH, count))
        nothing, sizes = pa.nulls(len(numbers), pa.string()), pa.array(np.full(len(numbers), 5000))
        columns = [names(numbers), etags(numbers), nothing, sizes, labels(numbers)]
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
        numbers = np.arange(start, min(start + LARGEST_PART, end))
        rows = len(numbers)
        part, side = (pa.array(np.full(rows, value, np.int32)) for value in ((start - first) // LARGEST_PART, 100))
        nothing = pa.nulls(rows, pa.string())
        columns = [names(numbers), etags(numbers), nothing, side, side, pa.repeat(OK, rows), nothing, part]
        columns += [pa.array(np.arange(rows, dtype=np.int32))]
        yield pa.RecordBatch.from_arrays(columns, schema=facts_index.NUMBERED)


class Made:
    """CPU seconds that something took to be made."""

    seconds = 0.0

    def timed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stream = iter(batches)
        while True:
            before = time.thread_time()
            batch = next(stream, None)
            self.seconds += time.thread_time() - before
            if batch is None:
                return
            yield batch


class Counted(LocalStore):
    """A store that drops what is put there by a file."""

    bytes = 0

    def upload(self, file: Path, name: str) -> None:
        self.bytes += file.stat().st_size
        file.unlink()


class Disk(Sampler):
    """Most bytes of a plan's database, of what it has spilled, and of both together."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.database = self.spilled = self.all = 0

    def sample(self) -> None:
        spilled = size_of(self._folder / "spill")
        database = size_of(self._folder) - spilled
        self.database, self.spilled = max(self.database, database), max(self.spilled, spilled)
        self.all = max(self.all, database + spilled)


def size_of(folder: Path) -> int:
    """What its files take of the disk, while they come and go."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += 512 * path.stat().st_blocks
        except FileNotFoundError:
            continue
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=10_000_000)
    parser.add_argument("--new", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch, out = Path(name, "scratch"), Path(name, "out")
        scratch.mkdir()
        store, bucket, made = LocalStore(str(out)), Counted(str(out)), Made()
        began = time.process_time()
        write_known(store, scratch, options.known)
        print(f"{options.known} known images and {options.new} new ones; {size_of(out) / MEGABYTE:.0f} MB of indexes, "
              f"made in {time.process_time() - began:.0f} CPU seconds")  # fmt: skip
        plan = Plan(scratch, verify_content=False, retry="transient")

        def join() -> None:
            plan.add_features(store, DIGEST)
            for name, _ in list(store.names(layout.features(DIGEST))):
                if layout.is_facts_index(name):
                    store.delete(name)

        steps = {
            "list": lambda: plan.add_images(made.timed(listing(options.known + options.new)), LISTING),
            "digest": plan.digest,
            "join": join,
            "count": plan.summary,
            "write what is to do": lambda: plan.write_todo(Shares(bucket, RUN, layout.TODO), SLOTS),
            "write the index": lambda: plan.write_index(Shares(bucket, RUN, layout.INDEX), DIMENSION),
        }
        columns = ("seconds", "CPU", "making", "memory, MB", "database, MB", "spilled, MB", "both, MB", "written, MB")
        print(f"{'':<20}" + "".join(f"{column:>{len(column) + 2}}" for column in columns))
        for what, step in steps.items():
            before, used, made.seconds, bucket.bytes = time.perf_counter(), time.process_time(), 0.0, 0
            with Memory() as peaks, Disk(scratch) as disk:
                step()
            disk.sample()
            figures = [time.perf_counter() - before, time.process_time() - used, made.seconds]
            figures += [each / MEGABYTE for each in (peaks.driver, disk.database, disk.spilled, disk.all, bucket.bytes)]
            cells = (f"{figure:>{len(column) + 2}.1f}" for figure, column in zip(figures, columns, strict=True))
            print(f"{what:<20}" + "".join(cells), flush=True)
        summary = plan.summary()
        print(f"known {summary.known}, new {summary.new}")
        plan.close()


if __name__ == "__main__":
    main()
