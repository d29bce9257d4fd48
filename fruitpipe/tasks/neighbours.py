"""Neighbours of the images of a vector part, among those of all parts. A Spark task that imports no Spark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError
from fruitpipe.numeric.neighbours import NOWHERE, Metric, Nearest, blocks_of, prepared
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store
from fruitpipe.tasks.vector_part import Vectors

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field(
            "neighbours",
            pa.list_(
                pa.struct(
                    [pa.field("path", pa.string(), nullable=False), pa.field("distance", pa.float32(), nullable=False)]
                )
            ),
            nullable=False,
        ),
    ]
)
"""Of a part: the images of the vector part of the same number, in its order, and neighbours of each, nearest first."""
MOVED = -2
"""Less its position in an earlier run: the place of an image that comes after others now that were before it."""
Lists = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Distances and positions of neighbours, (n, k) each; inf and NOWHERE where an image has fewer."""


@dataclass(frozen=True)
class Earlier:
    """Neighbours in an earlier run, of which images that have not changed can keep theirs."""

    vectors: Vectors
    """of that run"""
    parts: tuple[File, ...]
    """of its neighbours, as many"""
    places: NDArray[np.int32]
    """position in that run of each image of this one, (n,); MOVED less it where others have come before the image that
    were after it, and -1 where it is new or has another vector"""


class Sought:
    """The images of one part, and the nearest of each so far: of some among all, of others among new ones only."""

    def __init__(self, task: FindNeighbours, number: int, earlier: Earlier | None) -> None:
        self.positions = task.vectors.positions(number)
        queries = task.compared(number)
        self.known = np.zeros(len(queries), bool)
        """which of them have an earlier list that still holds, (n,)"""
        lists: Lists | None = None
        if earlier:
            self.known, lists = task.kept(earlier, self.positions)
        old, new = self.known, ~self.known
        self.among_all = Nearest(queries[new], self.positions[new], task.k, task.metric)
        known = (lists[0][old], lists[1][old]) if lists else None
        self.among_new = Nearest(queries[old], self.positions[old], task.k, task.metric, known)

    @property
    def lists(self) -> Lists:
        shape = len(self.known), self.among_all.distances.shape[1]
        distances, positions = np.empty(shape, np.float32), np.empty(shape, np.int64)
        for chosen, nearest in ((self.known, self.among_new), (~self.known, self.among_all)):
            distances[chosen], positions[chosen] = nearest.distances, nearest.positions
        return distances, positions


