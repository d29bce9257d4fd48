"""What bf16 does to features: those of some images in both precisions, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config import PcaConfig
from fruitpipe.numeric import pca
from fruitpipe.numeric.evaluation import nearest
from fruitpipe.numeric.moments import Moments
from fruitpipe.result.manifest import Comparison, Precise

SAMPLE = 200
"""Images that are compared, at most."""


def compare(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], labels: Sequence[str | None], options: PcaConfig | None
) -> Comparison:
    """Cosines between features of the same images (n, d), n >= 1, and what each precision comes to on its own.

    options: of the PCA, None where there is none.
    """
    a, b = exact.astype(np.float64), rounded.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), lengths, out=np.ones(len(a)), where=lengths > 0)
    return Comparison(
        images=len(exact),
        cosine=float(cosines.mean()),
        worst_cosine=float(cosines.min()),
        float32=judge(exact, labels, options),
        bf16=judge(rounded, labels, options),
    )


def judge(features: NDArray[np.float32], labels: Sequence[str | None], options: PcaConfig | None) -> Precise:
    """Components that these features need, and how often the nearest other vector has the same label."""
    vectors = features
    if options:
        fitted = pca.fit(Moments.of(features), options.components, options.variance, options.scale)
        vectors = fitted.transform(features)
    known = np.array([label or "" for label in labels])
    judged = nearest(vectors.astype(np.float64), known) if len(set(labels)) > 1 else None
    return Precise(components=vectors.shape[1], nearest=judged)
