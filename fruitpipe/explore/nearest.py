"""The nearest images that a run's neighbours name, of as many images as a page has room for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fruitpipe.explore.columns import numbers
from fruitpipe.findings.neighbours import Lists
from fruitpipe.numeric.neighbours import Metric
from fruitpipe.tasks.reduce import spread

MOST = 12
"""Of each image."""
ROOM = 60_000
"""Images that have them: all, or those in lists and others between them, evenly spaced."""


@dataclass(frozen=True)
class Nearest:
    """Neighbours of all n images."""

    metric: Metric
    lists: Lists

    def columns(self, listed: Iterable[int]) -> tuple[dict[str, Any], dict[str, str]]:
        """What the page has to know of them, and its columns, of which it makes lists again.

        listed: rows of images that are listed.
        """
        count = len(self.lists.paths)
        rows = np.arange(count)
        if count > ROOM:
            first = np.unique(np.fromiter(listed, np.int64))[:ROOM]
            rows = np.union1d(first, spread(count, ROOM - len(first)))
        positions, distances = self.lists.positions[rows, :MOST], self.lists.distances[rows, :MOST]
        there = positions >= 0
        steps = np.where(there, positions - rows[:, None], 0).astype(np.int64)  # no image is its own neighbour
        farthest = float(distances[there].max(initial=0)) or 1.0
        shares = np.where(there, distances, 0) / farthest
        columns = {
            "nearest-steps": numbers(zigzag(steps).ravel()),
            "nearest-far": numbers(np.rint(255 * np.sqrt(shares)).astype(np.uint8).ravel()),
        }
        if count > ROOM:
            columns["nearest-rows"] = numbers(np.diff(rows, prepend=0).astype(np.uint32))
        return {
            "metric": self.metric,
            "each": positions.shape[1],
            "farthest": farthest,
            "all": count <= ROOM,
        }, columns


def zigzag(steps: NDArray[np.int64]) -> NDArray[np.uint32]:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …: small ones have bytes of zeros, whatever their sign."""
    return ((steps << 1) ^ (steps >> 63)).astype(np.uint32)
