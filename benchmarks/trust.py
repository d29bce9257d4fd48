"""Trustworthiness of a layout of many points, from some of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fruitpipe.tasks.reduce import spread


def trustworthiness(vectors: NDArray[np.float32], points: NDArray[np.float32], judged: int, nearest: int = 12) -> float:
    """As scikit-learn's, which needs memory for the square of all images: the mean over `judged` of these, evenly
    spaced, each with its ranks among all n. With n of them, the same number.

    vectors: (n, k). points: (n, 2).
    """
    count = len(vectors)
    penalty = 0
    rows = spread(count, judged)
    for row in rows.tolist():
        across, among = (squares(where, row) for where in (points, vectors))
        for other in np.argpartition(across, nearest)[:nearest].tolist():
            rank = 1 + int(np.count_nonzero(among < among[other]))
            penalty += max(rank - nearest, 0)
    return 1 - 2 * penalty / (len(rows) * nearest * (2 * count - 3 * nearest - 1))


def squares(points: NDArray[np.float32], row: int) -> NDArray[np.float32]:
    """Squared distances of all from one, (n,); itself is as far away as can be."""
    apart = points - points[row]
    found = np.einsum("nd,nd->n", apart, apart)
    found[row] = np.inf
    return np.asarray(found)
