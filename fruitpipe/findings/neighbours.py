"""The nearest images of each image of a run: found by tasks, kept beside the manifest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.numeric.neighbours import Metric
from fruitpipe.result.manifest import Count, Manifest
from fruitpipe.result.runs import Run, find_manifest, run_ids
from fruitpipe.storage import layout
from fruitpipe.storage.document import damaged, find_document
from fruitpipe.storage.file import File, named
from fruitpipe.storage.store import Store
from fruitpipe.tasks.neighbours import MOVED, Earlier, FindNeighbours, as_arrays, empty_lists, read_lists
from fruitpipe.tasks.vector_part import Vectors
from fruitpipe.workers.runner import Runner

RECENT = 32
"""Runs that are looked at for earlier neighbours, newest first."""
TOGETHER = 4
"""Vector parts of a task, at most, and tasks of a slot, at least, before they are as many."""
RESOLVED = 1 << 22
"""Paths of neighbours whose positions are looked up at once."""


@dataclass(frozen=True)
class Lists:
    """Neighbours of all images of a run, whose positions are those of its vectors' rows."""

    paths: pa.Array
    """(n,)"""
    labels: pa.Array
    """(n,), null where an image has none"""
    distances: NDArray[np.float32]
    """(n, k), nearest first, inf where an image has fewer neighbours than k"""
    positions: NDArray[np.int32]
    """(n, k), -1 where it has fewer"""


class Neighbours(BaseModel):
    """The record of what was found, written when all parts are there."""

    run: layout.RunId
    k: int = Field(ge=1, le=9999)
    metric: Metric
    images: Count
    earlier: layout.RunId | None
    """run whose neighbours were taken over, where there was one of the same model"""
    taken: Count
    """images that kept that run's list and were compared with new images only"""
    parts: list[Annotated[File, named(layout.is_run_file)]]

    def read(self, run: Run) -> Lists:
        """All lists of the run that it is of.

        At a million images with 12 neighbours, they and what reading takes are some 500 MB.

        Raises FruitpipeError where a part is missing or damaged.
        """
        store = run.store
        vectors = run.vector_parts
        if [file.rows for file in self.parts] != [file.rows for file in vectors.files]:
            raise damaged(store, layout.neighbours(self.run, self.metric, self.k), "it is of other images")
        images = pa.concat_tables(vectors.each(["path", "label"])).combine_chunks()
        distances, positions = empty_lists(len(images), self.k)
        waiting: list[pa.Table] = []
        done = held = 0
        for number, file in enumerate(self.parts):
            waiting.append(read_lists(store, self.run, file))
            held += len(waiting[-1])
            if held * self.k >= RESOLVED or number + 1 == len(self.parts):
                chosen = slice(done, done + held)
                table = pa.concat_tables(waiting)
                distances[chosen], positions[chosen] = as_arrays(table, self.k, vectors.positions_of)
                waiting, done, held = [], done + held, 0
        paths, labels = (images[name].combine_chunks() for name in ("path", "label"))
        return Lists(paths, labels, distances, positions.astype(np.int32))


def find_neighbours(
    store: Store, manifest: Manifest, metric: Metric | None = None, k: int | None = None
) -> Neighbours | None:
    """What was found of a run; of several, by cosine and with the largest k. None where nothing was.

    Raises UserError where the record is damaged.
    """
    folder = f"{layout.run(manifest.run)}/neighbours"
    records = [name for name, _ in store.names(folder) if layout.is_neighbours(name)]
    found = [record for name in records if (record := read_record(store, manifest.run, name))]
    fitting = [each for each in found if metric in {None, each.metric} and k in {None, each.k}]
    return min(fitting, key=lambda each: (each.metric != "cosine", -each.k), default=None)


def require_neighbours(store: Store, manifest: Manifest) -> Neighbours:
    """As `find_neighbours`. Raises UserError where nothing was found yet."""
    if (found := find_neighbours(store, manifest)) is None:
        raise UserError(
            f"run {manifest.run} has no neighbours yet: `fruitpipe neighbours {quote(store.url)} {manifest.run}` "
            "finds them."
        )
    return found


