"""A table of all images of a run for whoever cleans them: outliers, doubtful labels, duplicates, representatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.errors import UserError
from fruitpipe.findings.duplicates import Duplicates, find_duplicates
from fruitpipe.findings.neighbours import Lists, Neighbours
from fruitpipe.findings.reconstruction import reconstruction_errors
from fruitpipe.findings.texts import ZeroShot, zero_shot
from fruitpipe.numeric import curation
from fruitpipe.numeric.neighbours import prepared
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.numeric.pca import LARGEST
from fruitpipe.result.runs import Run
from fruitpipe.units import counted

MAJORITY, FEW = 0.5, 0.1
"""A label is doubtful where a larger share than this of the neighbours has one and the same other label, and no larger
one has it, too."""
REPRESENTATIVES = 100
FAR = 3.0
"""How many times as far as usual an image is that the summary counts as an outlier."""
NAMED = 5
"""Images of each kind that the summary names."""
OF_TEXTS = [
    pa.field("zero_shot", pa.string(), nullable=False),
    pa.field("zero_shot_confidence", pa.float32(), nullable=False),
    pa.field("label_check", pa.bool_()),
]
"""Further columns, where labels are to be checked by texts."""
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("outlier", pa.float32(), nullable=False),
        pa.field("neighbour_distance", pa.float32()),
        pa.field("reconstruction_error", pa.float32()),
        pa.field("label_suspect", pa.bool_(), nullable=False),
        pa.field("voted_label", pa.string()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("duplicate_of", pa.string()),
        pa.field("representative", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Curation:
    """The table, in the order of the run's vectors, and what it says in few words."""

    table: pa.Table
    """as SCHEMA, and OF_TEXTS where there is a zero shot"""
    duplicates: Duplicates
    neighbours: Neighbours
    """what it was made from"""
    zero_shot: ZeroShot | None = None

    def in_rows(self) -> list[tuple[str, str]]:
        """For people."""
        table, found = self.table, self.duplicates
        copies = len(table) - table["duplicate_of"].null_count
        errors = len(table) - table["reconstruction_error"].null_count
        far = np.asarray(table["outlier"]) > FAR
        suspect = np.asarray(table["label_suspect"])
        basis = "neighbours and reconstruction" if errors else "neighbours; there are no reconstruction errors"
        between = f"at most {found.limit:.3g} away (usual distance to the nearest: {found.usual:.3g})"
        if found.cut_off:
            between += f"; {found.cut_off} have no other neighbours listed: a larger neighbours.k may find more"
        return [
            ("run", self.neighbours.run),
            ("images", f"{len(table)}, each with its {self.neighbours.k} nearest by {self.neighbours.metric}"),
            ("duplicates", f"{copies}, of {counted(len(found.groups), 'image')}, {between}"),
            ("outliers", f"{int(far.sum())} more than {FAR:g} times as far as usual, by {basis}"),
            *self.named("outlier", far, "outlier", "  {:.1f} times"),
            ("label suspects", f"{int(suspect.sum())} whose neighbours have another label"),
            *self.named("confidence", suspect, "voted_label", "  rather {}"),
            *self.checked(),
            ("representatives", f"{int(np.asarray(table['representative']).sum())}"),
        ]

    def facts(self) -> dict[str, Any]:
        """For scripts."""
        table, found = self.table, self.duplicates
        return {
            "run": self.neighbours.run,
            "images": len(table),
            "k": self.neighbours.k,
            "metric": self.neighbours.metric,
            "limit": found.limit,
            "usual": found.usual,
            "groups": len(found.groups),
            "duplicates": len(table) - table["duplicate_of"].null_count,
            "cut_off": found.cut_off,
            "label_suspects": int(np.asarray(table["label_suspect"]).sum()),
            "representatives": int(np.asarray(table["representative"]).sum()),
        } | self.checked_facts()

    def checked(self) -> list[tuple[str, str]]:
        """What texts say of labels, for people."""
        if (shot := self.zero_shot) is None:
            return []
        count = int(shot.disagrees.sum())
        said = f"{count} of {shot.checked} whose label is among the {len(shot.labels)} look more like another of them"
        named = self.named("zero_shot_confidence", shot.disagrees, "zero_shot", "  rather {}")
        return [("label check", said), *named]

    def checked_facts(self) -> dict[str, Any]:
        """Likewise for scripts."""
        if (shot := self.zero_shot) is None:
            return {}
        return {"labels_checked": shot.checked, "label_disagreements": int(shot.disagrees.sum())}

    def named(self, by: str, chosen: NDArray[np.bool_], column: str, words: str) -> list[tuple[str, str]]:
        """The first few of some images, the largest by a column first, each with another column in words."""
        (rows,) = np.nonzero(chosen)
        first = rows[np.argsort(-np.asarray(self.table[by])[rows], kind="stable")][:NAMED]
        some = self.table.select(["path", column]).take(pa.array(first)).to_pylist()
        return [(words.format(each[column]), each["path"]) for each in some]


