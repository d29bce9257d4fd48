"""Real photographs among which near-duplicates and wrong labels were planted: how many of them are found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command import run
from planted import plant, swapped
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from fruitpipe.findings import Curation, curate, find_neighbours
from fruitpipe.result.runs import open_run
from fruitpipe.sinks import vectors_of
from fruitpipe.storage.store import LocalStore

pytestmark = pytest.mark.slow


def curated(images: Path, out: Path) -> tuple[Curation, np.ndarray]:
    run(images, out, "neighbours.k=12")
    done = open_run(LocalStore(str(out)))
    neighbours = find_neighbours(done.store, done.manifest)
    assert neighbours
    parts = done.vector_parts
    return curate(done, neighbours), np.concatenate([vectors_of(part) for part in parts.each(["vector"])])


def test_copies_are_grouped_with_their_sources_and_with_nothing_else(data: Path, tmp_path: Path) -> None:
    planted = plant(data / "fruits-360/Sample", tmp_path / "images")
    found, _ = curated(tmp_path / "images", tmp_path / "out")
    groups = [{Path(found.table["path"][i].as_py()).name for i in group.tolist()} for group in found.duplicates.groups]
    right = Counter(
        kind for copy, (source, kind) in planted.items() if any({copy, source} <= group for group in groups)
    )
    assert right["quality 95"] >= 9
    assert right["resized 2"] >= 7
    strays = [group for group in groups if len({planted.get(name, (name,))[0] for name in group}) > 1]
    assert len(strays) <= len(groups) / 5


def test_wrong_labels_are_found_as_by_others(data: Path, tmp_path: Path) -> None:
    from cleanlab.filter import find_label_issues

    wrong = swapped(data / "fruits-360/Sample", tmp_path / "images", 0.02)
    found, vectors = curated(tmp_path / "images", tmp_path / "out")
    labels = np.array(found.table["label"].to_pylist())
    truth = np.array([Path(path).name in wrong for path in found.table["path"].to_pylist()])
    suspect = np.asarray(found.table["label_suspect"])
    assert truth.sum() == 10
    assert (suspect & truth).sum() >= 9
    assert (suspect & ~truth).sum() <= 2

    _, others = NearestNeighbors(n_neighbors=12, metric="cosine", algorithm="brute").fit(vectors).kneighbors()
    outvoted = [
        sum(labels[row] == own) <= 1 and Counter(labels[row]).most_common(1)[0][1] > 6
        for row, own in zip(others, labels, strict=True)
    ]
    assert suspect.tolist() == outvoted

    _, codes = np.unique(labels, return_inverse=True)
    model = KNeighborsClassifier(12, metric="cosine", algorithm="brute")
    doubted = find_label_issues(codes, cross_val_predict(model, vectors, codes, cv=5, method="predict_proba"))
    assert (suspect & truth).sum() >= (doubted & truth).sum()
    assert (suspect & ~truth).sum() <= (doubted & ~truth).sum() + 1
