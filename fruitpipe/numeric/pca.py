"""Standardise and rotate: the exact PCA of a matrix, from its moments alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fruitpipe.numeric.moments import Float64, Moments

DEFAULT_VARIANCE = 0.95
LARGEST = np.finfo(np.float32).max


class Linear(NamedTuple):
    """m linear functions of a vector."""

    weights: Float64
    """(m, k)"""
    offsets: Float64
    """(m,)"""

    def of(self, vectors: NDArray[np.floating]) -> Float64:
        """Their values, (n, m), of vectors (n, k)."""
        return np.asarray(vectors.astype(np.float64) @ self.weights.T + self.offsets)


@dataclass(frozen=True, repr=False)
class Pca:
    """A fitted scaler and PCA: y = (x - mean) / scale @ components.T, as scikit-learn's StandardScaler and PCA."""

    mean: Float64
    """(d,)"""
    scale: Float64
    """(d,): standard deviations (population, ddof 0); 1 for constant features and where scaling is off"""
    components: Float64
    """(k, d): orthonormal rows, largest variance first; the largest absolute loading of each is positive"""
    explained_variance: Float64
    """(d,): variance along every component, kept or not (sample variance, ddof 1), largest first"""

    def __repr__(self) -> str:
        return f"Pca({len(self.mean)} to {self.length}, {100 * self.explained:.1f} % of the variance)"

    @property
    def width(self) -> int:
        """d, of a feature."""
        return len(self.mean)

    @property
    def length(self) -> int:
        """k, of a vector."""
        return len(self.components)

    @property
    def explained(self) -> float:
        """Share of the variance that the k components explain."""
        return float(self.explained_variance_ratio[: self.length].sum())

    @property
    def explained_variance_ratio(self) -> Float64:
        """(d,): shares of the total variance; zeros where there is none."""
        total = self.explained_variance.sum()
        return self.explained_variance / total if total > 0 else np.zeros_like(self.explained_variance)

    @property
    def noise(self) -> float:
        """A reconstruction error that is mere rounding, as where all components are kept, is at most this: a millionth
        of the mean variance of a standardised feature."""
        return 1e-6 * float(self.explained_variance.sum()) / self.width

    def standardise(self, features: NDArray[np.floating]) -> Float64:
        """(n, d) features, centred and scaled."""
        standard = features.astype(np.float64)
        standard -= self.mean
        standard /= self.scale
        return standard

    def transform(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Vectors of shape (n, k), float32, of features of shape (n, d).

        Raises ValueError for another d, and where a number of a vector is beyond float32.
        """
        vectors, _ = self.transform_with_error(features)
        if not np.isfinite(vectors).all():
            raise ValueError("features are too far from those of the fit: their vectors are beyond float32.")
        return vectors

    def products(self, directions: Float64) -> Linear:
        """What vectors tell of the products of features with directions, (m, d).

        Components, their scale undone, rebuild of a vector y the feature mean + scale * (y @ components), whose product
        with a direction t is y @ components @ (scale * t) + mean @ t. Of all linear functions of y, this is the one
        that is nearest to x @ t by least squares, on the features of the fit: components are eigenvectors of their
        covariance, so that what they leave out does not correlate with y.
        """
        return Linear(directions * self.scale @ self.components.T, directions @ self.mean)

    def transform_with_error(self, features: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors (n, k) and the reconstruction error of each row (n,): mean squared difference, over the standardised
        features, between the row and what its k components can rebuild.

        Rows of `components` are orthonormal, so by Pythagoras the squared error is |z|² - |y|². An error beyond float32
        is its largest number; a vector beyond it is not finite.
        """
        check_width(features, len(self.mean))
        with np.errstate(over="ignore", invalid="ignore"):
            standard = self.standardise(features)
            vectors = standard @ self.components.T
            squared = np.einsum("ij,ij->i", standard, standard) - np.einsum("ij,ij->i", vectors, vectors)
            error = np.minimum(np.maximum(squared, 0) / len(self.mean), LARGEST)
            return vectors.astype(np.float32), error.astype(np.float32)


@dataclass(frozen=True)
class Unreduced:
    """Stands in for a Pca where there is none: the features are the vectors."""

    length: int
    """d, of a feature, which is the vector"""
    explained: ClassVar[None] = None
    explained_variance: ClassVar[Float64] = np.empty(0)
    explained_variance_ratio: ClassVar[Float64] = np.empty(0)

    @property
    def width(self) -> int:
        """d, of a feature."""
        return self.length

    def transform(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """The features, float32. Raises ValueError for another d."""
        return self.transform_with_error(features)[0]

    def products(self, directions: Float64) -> Linear:
        """The products of features, which are the vectors, with directions, (m, d)."""
        return Linear(directions, np.zeros(len(directions)))

    def transform_with_error(self, features: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The features (n, d), and for each row (n,) the error 0: nothing is lost."""
        check_width(features, self.length)
        return features.astype(np.float32, copy=False), np.zeros(len(features), np.float32)


def check_width(features: NDArray[np.floating], dimension: int) -> None:
    """Raises ValueError where features are not of shape (n, d)."""
    if features.ndim != 2 or features.shape[1] != dimension:
        raise ValueError(f"expected features of shape (n, {dimension}), got {features.shape}.")


def fit(moments: Moments, components: int | None = None, variance: float | None = None, scale: bool = True) -> Pca:
    """Fit scaler and PCA.

    Parameters
    ----------
    moments: of the (n, d) features, n >= 1.
    components: how many to keep, 1 or more.
    variance: keep the fewest that explain this share of it, above 0 and at most 1. With both, the smaller number; with
        neither, 0.95.
    scale: divide by standard deviations first, which makes this the PCA of the correlation matrix.

    Never more components are kept than the rank of the features (at most n - 1), and always at least one: a single
    image, or equal ones, give one component and the vector [0]. Constant features get scale 1 and no weight.

    Raises ValueError if there are no rows, their squares are beyond float64, or there is no such number or share.
    """
    check(components, variance)
    if moments.count < 1:
        raise ValueError("no features to fit on.")
    if not np.isfinite(moments.scatter).all():
        raise ValueError("features are too large: their squares are beyond float64.")
    if components is None and variance is None:
        variance = DEFAULT_VARIANCE
    population = np.diag(moments.scatter) / moments.count
    constant = is_constant(population, moments.mean, moments.count)
    deviations = np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, population)))
    scales = deviations if scale else np.ones_like(deviations)
    covariance = moments.scatter / max(moments.count - 1, 1)
    covariance /= np.outer(scales, scales)
    covariance[constant] = covariance[:, constant] = 0.0
    eigenvalues, eigenvectors = eigen(covariance, max(moments.count - 1, 1))
    rank = rank_of(eigenvalues, moments.count)
    eigenvalues[rank:] = 0.0
    kept = choose(eigenvalues, rank, components, variance)
    rows = np.ascontiguousarray(fix_signs(eigenvectors[:, :kept].T))
    return Pca(moments.mean, scales, rows, eigenvalues)


def check(components: object, variance: object) -> None:
    """Raise ValueError where so many components cannot be kept, or a variance is no share."""
    if components is not None and not (isinstance(components, int | np.integer) and components >= 1):
        raise ValueError(f"components must be a whole number from 1, or None: {components!r} is not.")
    if variance is not None and not (isinstance(variance, float | int | np.floating) and 0 < variance <= 1):
        raise ValueError(f"variance must be above 0 and at most 1, or None: {variance!r} is not.")


def eigen(covariance: Float64, rank: int) -> tuple[Float64, Float64]:
    """Eigenvalues (d,), largest first, and the eigenvectors as columns, (d, d), or only the first `rank` of them.

    rank: at most this many eigenvalues are not zero.

    Where these are few, they are those of the matrix within its range, which its product with `rank` random vectors
    spans; the second product gives small eigenvalues the digits that the first has lost (Halko, Martinsson and Tropp,
    "Finding structure with randomness", SIAM Review, 2011, which is exact where the rank is that of the matrix).
    """
    dimension = len(covariance)
    if 4 * rank >= dimension:
        values, vectors = np.linalg.eigh(covariance)
    else:
        basis = np.random.default_rng(0).standard_normal((dimension, rank))
        for _ in range(2):
            basis, _ = np.linalg.qr(covariance @ basis)
        values, within = np.linalg.eigh(basis.T @ covariance @ basis)
        vectors = basis @ within
    found = np.zeros(dimension)
    found[: len(values)] = np.maximum(values[::-1], 0.0)
    return found, vectors[:, ::-1]


def choose(eigenvalues: Float64, rank: int, components: int | None, variance: float | None) -> int:
    """How many components to keep: at least 1, at most the rank, the smaller of what was asked for."""
    kept = rank if components is None else min(components, rank)
    if variance is not None and rank:
        ratios = np.cumsum(eigenvalues) / eigenvalues.sum()
        kept = min(kept, components_for(ratios, variance))
    return max(kept, 1)


def components_for(cumulative: Sequence[float] | Float64, variance: float) -> int:
    """The fewest components whose cumulative ratio reaches `variance`, or one more than there are where none does.

    The slack forgives a sum that rounds below 1.
    """
    return int(np.searchsorted(cumulative, variance - 1e-12) + 1)


def rank_of(eigenvalues: Float64, count: int) -> int:
    """Numerical rank, as numpy.linalg.matrix_rank judges it, and never more than the n - 1 that centring leaves."""
    tolerance = eigenvalues[0] * max(count, len(eigenvalues)) * np.finfo(np.float64).eps
    return int(min((eigenvalues > tolerance).sum(), count - 1))


def is_constant(variance: Float64, mean: Float64, count: int) -> NDArray[np.bool_]:
    """Features whose variance is within the rounding error of computing it, by the bound of scikit-learn's scaler."""
    eps = np.finfo(np.float64).eps
    return np.asarray(variance <= count * eps * variance + (count * mean * eps) ** 2)


def fix_signs(rows: Float64) -> Float64:
    """Turn each row so that its largest absolute entry is positive: eigenvectors are determined up to their sign."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return rows * np.where(largest < 0, -1.0, 1.0)