def read_record(store: Store, run: str, name: str) -> Neighbours | None:
    """Raises UserError where it is damaged, or of another run."""
    record = find_document(store, name, Neighbours)
    if record and layout.neighbours(record.run, record.metric, record.k) != name:
        raise damaged(store, name, f"it is of {record.metric}, k = {record.k}, in run {record.run}")
    return record


def seek(
    runner: Runner,
    vectors: Vectors,
    fitted_by: str,
    k: int,
    metric: Metric,
    watch: Callable[[int], None] = lambda images: None,
    poll: Callable[[], None] = lambda: None,
    before: Callable[[], None] = lambda: None,
) -> Neighbours:
    """Find the k nearest of each image by Spark tasks, and write parts and record.

    Parts that are there are not made again. Where a run of the same model has neighbours, images that it has, too, keep
    their lists and are compared with new ones only, which gives the same lists to the bit.

    fitted_by: id of the run whose model gave the vectors.
    watch: told of how many more images there are neighbours.
    before: called before the record is written, without which the parts are garbage to others.

    Raises FruitpipeError where a task fails.
    """
    earlier = find_earlier(vectors, fitted_by, k, metric)
    together = min(max(len(vectors.files) // (TOGETHER * runner.slots), 1), TOGETHER)
    task = FindNeighbours(vectors, k, metric, together)
    shared = runner.share(earlier)

    def tell(done: tuple[list[File], int]) -> None:
        watch(sum(file.rows or 0 for file in done[0]))

    tasks = math.ceil(len(vectors.files) / together)
    done = runner.map(lambda number: task(number, shared), tasks, tell, poll)
    record = Neighbours(
        run=vectors.run,
        k=k,
        metric=metric,
        images=len(vectors),
        earlier=earlier.vectors.run if earlier else None,
        taken=sum(taken for _, taken in done),
        parts=[file for files, _ in done for file in files],
    )
    name = layout.neighbours(vectors.run, metric, k)
    before()
    vectors.store.put(name, record.model_dump_json(indent=2).encode())
    return record


def find_earlier(vectors: Vectors, fitted_by: str, k: int, metric: Metric) -> Earlier | None:
    """The newest other run of the same model whose neighbours are of the same kind; None where there is none.

    What cannot be read is passed over: all that it costs is time.
    """
    store = vectors.store
    for run in [run for run in reversed(run_ids(store)) if run != vectors.run][:RECENT]:
        try:
            record = read_record(store, run, layout.neighbours(run, metric, k))
            manifest = find_manifest(store, run) if record else None
            if record is None or manifest is None or manifest.model.fitted_by != fitted_by:
                continue
            found = Vectors.among(store, run, manifest.files, manifest.model.components)
            if [file.rows for file in record.parts] == [file.rows for file in found.files]:
                for file in record.parts:
                    read_lists(store, run, file)
                return Earlier(found, tuple(record.parts), places_of(vectors, found))
        except FruitpipeError:
            continue
    return None


def places_of(vectors: Vectors, earlier: Vectors) -> NDArray[np.int32]:
    """Where each image is in an earlier run, (n,), as `Earlier` has it."""
    old = digests(earlier)
    order = np.argsort(old, kind="stable")
    new = digests(vectors)
    found = order[np.minimum(np.searchsorted(old[order], new), len(old) - 1)]
    places = np.where(old[found] == new, found, -1)
    before = np.maximum.accumulate(places)
    return np.where((places >= 0) & (places < before), MOVED - places, places).astype(np.int32)


def digests(vectors: Vectors) -> NDArray[np.uint64]:
    """A digest of path and vector of each image, (n,)."""

    def digest(path: str, vector: NDArray[np.float32]) -> bytes:
        return hashlib.blake2b(vector.tobytes(), digest_size=8, key=hashlib.sha256(path.encode()).digest()).digest()

    found: list[bytes] = []
    for number in range(len(vectors.files)):
        table: Any = vectors.table(number, ["path"])
        found += map(digest, table["path"].to_pylist(), vectors.vectors(number))
    return np.frombuffer(b"".join(found), np.uint64)
