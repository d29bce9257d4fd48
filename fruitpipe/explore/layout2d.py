"""A layout of vectors in the plane in which neighbours stay neighbours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

LANDMARKS = 20_000
"""Images that are laid out together, evenly spaced; each other one is put among those that it is nearest to."""
COMPONENTS = 50
"""That a layout sees: later ones hardly change who is near whom, and cost as much."""
FEWEST = 10
"""Images that have a layout: fewer have no neighbourhoods to keep."""
NEAREST = 3
"""Landmarks that decide where another image is."""

Vectors = NDArray[np.float32]


def lay_out(landmarks: Vectors) -> Callable[[Vectors], Vectors] | None:
    """Places of vectors, shape (n, k), as points, (n, 2), once the landmarks have theirs.

    None where there is no layout: landmarks are too few, or have one component, or the extra `explore` is missing.
    """
    if len(landmarks) < FEWEST or landmarks.shape[1] < 2 or find_spec("openTSNE") is None:
        return None
    from sklearn.neighbors import NearestNeighbors

    seen = np.ascontiguousarray(landmarks[:, :COMPONENTS])
    points = embedded(seen)
    index = NearestNeighbors(n_neighbors=NEAREST, algorithm="brute").fit(seen)

    def place(vectors: Vectors) -> Vectors:
        """At the mean of the nearest landmarks, each weighted by the inverse of its squared distance."""
        distance, nearest = index.kneighbors(np.ascontiguousarray(vectors[:, :COMPONENTS]))
        weights = 1 / np.maximum(distance, np.finfo(np.float32).tiny ** 0.5) ** 2
        weights /= weights.sum(axis=1, keepdims=True)
        placed: Vectors = np.einsum("nk,nkd->nd", weights, points[nearest]).astype(np.float32)
        return placed

    return place


def embedded(vectors: Vectors) -> Vectors:
    """Points of a t-SNE, (n, 2).

    On one thread: how many there are decides the order of additions, and so the layout.
    """
    from openTSNE import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points = TSNE(perplexity=perplexity, neighbors="exact", random_state=0, n_jobs=1).fit(vectors)
    return np.asarray(points, np.float32)
