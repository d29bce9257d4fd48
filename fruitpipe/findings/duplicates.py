"""Near-duplicates of a run: groups of images that are nearer to one another than is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fruitpipe.findings.neighbours import Lists
from fruitpipe.numeric import curation


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates; positions are those of the lists that they come from."""

    limit: float
    """distance up to which two images are duplicates"""
    usual: float
    """median distance of an image to its nearest"""
    centre: NDArray[np.int64]
    """(n,): the image that stands for the group of each; its own position where it stands for itself"""
    cut_off: int
    """images all of whose listed neighbours are duplicates, so that they may have more"""

    @property
    def groups(self) -> list[NDArray[np.int64]]:
        """Positions of the images of each group of several, that which stands for it first; largest groups first."""
        order = np.argsort(self.centre, kind="stable")
        bounds = np.flatnonzero(np.diff(self.centre[order])) + 1
        several = [group for group in np.split(order, bounds) if len(group) > 1]
        led = []
        for group in several:
            centre = self.centre[group[0]]
            led.append(np.concatenate([[centre], group[group != centre]]))
        return sorted(led, key=lambda group: (-len(group), group[0]))


def find_duplicates(lists: Lists, limit: float | None = None) -> Duplicates:
    """Groups of images that are at most `limit` from one another, or from others of the group, as far as their lists of
    neighbours go.

    limit: None for the one that the distances themselves give (`numeric.curation.duplicate_limit`).
    """
    nearest = lists.distances[:, 0] if lists.distances.size else np.zeros(0, np.float32)
    limit = curation.duplicate_limit(nearest) if limit is None else limit
    rows, ranks = np.nonzero((lists.distances <= limit) & (lists.positions >= 0))
    others = lists.positions[rows, ranks].astype(np.int64)
    root = curation.groups(len(lists.paths), rows, others)
    known = nearest[np.isfinite(nearest)]
    usual = float(np.median(known)) if len(known) else 0.0
    whole = lists.distances.shape[1] >= len(lists.paths) - 1
    cut_off = 0 if whole else int((lists.distances[:, -1] <= limit).sum())
    return Duplicates(limit, usual, curation.centres(root, rows, others), cut_off)