@dataclass(frozen=True)
class FindNeighbours:
    """The task: neighbours of the images of some vector parts, a part of neighbours for each.

    Reads all vector parts one after another. What a task before has written whole, is not made again.
    """

    vectors: Vectors
    k: int
    metric: Metric
    together: int
    """vector parts of a task: read from a bucket once for all of them"""

    def __call__(self, number: int, shared: Callable[[], Earlier | None]) -> tuple[list[File], int]:
        """The files of the parts, and of how many images earlier lists were taken."""
        first = number * self.together
        mine = range(first, min(first + self.together, len(self.vectors.files)))
        files = {part: file for part in mine if (file := self._written(part))}
        taken = 0
        if todo := [part for part in mine if part not in files]:
            with one_thread():
                earlier = shared()
                sought = {part: Sought(self, part, earlier) for part in todo}
                for part in sorted(range(len(self.vectors.files)), key=lambda part: part not in todo):
                    self._add(list(sought.values()), part, earlier)
            for part, each in sought.items():
                files[part] = self.write(part, *each.lists)
                taken += int(each.known.sum())
        return [files[part] for part in mine], taken

    def compared(self, number: int) -> NDArray[np.float32]:
        """Vectors of a part as they are compared. Raises UserError where one cannot be."""
        return prepared(self.vectors.vectors(number), self.metric)

    def _add(self, sought: list[Sought], number: int, earlier: Earlier | None) -> None:
        """Compare with a part, which is read only where somebody is to be compared with it."""
        positions = self.vectors.positions(number)
        new = earlier.places[positions] < 0 if earlier else np.ones(len(positions), bool)
        among_all = [each.among_all for each in sought if not each.known.all()]
        among_new = [each.among_new for each in sought if each.known.any()] if new.any() else []
        if among_all or among_new:
            vectors = self.compared(number)
            for chosen, whole in ((among_all, slice(None)), (among_new, new)):
                blocks = list(blocks_of(vectors[whole], positions[whole])) if chosen else []
                for nearest in chosen:
                    nearest.add(blocks)

    def kept(self, earlier: Earlier, positions: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Lists]:
        """Which of some images have an earlier list that still holds, (n,), and the lists.

        It does if the image and all in its list are still there, with the same vectors: whatever else has gone was
        farther away. Images that have moved are out of the lists and compared again like new ones, since ties go to the
        lower position; one that is as far as the last in the list may have to give way to one that was in none.
        """
        places = earlier.places[positions].astype(np.int64)
        distances, neighbours = empty_lists(len(positions), self.k)
        held = places >= 0
        starts = earlier.vectors.starts
        tables, rows = [], []
        for number in np.unique(np.searchsorted(starts, places[held], side="right") - 1).tolist():
            (inside,) = np.nonzero((places >= starts[number]) & (places < starts[number + 1]))
            lists = read_lists(self.vectors.store, earlier.vectors.run, earlier.parts[number])
            tables.append(lists.take(pa.array(places[inside] - starts[number])))
            rows.append(inside)
        if rows:
            chosen = np.concatenate(rows)
            lists = as_arrays(pa.concat_tables(tables), self.k, self.vectors.positions_of)
            distances[chosen], neighbours[chosen] = lists
        listed = np.isfinite(distances)
        place = np.where(neighbours < 0, -1, earlier.places[neighbours])
        moved = listed & (place <= MOVED)
        gone = listed & ((place == -1) | (moved & (distances == distances[:, -1:])))
        distances[moved], neighbours[moved] = np.inf, NOWHERE
        order = np.argsort(distances, axis=1, kind="stable")
        lists = tuple(np.take_along_axis(each, order, axis=1) for each in (distances, neighbours))
        return held & ~gone.any(axis=1), (lists[0], lists[1])

    def _name(self, number: int) -> str:
        return layout.neighbours_part(self.vectors.run, self.metric, self.k, number)

    def write(self, number: int, distances: NDArray[np.float32], positions: NDArray[np.int64]) -> File:
        """Put the neighbours of a part, (n, k) each."""
        there = positions != NOWHERE
        columns = [
            self.vectors.rows_at(positions[there], ["path"])["path"].combine_chunks(),
            pa.array(distances[there]),
        ]
        structs = pa.StructArray.from_arrays(columns, fields=list(SCHEMA.field("neighbours").type.value_type))
        offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), structs)
        table = pa.table([self.vectors.paths(number), lists], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=8192, write_page_checksum=True)
        data = memoryview(sink.getvalue())
        name = self._name(number)
        self.vectors.store.put(name, data)
        return File.of(layout.within(self.vectors.run, name), data, len(table))

    def _written(self, number: int) -> File | None:
        """The file of a part that is there already; None where it is not, or is damaged."""
        name = self._name(number)
        if (data := self.vectors.store.find(name)) is None:
            return None
        try:
            table = lists_of(data, self.vectors.files[number].rows)
        except layout.UNREADABLE:
            return None
        same = table["path"].combine_chunks().equals(self.vectors.paths(number))
        return File.of(layout.within(self.vectors.run, name), data, len(table)) if same else None


def empty_lists(count: int, k: int) -> Lists:
    return np.full((count, k), np.inf, np.float32), np.full((count, k), NOWHERE, np.int64)


def read_lists(store: Store, run: str, file: File) -> pa.Table:
    """A part of neighbours, as SCHEMA. Raises FruitpipeError where it is missing or damaged."""
    name = layout.run(run, file.name)
    try:
        return lists_of(store.get(name), file.rows)
    except layout.UNREADABLE as error:
        record = store.location(layout.neighbours_of(name) or name)
        raise FruitpipeError(
            f"{store.location(name)} is damaged or missing: delete {record}, and find the neighbours again."
        ) from error


def lists_of(data: bytes, rows: int | None) -> pa.Table:
    """Raises one of layout.UNREADABLE where data is no whole part of neighbours of so many images."""
    part = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    if part.metadata.num_rows != rows:
        raise ValueError("it has another number of rows than its record says")
    table = part.read(use_threads=False).cast(SCHEMA)
    table.validate(full=True)
    neighbours = table["neighbours"].combine_chunks()
    structs = neighbours.flatten()
    if any(array.null_count for array in (table["path"], neighbours, structs, *structs.flatten())):
        raise ValueError("it has nulls")
    return table


def as_arrays(table: pa.Table, k: int, positions_of: Callable[[pa.Array], NDArray[np.int64]]) -> Lists:
    """Neighbours of a table of SCHEMA, at most k of each. positions_of: those of images by their paths."""
    lists = table["neighbours"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    there = np.arange(k) < lengths[:, None]
    structs = lists.flatten()
    kept = np.arange(len(structs)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < k
    distances, positions = empty_lists(len(table), k)
    distances[there] = structs.field("distance").to_numpy()[kept]
    positions[there] = positions_of(structs.field("path"))[kept]
    return distances, positions
