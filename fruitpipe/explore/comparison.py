"""Two runs beside each other: which images moved, changed their labels, came and went."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fruitpipe.explore.facts import MOST_LISTED, Entry, Facts, Grouping, Listing, Measure, images_of, levels
from fruitpipe.result.runs import Run


def compare(facts: Facts, other: Run) -> Facts:
    """The same facts, with what differs from another run. Raises UserError where that one is damaged."""
    before = images_of(other)
    ours, theirs = facts.paths.to_pylist(), before.paths.to_pylist()
    rows = {path: row for row, path in enumerate(theirs)}
    match = np.array([rows.pop(path, -1) for path in ours], np.int64)
    both, came = np.flatnonzero(match >= 0), np.flatnonzero(match < 0)
    one_model = facts.manifest.model.fitted_by == other.manifest.model.fitted_by
    width = min(facts.components.shape[1], before.components.shape[1])
    old, new = before.components[match[both], :width], facts.components[both, :width]
    moved = np.linalg.norm(new - (old if one_model else aligned(old, new)), axis=1)
    usual = float(np.sqrt((facts.components[:, :width].var(axis=0)).sum())) or 1.0
    far = np.zeros(len(ours), np.float32)
    far[both] = moved / usual
    labels = [(before.names[before.label[match[row]]], facts.labels[facts.label[row]].name) for row in both.tolist()]
    changed = [(row, pair) for row, pair in zip(both.tolist(), labels, strict=True) if pair[0] != pair[1]]
    most = np.argsort(-far, kind="stable")[:MOST_LISTED].tolist()
    how = "" if one_model else ", after the best rotation, since another model gave those vectors"
    since = f"since run {other.id}"
    group = np.full(len(ours), 2, np.uint8)
    group[came] = 0
    group[[row for row, _ in changed]] = 1
    return replace(
        facts,
        compared=other.id,
        groupings=[*facts.groupings, Grouping(since, ["new", "another label", "there before"], group, rest=True)],
        measures=[*facts.measures, Measure(f"moved {since}", levels(far, 1), 1, "times the spread of all")],
        listings=[
            Listing(
                "Moved",
                f"Farthest from where they were, as multiples of the spread of all, by {width} components{how}",
                [Entry(row, f"{far[row]:.2f}") for row in most if far[row] > 0],
                int((far > 0).sum()),
            ),
            Listing(
                "Other label",
                f"Images with another label {since}",
                [Entry(row, f"{old or 'none'} → {new or 'none'}") for row, (old, new) in changed[:MOST_LISTED]],
                len(changed),
            ),
            Listing("Came", f"Images {since}", [Entry(row, "") for row in came[:MOST_LISTED].tolist()], len(came)),
            Listing(
                "Gone",
                f"Images of run {other.id} alone",
                [Entry(path, "") for path in list(rows)[:MOST_LISTED]],
                len(rows),
            ),
            *facts.listings,
        ],
    )


def aligned(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points (n, m), moved and turned, or mirrored, as a whole so that they are nearest to others (Procrustes)."""
    if not len(old):
        return old
    start, end = old.mean(axis=0, dtype=np.float64), new.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd((old - start).T.astype(np.float64) @ (new - end))
    turned: NDArray[np.float32] = ((old - start) @ (left @ right) + end).astype(np.float32)
    return turned
