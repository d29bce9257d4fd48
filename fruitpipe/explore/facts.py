"""What the page says of a run, read from its published vectors, manifest and failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.explore.clusters import by_size, cluster
from fruitpipe.explore.layout2d import LANDMARKS, lay_out
from fruitpipe.explore.nearest import Nearest
from fruitpipe.numeric.neighbours import lengths_of
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import Run
from fruitpipe.sinks import vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.document import damaged
from fruitpipe.tasks.reduce import spread

ROWS = 8192
"""Rows held at once, beside the columns that are kept."""
NUMBERS = 4_000_000
"""Components that are kept, of all images together; the first ones count most."""
MOST_COMPONENTS = 32
MOST_LISTED = 200
"""Entries of a list."""
MOST_CAUSES, EXAMPLES = 100, 5
"""Of failures, and images that are named of each."""
FAR = 3
"""Times the spread of a label, where colours end."""

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """A line of a list: an image of the run by its row, or by its path where it is not in it."""

    image: int | str
    value: str


@dataclass(frozen=True)
class Listing:
    """A list of images that are worth a look."""

    title: str
    note: str
    """what it holds, a sentence without its point"""
    entries: list[Entry]
    """MOST_LISTED at most"""
    count: int
    """of all"""


@dataclass(frozen=True)
class Measure:
    """A number for each image, by which the map can be coloured."""

    title: str
    levels: NDArray[np.uint8]
    """(n,), from 0 to 255, which is `most` and more"""
    most: float
    unit: str


@dataclass(frozen=True)
class Grouping:
    """Groups of images, by which the map can be coloured."""

    title: str
    names: list[str]
    """of the groups, 256 at most"""
    group: NDArray[np.uint8]
    """(n,): numbers of names"""
    rest: bool = False
    """whether the last group is of those that are in none"""


@dataclass(frozen=True)
class Label:
    """Images of a label; name is empty for those that have none."""

    name: str
    count: int
    spread: float
    """root mean square of their distances from their mean, as vectors"""


@dataclass(frozen=True)
class Cause:
    """Images that failed for one reason."""

    status: str
    error: str
    count: int
    examples: list[str]
    """paths"""


@dataclass
class Facts:
    """All that a page shows of a run of n images."""

    manifest: Manifest
    paths: pa.ChunkedArray
    labels: list[Label]
    """most frequent first"""
    label: NDArray[np.int64]
    """(n,): numbers of labels"""
    components: Points
    """(n, m): the first, two at least; zeros where there are fewer"""
    positions: Points | None
    """(n, 2): a layout that keeps neighbourhoods; None where there is none"""
    causes: list[Cause]
    groupings: list[Grouping]
    measures: list[Measure]
    listings: list[Listing]
    compared: str | None = None
    """the other run, where there is one"""
    nearest: Nearest | None = None
    """where the run has neighbours"""


class Labels:
    """Labels as they come, with the sums of their vectors."""

    def __init__(self, components: int) -> None:
        self.numbers: dict[str, int] = {}
        self.sums = np.zeros((0, components))

    def add(self, names: pa.ChunkedArray, vectors: Points) -> NDArray[np.int64]:
        """Numbers of the labels of some images."""
        encoded = names.fill_null("").combine_chunks().dictionary_encode()
        found = [self.numbers.setdefault(name, len(self.numbers)) for name in encoded.dictionary.to_pylist()]
        missing = len(self.numbers) - len(self.sums)
        self.sums = np.concatenate([self.sums, np.zeros((missing, self.sums.shape[1]))])
        number: NDArray[np.int64] = np.array(found, np.int64)[encoded.indices.to_numpy()]
        for each in found:
            self.sums[each] += vectors[number == each].sum(axis=0, dtype=np.float64)
        return number


@dataclass(frozen=True)
class Images:
    """What is kept of the n vectors of a run, of which there may be too many for memory."""

    paths: pa.ChunkedArray
    label: NDArray[np.int64]
    """(n,): numbers of names"""
    names: list[str]
    """of labels, as they come"""
    centres: Points
    """mean vector of each label"""
    components: Points
    """(n, m): the first, two at least; zeros where there are fewer"""
    landmarks: Points
    """LANDMARKS vectors at most, evenly spaced"""


def images_of(run: Run) -> Images:
    """Read a run, some thousand rows at a time.

    Raises UserError where a vector is too long to be compared with others, FruitpipeError where the run is damaged.
    """
    count, width = run.manifest.counts.ok, run.manifest.model.components
    most = max(2, min(MOST_COMPONENTS, width, NUMBERS // max(count, 1)))
    marks = spread(count, LANDMARKS)
    labels, paths = Labels(width), []
    label, components = np.empty(count, np.int64), np.zeros((count, most), np.float32)
    landmarks = np.empty((len(marks), width), np.float32)
    for rows, table, vectors in blocks(run):
        lengths_of(vectors)  # or their squares are no float32, which all that follows takes
        paths.append(table["path"].combine_chunks())
        label[rows] = labels.add(table["label"], vectors)
        components[rows, :width] = vectors[:, :most]
        first, last = np.searchsorted(marks, (rows.start, rows.stop))
        landmarks[first:last] = vectors[marks[first:last] - rows.start]
    centres = (labels.sums / np.bincount(label)[:, None]).astype(np.float32)
    return Images(pa.chunked_array(paths, pa.string()), label, list(labels.numbers), centres, components, landmarks)


def facts_of(run: Run) -> Facts:
    """Read a run twice, some thousand rows at a time. Raises UserError and FruitpipeError as `images_of` does."""
    images = images_of(run)
    label, counts = images.label, np.bincount(images.label)
    distance, positions = np.empty(len(label), np.float32), np.empty((len(label), 2), np.float32)
    clusters = np.empty(len(label), np.int64)
    place, cluster_of = lay_out(images.landmarks), cluster(images.landmarks)
    for rows, _, vectors in blocks(run):
        distance[rows] = np.linalg.norm(vectors - images.centres[label[rows]], axis=1)
        clusters[rows] = cluster_of(vectors)
        if place:
            positions[rows] = place(vectors)
    spreads = np.sqrt(np.bincount(label, distance.astype(np.float64) ** 2) / counts)
    relative = distance / np.maximum(spreads, np.finfo(np.float32).tiny)[label]
    order = np.lexsort((np.array(images.names), -counts))
    clusters, named = by_size(clusters, label, images.names)
    return Facts(
        manifest=run.manifest,
        paths=images.paths,
        labels=[Label(images.names[each], int(counts[each]), float(spreads[each])) for each in order.tolist()],
        label=np.argsort(order)[label],
        components=images.components,
        positions=positions if place else None,
        causes=causes(run),
        groupings=[Grouping("cluster", named, clusters.astype(np.uint8))],
        measures=[Measure("distance from the label's mean", levels(relative, FAR), FAR, "times the spread")],
        listings=[outliers(relative)],
    )


def levels(values: NDArray[np.floating], high: float) -> NDArray[np.uint8]:
    """Numbers from 0 to `high`, and what lies beyond, as levels of a measure."""
    found: NDArray[np.uint8] = np.rint(np.clip(values / high, 0, 1) * 255).astype(np.uint8)
    return found


def outliers(relative: NDArray[np.floating]) -> Listing:
    """relative: (n,), distance from the label's mean, as a multiple of the label's spread."""
    farthest = np.argsort(-relative, kind="stable")[:MOST_LISTED].tolist()
    return Listing(
        title="Outliers",
        note="Farthest from the mean of their label, as multiples of the label's spread",
        entries=[Entry(row, f"{relative[row]:.1f}") for row in farthest],
        count=len(farthest),
    )


def blocks(run: Run) -> Iterator[tuple[slice, pa.Table, Points]]:
    """Rows of a run in order, ROWS at most: which they are, the table, and its vectors, shape (n, k).

    Raises UserError where they are not what the manifest says, and FruitpipeError where they cannot be read.
    """
    parts = run.vector_parts
    if len(parts) != run.manifest.counts.ok:
        raise damaged(run.store, layout.manifest(run.id), "it counts other images than there are vectors")
    start = 0
    for table in parts.each(["path", "label", "vector"], ROWS):
        yield slice(start, start + len(table)), table, vectors_of(table)
        start += len(table)


def causes(run: Run) -> list[Cause]:
    """Why images failed, most frequent first, MOST_CAUSES at most."""
    name = layout.failures(run.id)
    try:
        with run.store.open(name) as file:
            table = pq.read_table(file, columns=["path", "status", "error"])
    except layout.UNREADABLE as error:
        raise damaged(run.store, name, str(error).rstrip(".")) from error
    found: dict[tuple[str, str], list[str]] = {}
    for row in table.to_pylist():
        found.setdefault((row["status"], row["error"] or ""), []).append(row["path"])
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Cause(status, error, len(paths), paths[:EXAMPLES]) for (status, error), paths in ordered[:MOST_CAUSES]]
