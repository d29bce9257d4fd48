"""What the neighbours of a run's images say of them, for its page: doubtful labels, near-duplicates, images far off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fruitpipe.explore.facts import FAR, MOST_LISTED, Entry, Facts, Grouping, Listing, Measure, levels
from fruitpipe.explore.nearest import Nearest
from fruitpipe.findings import find_duplicates, find_neighbours
from fruitpipe.findings.curation import doubts, in_medians, mean_distances
from fruitpipe.result.runs import Run

MOST_GROUPS = 200
"""Of near-duplicates, that are told apart."""


def judge(facts: Facts, run: Run) -> Facts:
    """The same facts, with what `curate` finds by the neighbours of a run, where it has any.

    Raises FruitpipeError where a part is missing or damaged.
    """
    neighbours = find_neighbours(run.store, run.manifest)
    if neighbours is None:
        return facts
    lists = neighbours.read(run)
    voted, confidence, suspect = doubts(lists)
    far = np.nan_to_num(in_medians(mean_distances(lists)))
    groups = find_duplicates(lists).groups
    of_group = np.full(len(far), len(groups))
    for number, group in enumerate(groups):
        of_group[group] = number
    doubtful = np.flatnonzero(suspect)
    doubtful = doubtful[np.argsort(-confidence[doubtful], kind="stable")]
    copies = [(row, number) for number, group in enumerate(groups, start=1) for row in group.tolist()]
    farthest = np.argsort(-far, kind="stable")[:MOST_LISTED].tolist()
    whose = f"the {neighbours.k} nearest by {neighbours.metric}"
    listings = [
        Listing(
            "Doubtful labels",
            f"Most of {whose} have one other label",
            [Entry(row, f"{voted[row].as_py()} {confidence[row]:.0%}") for row in doubtful[:MOST_LISTED].tolist()],
            len(doubtful),
        ),
        Listing(
            "Near-duplicates",
            "Images that are nearer to one another than is usual, by groups, the one that stands for it first",
            [Entry(row, f"group {number}") for row, number in copies[:MOST_LISTED]],
            len(copies),
        ),
        Listing(
            "Far from all",
            f"Farthest from {whose}, as multiples of the usual distance",
            [Entry(row, f"{far[row]:.1f}") for row in farthest],
            len(farthest),
        ),
    ]
    measures = [
        Measure("doubt about the label", levels(np.where(suspect, confidence, 0), 1), 100, "% of the neighbours"),
        Measure("distance to the nearest", levels(far, FAR), FAR, "times the usual"),
    ]
    return replace(
        facts,
        groupings=[*facts.groupings, *duplicates(of_group, len(groups))],
        measures=[*measures, *facts.measures],
        listings=[*listings, *facts.listings],
        nearest=Nearest(neighbours.metric, lists),
    )


def duplicates(group: NDArray[np.int64], count: int) -> list[Grouping]:
    """Near-duplicates, the largest groups told apart, where there are any.

    group: (n,): number of each image's group, from the largest on; `count` where it is in none.
    """
    if not count:
        return []
    names = [f"group {each + 1}" for each in range(min(count, MOST_GROUPS))]
    names += ["a smaller group"] if count > MOST_GROUPS else []
    told = np.where(group < count, np.minimum(group, MOST_GROUPS), len(names))
    return [Grouping("near-duplicates", [*names, "in no group"], told.astype(np.uint8), rest=True)]
