"""What a precision does to features: those of some images in it and in float32, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fruitpipe.config import PcaConfig
from fruitpipe.numeric import pca
from fruitpipe.numeric.evaluation import nearest_accuracy
from fruitpipe.numeric.moments import Moments

SAMPLE = 200
"""Images that are compared, at most."""


class Precise(BaseModel):
    """What features of one precision come to."""

    components: int
    """k, by the config's PCA of these features alone"""
    nearest: float | None
    """accuracy of the nearest neighbour among their vectors; None without labels"""


class Comparison(BaseModel):
    """Features of a precision against those in float32, on a sample of the run's images."""

    images: int
    cosine: float
    """between both features of an image, mean"""
    worst_cosine: float
    float32: Precise
    rounded: Precise

    def __str__(self) -> str:
        """One line for people."""
        changes = f"{self.rounded.components} components instead of {self.float32.components}"
        if self.rounded.nearest is not None and self.float32.nearest is not None:
            right = f"{self.rounded.nearest:.1%} instead of {self.float32.nearest:.1%}"
            changes += f", nearest neighbours right for {right}"
        cosines = f"{self.cosine:.3f} on average, {self.worst_cosine:.3f} at worst"
        return f"cosine to float32 {cosines}, {changes} (each on {self.images} images alone)"


def compare(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], labels: Sequence[str | None], options: PcaConfig | None
) -> Comparison:
    """Cosines between features of the same images (n, d), n >= 1, and what each precision comes to on its own.

    options: of the PCA, None where there is none.
    """
    a, b = exact.astype(np.float64), rounded.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1).astype(np.float64)  # zeros have no direction: they are like zeros alone
    cosines = np.divide((a * b).sum(axis=1), lengths, out=equal, where=lengths > 0)
    return Comparison(
        images=len(exact),
        cosine=float(cosines.mean()),
        worst_cosine=float(cosines.min()),
        float32=measured(exact, labels, options),
        rounded=measured(rounded, labels, options),
    )


def measured(features: NDArray[np.float32], labels: Sequence[str | None], options: PcaConfig | None) -> Precise:
    """Components that these features need, and how often the nearest other vector has the same label."""
    vectors = features
    if options:
        fitted = pca.fit(Moments.of(features), options.components, options.variance, options.scale)
        vectors = fitted.transform(features)
    known = np.array([label or "" for label in labels])
    accuracy = nearest_accuracy(vectors.astype(np.float64), known) if len(set(labels)) > 1 else None
    return Precise(components=vectors.shape[1], nearest=accuracy)
