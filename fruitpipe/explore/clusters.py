"""Clusters of the images: groups that the vectors themselves make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fruitpipe.explore.layout2d import COMPONENTS
from fruitpipe.numeric.one_thread import one_thread

MOST = 32
Vectors = NDArray[np.float32]


def cluster(landmarks: Vectors) -> Callable[[Vectors], NDArray[np.int64]]:
    """Numbers of the clusters of vectors, shape (n, k), by a k-means of the landmarks, n >= 1.

    As many as the square root of half the landmarks, MOST at most. On one thread, and so the same again.
    """
    from sklearn.cluster import KMeans

    seen = np.ascontiguousarray(landmarks[:, :COMPONENTS])
    distinct = len(np.unique(seen, axis=0))
    count = min(MOST, max(1, round((len(seen) / 2) ** 0.5)), distinct)
    with one_thread():
        means = KMeans(count, n_init=1, random_state=0).fit(seen)

    def numbers(vectors: Vectors) -> NDArray[np.int64]:
        with one_thread():
            return np.asarray(means.predict(np.ascontiguousarray(vectors[:, :COMPONENTS])), np.int64)

    return numbers


def by_size(
    cluster: NDArray[np.int64], label: NDArray[np.int64], labels: list[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Clusters of images, (n,), numbered from the largest on, and their names, each with its commonest label.

    label: (n,), numbers of labels.
    """
    _, cluster, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    names = []
    for number, each in enumerate(order.tolist(), start=1):
        among = np.bincount(label[cluster == each])
        commonest = int(among.argmax())
        mostly = f": {among[commonest] / counts[each]:.0%} {labels[commonest]}" if labels[commonest] else ""
        names.append(f"{number}{mostly}")
    return np.argsort(order)[cluster], names
