"""Accuracy of two classifiers with all features and with few components: what the reduction costs.

scikit-learn is imported where it is used: no other part of a run waits for it.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fruitpipe.numeric.one_thread import one_thread

SAMPLE = 2000
"""Images that are classified, at most: with 1280 features and 120 labels they cost 16 s of CPU time."""
FOLDS = 5
"""Of the cross-validation; a label with fewer images would be missing from some."""
FEWEST = 8
"""Components that are judged first."""
ITERATIONS = 200
"""Of the logistic regression, at most. With 8 components it may still be 0.004 short of its accuracy then."""
THREADS = 2
"""Spaces that are judged at once: each holds copies of its points."""


class Accuracy(BaseModel):
    """Accuracies of both classifiers in one space."""

    dimension: int
    nearest: float
    """from the nearest other image"""
    logistic: float
    """from a logistic regression, cross-validated"""


class Evaluation(BaseModel):
    """Accuracies with all features and with components only."""

    images: int
    """of a sample, evenly spaced"""
    labels: int
    """that they have"""
    left_out: int
    """labels with too few images in the sample"""
    chance: float
    """share of the most frequent label, which is right where a guess always names it"""
    full: Accuracy
    """with all features, as the PCA takes them"""
    reduced: list[Accuracy]
    """with 8, 16, 32 … and all k components"""


def evaluate(
    features: NDArray[np.floating], vectors: NDArray[np.floating], labels: NDArray[np.str_]
) -> Evaluation | None:
    """Accuracies with all features and with the first 8, 16, 32 … and k components.

    Parameters
    ----------
    features: (n, d), as the PCA takes them.
    vectors: (n, k), their components, whose first columns are those of a PCA that keeps fewer; (n, 0) without a PCA.
    labels: (n,)

    Labels with fewer than FOLDS images are left out; None where fewer than two labels remain.
    """
    from sklearn.exceptions import ConvergenceWarning

    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    frequent = counts >= FOLDS
    if frequent.sum() < 2:
        return None
    chosen = frequent[codes]
    codes = codes[chosen]
    spaces = [features[chosen], *(vectors[chosen, :k] for k in sizes(vectors.shape[1]))]
    with one_thread(), warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        full, *reduced = pool.map(lambda space: accuracy(space, codes), spaces)
    return Evaluation(
        images=len(codes),
        labels=int(frequent.sum()),
        left_out=int((~frequent).sum()),
        chance=float(counts.max() / len(codes)),
        full=full,
        reduced=reduced,
    )


def sizes(components: int) -> list[int]:
    """Numbers of components that are judged: doubled from 8, then all; empty where there are none."""
    doubled = [FEWEST << i for i in range(components.bit_length())]
    return [*(k for k in doubled if k < components), *([components] if components else [])]


def accuracy(space: NDArray[np.floating], labels: NDArray[np.intp]) -> Accuracy:
    """Accuracy of both classifiers for points of shape (n, p) with labels of shape (n,)."""
    points = compact(space.astype(np.float64))
    return Accuracy(
        dimension=space.shape[1], nearest=nearest_accuracy(points, labels), logistic=logistic_accuracy(points, labels)
    )


def compact(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, p) in coordinates of the space that they span: (n, min(n, p)).

    It is a rotation: distances stay, and so does what a logistic regression with a penalty on its squared weights says.
    """
    if points.shape[1] <= len(points):
        return points
    _, rotated = np.linalg.qr(points.T)
    return rotated.T


def nearest_accuracy(points: NDArray[np.float64], labels: NDArray[np.intp]) -> float:
    """Share of images whose nearest other image, by Euclidean distance, has their label."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False)  # never a point itself
    return float(np.mean(labels[found[:, 0]] == labels))


def logistic_accuracy(points: NDArray[np.float64], labels: NDArray[np.intp]) -> float:
    """Share of images whose label a multinomial logistic regression finds that was fitted on the other four of five
    stratified folds.

    The penalty is scikit-learn's default, C = 1, in every space. Components are in the units of the features: k of them
    at this penalty are the full space with no weight on the others.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(LogisticRegression(max_iter=ITERATIONS), points, labels, cv=folds)
    return float(np.mean(predicted == labels))
