"""What distances say of images: which are the same, which labels are doubtful or fit, which few stand for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fruitpipe.numeric.neighbours import MEASURED, squares

DEVIATIONS = 2.0
"""By how many standard deviations of the logarithm the distance of near-duplicates is smaller than usual."""
NORMAL = 1.4826
"""Standard deviation of a normal distribution in terms of its median absolute deviation."""
FEWEST = 8
"""Distances that tell what is usual."""


def duplicate_limit(nearest: NDArray[np.floating]) -> float:
    """The distance up to which two images count as near-duplicates, from the distance of each to its nearest, (n,).

    Logarithms of distances are taken for normal. Their spread is that of the larger half, as duplicates are in the
    other one. The limit lies two standard deviations below the median: in images without duplicates, one of 44 has such
    a neighbour. 0, so that only equal vectors are duplicates, where there are fewer than FEWEST distances.
    """
    known = nearest[np.isfinite(nearest) & (nearest > 0)]
    if len(known) < FEWEST:
        return 0.0
    logarithms = np.log(known.astype(np.float64))
    usual = np.median(logarithms)
    spread = NORMAL * np.median(logarithms[logarithms >= usual] - usual)
    return float(np.exp(usual - DEVIATIONS * spread))


def groups(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest position in the group of each of `count` images, where pairs (left, right) are in one group."""
    root = np.arange(count)
    while (unequal := root[left] != root[right]).any():
        left, right = left[unequal], right[unequal]
        np.minimum.at(root, np.maximum(root[left], root[right]), np.minimum(root[left], root[right]))
        while (root[root] != root).any():
            root = root[root]
    return root


def centres(root: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of the image that stands for the group of each, (n,): that with most pairs, and of equal ones the first.

    root: as `groups` gives it, (n,).
    """
    links = np.bincount(np.concatenate([left, right]), minlength=len(root))
    order = np.lexsort((np.arange(len(root)), -links, root))
    first = np.ones(len(root), bool)
    first[1:] = root[order][1:] != root[order][:-1]
    centre = np.empty(len(root), np.int64)
    centre[root[order][first]] = order[first]
    return centre[root]


def vote(
    labels: NDArray[np.int64], neighbours: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The label that most neighbours of each image have, (n,), of equal ones the nearest's; their share, (n,), and that
    of the neighbours which have its own label, (n,).

    Only as many neighbours are asked as there are other images of its own label, so that a rare label is not outvoted
    by others for being rare. -1, 0 and 0 where nobody is to be asked.

    labels: (n,), numbered from 0; -1 for none.
    neighbours: (n, k), positions, nearest first; -1 for none.
    """
    others = np.bincount(labels[labels >= 0], minlength=1)[labels] - 1
    asked = (np.arange(neighbours.shape[1]) < others[:, None]) & (neighbours >= 0) & (labels >= 0)[:, None]
    codes = np.where(asked, labels[neighbours], -1)
    votes = np.stack([((codes == codes[:, [rank]]) & (codes >= 0)).sum(axis=1) for rank in range(codes.shape[1])], 1)
    best, rows = votes.argmax(axis=1), np.arange(len(labels))
    total = np.maximum((codes >= 0).sum(axis=1), 1)
    own = ((codes == labels[:, None]) & (codes >= 0)).sum(axis=1)
    return codes[rows, best], votes[rows, best] / total, own / total


def best_of(cosines: NDArray[np.float64], scale: float | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label that has the largest of the cosines of each image, (n, m), m >= 2; and how sure that is, (n,): its
    share in a softmax of the cosines times a scale, else how much larger its cosine is than the next."""
    best = cosines.argmax(axis=1)
    below = cosines - cosines.max(axis=1, keepdims=True)
    if scale is not None:
        return best, 1 / np.exp(scale * below).sum(axis=1)
    return best, -np.partition(below, -2, axis=1)[:, -2]


def farthest_first(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions of at most `count` vectors of (n, d), n >= 1, that stand for all: the one nearest to the mean, and then
    always the one that is farthest from those chosen, as long as it is another one.

    No choice of as many leaves any vector less than half as far from all of them (Gonzalez, "Clustering to minimize the
    maximum intercluster distance", Theoretical Computer Science, 1985).
    """
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    chosen = [int(apart(vectors, mean).argmin())]
    least = apart(vectors, vectors[chosen[0]])
    while len(chosen) < count and least.max() > 0:
        chosen.append(int(least.argmax()))
        np.minimum(least, apart(vectors, vectors[chosen[-1]]), out=least)
    return np.array(chosen)


def apart(vectors: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distance of each vector of (n, d) to one of (d,): 0 for equal ones alone, as no lengths are compared."""
    rows = max(MEASURED // len(centre), 1)
    return np.concatenate([squares(vectors[first : first + rows] - centre) for first in range(0, len(vectors), rows)])
