"""Reconstruction errors of a run's images, computed again from the features that are still there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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


def reconstruction_errors(run: Run, vectors: Vectors) -> tuple[NDArray[np.float64], float]:
    """Reconstruction error of each image, (n,), NaN where its features are gone, and without a PCA; and up to which
    error it is mere rounding.

    Manifests name feature parts, which may hold other versions of an image, too: the error of an image is that of the
    feature which gives its vector.
    """
    errors = np.full(len(vectors), np.nan)
    names = filter(layout.is_feature_part, sorted(with_merged(run.manifest.feature_parts, read_merges(run.store))))
    parts = [facts.filter(pc.equal(facts["status"], OK)) for name in names if (facts := read_facts(run.store, name))]
    if not parts or not isinstance(pca := run.model.pca, Pca):
        return errors, 0.0
    published = np.concatenate([vectors.vectors(number) for number in range(len(vectors.files))])
    paths = pa.chunked_array([chunk for facts in parts for chunk in facts["path"].chunks], pa.string())
    positions = vectors.positions_of(paths.combine_chunks())
    for facts, places in zip(parts, np.split(positions, np.cumsum([len(facts) for facts in parts])[:-1]), strict=True):
        there = places >= 0
        if not there.any():
            continue
        known, here = facts.filter(pa.array(there)), places[there]
        try:
            features = read_features(run.store, known["part"], known["row"])
        except FruitpipeError:
            continue  # damaged, or deleted meanwhile
        if features.shape[1] != pca.width:
            continue
        with one_thread():
            again, found = pca.transform_with_error(features)
        apart = np.linalg.norm(again - published[here], axis=1)
        same = apart <= SAME * np.maximum(np.linalg.norm(published[here], axis=1), 1)
        errors[here[same]] = found[same]
    return errors, pca.noise
