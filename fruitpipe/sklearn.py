"""The scaler and PCA of a run as a transformer of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from fruitpipe.errors import UserError
from fruitpipe.model.model import Model
from fruitpipe.numeric import pca
from fruitpipe.numeric.moments import added
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.tasks.reduce import BLOCK, moments_of, vector_parts

Rows = NDArray[np.floating]


class FruitpipePCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardise and rotate features: what a run does with those of its images, in order of their paths, to the bit.

    Parameters
    ----------
    n_components: how many to keep, 1 or more, cut to the rank of the features.
    variance: keep the fewest that explain this share of it, above 0 and at most 1. With both, the smaller number; with
        neither, 0.95.
    scale: divide by standard deviations first.

    Attributes
    ----------
    mean_, scale_: (d,), float64
    components_: (k, d), float64, orthonormal rows, largest variance first
    explained_variance_: (d,), float64, of all components, kept or not
    """

    def __init__(self, n_components: int | None = None, *, variance: float | None = None, scale: bool = True) -> None:
        self.n_components = n_components
        self.variance = variance
        self.scale = scale

    @classmethod
    def of(cls, model: Model) -> Self:
        """The fitted transformer of a saved model. Raises UserError where it has no PCA."""
        if isinstance(model.pca, Unreduced):
            raise UserError(f"{model!r} has no PCA: its vectors are the features, and there is nothing to transform.")
        made = cls(model.pca.length)
        made._take(model.pca)
        made.n_features_in_ = model.pca.width
        return made

    def fit(self, X: Rows, y: object = None) -> Self:
        """Fit on features (n, d). Raises ValueError as all estimators do."""
        pca.check(self.n_components, self.variance)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C")
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            total = added(moments_of(blocks(part)) for part in parts(rows))
            self._take(pca.fit(total, self.n_components, self.variance, self.scale))
        return self

    def transform(self, X: Rows) -> NDArray[np.float32]:
        """Vectors (n, k) of features (n, d). Raises ValueError for another d, and for vectors beyond float32."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=False)
        fitted = Pca(self.mean_, self.scale_, self.components_, self.explained_variance_)
        with one_thread():
            return np.concatenate([fitted.transform(block) for part in parts(rows) for block in blocks(part)])

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _take(self, fitted: Pca) -> None:
        self.mean_, self.scale_ = fitted.mean, fitted.scale
        self.components_, self.explained_variance_ = fitted.components, fitted.explained_variance

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def parts(rows: Rows) -> list[Rows]:
    """Rows as the vector parts of a run have them."""
    return np.split(rows, np.cumsum(vector_parts(*rows.shape))[:-1])


def blocks(part: Rows) -> Iterator[Rows]:
    """Rows of a part as tasks take them."""
    return (part[first : first + BLOCK] for first in range(0, len(part), BLOCK))