def curate(
    run: Run,
    neighbours: Neighbours,
    representatives: int = REPRESENTATIVES,
    limit: float | None = None,
    labels: Sequence[str] = (),
) -> Curation:
    """Judge all images of a run by their neighbours. Holds all vectors and lists.

    representatives: how many images to choose that stand for all.
    limit: distance up to which images are duplicates; None for what the distances say.
    labels: to choose from for each image by their texts, as a check of its own; none for no such check.

    Raises FruitpipeError where a part is missing or damaged, UserError where the limit is no distance, and as
    `zero_shot` does.
    """
    if limit is not None and not 0 <= limit < math.inf:
        raise UserError(f"{limit} is no distance up to which images are duplicates: give a number, such as 0.05.")
    lists = neighbours.read(run)
    shot = zero_shot(run, labels, lists.labels) if labels else None
    vectors = run.vector_parts
    duplicates = find_duplicates(lists, limit)
    voted, confidence, suspect = doubts(lists)
    distance = mean_distances(lists)
    errors, noise = reconstruction_errors(run, vectors)
    own = np.arange(len(lists.paths))
    chosen = np.zeros(len(own), bool)
    by = neighbours.metric
    with one_thread():
        every = np.concatenate([prepared(vectors.vectors(part), by) for part in range(len(vectors.files))])
        chosen[curation.farthest_first(every, representatives)] = True
    columns = {
        "path": lists.paths,
        "label": lists.labels,
        "outlier": np.fmax(np.fmax(in_medians(distance), in_medians(errors, noise)), 0.0).astype(np.float32),
        "neighbour_distance": nullable(distance),
        "reconstruction_error": nullable(errors),
        "label_suspect": suspect,
        "voted_label": voted,
        "confidence": confidence.astype(np.float32),
        "duplicate_of": lists.paths.take(pa.array(duplicates.centre, mask=duplicates.centre == own)),
        "representative": chosen,
    }
    table = pa.table(columns, schema=SCHEMA)
    if shot:
        for field, column in zip(OF_TEXTS, (shot.chosen, pa.array(shot.confidence), shot.agrees), strict=True):
            table = table.append_column(field, column)
    return Curation(table, duplicates, neighbours, shot)


def doubts(lists: Lists) -> tuple[pa.Array, NDArray[np.float64], NDArray[np.bool_]]:
    """The label that neighbours vote for, null where there are none, its share, and whether the label is doubtful."""
    encoded = lists.labels.dictionary_encode()
    labels = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    voted, confidence, own = curation.vote(labels, lists.positions.astype(np.int64))
    names = encoded.dictionary.take(pa.array(voted, mask=voted < 0))
    return names, confidence, (own <= FEW) & (confidence > MAJORITY)


def mean_distances(lists: Lists) -> NDArray[np.float64]:
    """Mean distance of each image to its neighbours, (n,); NaN where it has none."""
    there = np.isfinite(lists.distances)
    count = there.sum(axis=1)
    total = np.where(there, lists.distances, 0).sum(axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def in_medians(numbers: NDArray[np.float64], noise: float = 0.0) -> NDArray[np.float64]:
    """How many times the median each number is, up to the largest float32; NaN where they are unknown, or the median is
    mere rounding.

    noise: up to which number it is that.
    """
    known = numbers[np.isfinite(numbers)]
    median = float(np.median(known)) if len(known) else 0.0
    return np.minimum(numbers / median, LARGEST) if median > noise else np.full(len(numbers), np.nan)


def nullable(numbers: NDArray[np.float64]) -> pa.Array:
    return pa.array(numbers.astype(np.float32), mask=~np.isfinite(numbers))
