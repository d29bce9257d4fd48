"""A layout of vectors in the plane in which neighbours stay neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fruitpipe.numeric.one_thread import one_thread

LANDMARKS = 20_000
"""Images that are laid out together, evenly spaced; each other one is put among those that it is nearest to."""
COMPONENTS = 50
"""That a layout sees: later ones hardly change who is near whom, and cost as much."""
FEWEST = 10
"""Images that have a layout: fewer have no neighbourhoods to keep."""
ITERATIONS = 750
"""Of which the first 250 spread groups out: 1,000 take a third longer, and keep neighbours as well."""
NEAREST = 3
"""Landmarks that decide where another image is."""

Vectors = NDArray[np.float32]


def lay_out(landmarks: Vectors) -> Callable[[Vectors], Vectors] | None:
    """Places of vectors, shape (n, k), as points, (n, 2), once the landmarks have theirs.

    None where there is no layout: landmarks are too few, or have one component, or are all the same.
    """
    seen = np.ascontiguousarray(landmarks[:, :COMPONENTS])
    if len(seen) < FEWEST or seen.shape[1] < 2 or (seen == seen[0]).all():
        return None
    from sklearn.neighbors import NearestNeighbors

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
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with one_thread():
        points = TSNE(perplexity=perplexity, max_iter=ITERATIONS, random_state=0).fit_transform(vectors)
    return np.asarray(points, np.float32)
