"""Reconstruction errors of a run's images, computed again from the features that are still there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.numeric.pca import Pca
from fruitpipe.result.compaction import read_merges, with_merged
from fruitpipe.result.runs import Run
from fruitpipe.storage import layout
from fruitpipe.tasks.feature_part import read_facts, read_features
from fruitpipe.tasks.vector_part import Vectors
from fruitpipe.vision.bad_image import OK

SAME = 1e-4
"""How far a vector that is computed again may be from the published one, in its length: it is of the same feature."""


def reconstruction_errors(run: Run, vectors: Vectors) -> NDArray[np.float64]:
    """Reconstruction error of each image, (n,); NaN where its features are gone, and without a PCA.

    Manifests name feature parts, which may hold other versions of an image, too: the error of an image is that of the
    feature which gives its vector.
    """
    errors = np.full(len(vectors), np.nan)
    pca = run.model.pca
    if not isinstance(pca, Pca):
        return errors
    published = np.concatenate([vectors.vectors(number) for number in range(len(vectors.files))])
    for name in sorted(with_merged(run.manifest.feature_parts, read_merges(run.store))):
        facts = read_facts(run.store, name) if layout.is_feature_part(name) else None
        if facts is None:
            continue
        facts = facts.filter(pa.compute.equal(facts["status"], OK))
        positions = vectors.positions_of(facts["path"].combine_chunks()) if len(facts) else np.zeros(0, np.int64)
        facts, positions = facts.filter(pa.array(positions >= 0)), positions[positions >= 0]
        if not len(facts):
            continue
        try:
            features = read_features(run.store, facts["part"], facts["row"])
        except FruitpipeError:
            continue  # deleted meanwhile, or damaged
        if features.shape[1] != pca.width:
            continue
        with one_thread():
            again, found = pca.transform_with_error(features)
        there = published[positions]
        apart = np.linalg.norm(again - there, axis=1) <= SAME * np.maximum(np.linalg.norm(there, axis=1), 1)
        errors[positions[apart]] = found[apart]
    return errors
