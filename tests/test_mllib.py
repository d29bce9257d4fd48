"""MLlib's PCA as a second implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.ml.feature import PCA
from pyspark.ml.linalg import Vectors

from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import fit


def test_it_is_mllibs_pca_up_to_sign(spark: Any) -> None:
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(200, 12)) @ (chance.normal(size=(12, 12)) * 0.8 ** np.arange(12)) + 5
    frame = spark.createDataFrame([(Vectors.dense(row),) for row in rows], ["features"])
    model = PCA(k=5, inputCol="features", outputCol="vector").fit(frame)
    ours = fit(Moments.of(rows), components=5, scale=False)
    theirs = model.pc.toArray().T
    turn = np.sign(np.einsum("ij,ij->i", ours.components, theirs))
    np.testing.assert_allclose(ours.components * turn[:, None], theirs, atol=1e-5)
    np.testing.assert_allclose(ours.explained_variance_ratio[:5], model.explainedVariance.toArray(), atol=1e-6)
    # MLlib rotates without centring.
    vectors = np.array([row.vector.toArray() for row in model.transform(frame).select("vector").collect()])
    centred = vectors - rows.mean(axis=0) @ theirs.T
    np.testing.assert_allclose(ours.transform(rows) * turn, centred, atol=1e-5 * np.abs(centred).max())
