"""Features in bf16 beside those in float32."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, fruitpipe, manifest, one_line_error, run, vectors
from conftest import with_bf16, without_bf16
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fruitpipe.config import PcaConfig
from fruitpipe.numeric.precision import compare


def test_a_comparison_is_what_scikit_learn_says_of_each() -> None:
    random = np.random.default_rng(3)
    labels = [f"label {number % 6}" for number in range(60)]
    exact = random.normal(size=(60, 30)).astype(np.float32) + 2 * np.eye(30, dtype=np.float32)[np.arange(60) % 6]
    rounded = exact + random.normal(scale=0.8, size=exact.shape).astype(np.float32)
    found = compare(exact, rounded, labels, PcaConfig(variance=0.9))
    cosines = np.diag(cosine_similarity(exact, rounded))
    assert found.cosine == pytest.approx(cosines.mean())
    assert found.worst_cosine == pytest.approx(cosines.min())
    for features, ours in ((exact, found.float32), (rounded, found.rounded)):
        reduced = PCA(0.9).fit_transform(StandardScaler().fit_transform(features.astype(np.float64)))
        accuracy = cross_val_score(KNeighborsClassifier(1), reduced, labels, cv=LeaveOneOut()).mean()
        assert (ours.components, ours.nearest) == (reduced.shape[1], pytest.approx(accuracy))
    assert found.float32 != found.rounded
    assert compare(exact, exact, 60 * [None], None).model_dump() == {
        "images": 60,
        "cosine": pytest.approx(1),
        "worst_cosine": pytest.approx(1),
        "float32": {"components": 30, "nearest": None},
        "rounded": {"components": 30, "nearest": None},
    }


def test_zeros_are_like_zeros_alone() -> None:
    exact = np.array([[1, 2], [0, 0], [0, 0]], np.float32)
    rounded = np.array([[0, 0], [0, 0], [1, 2]], np.float32)
    found = compare(exact, rounded, 3 * [None], None)
    assert (found.cosine, found.worst_cosine) == (pytest.approx(1 / 3), 0)


@without_bf16
def test_a_run_in_bf16_is_refused_where_the_processor_lacks_it(fruits: Path, tmp_path: Path) -> None:
    told = fruitpipe("run", fruits, tmp_path / "out", "--set", BACKBONE, "--set", "precision=bf16", code=2)
    assert "AVX512-BF16 or AMX" in one_line_error(told)


@pytest.mark.slow
@with_bf16
def test_a_run_in_bf16_says_what_it_changes_and_keeps_its_features_apart(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exact = run(fruits, out)
    rounded = run(fruits, out, "precision=bf16")
    assert rounded["plan"]["known"] == 0, "other features"
    assert (exact["backbone"]["engine"], rounded["backbone"]["engine"]) == ("litert", "openvino_bf16")
    found = rounded["comparison"]
    assert exact["comparison"] is None
    assert found["images"] == 200
    assert 0.9 < found["worst_cosine"] < found["cosine"] < 0.99999
    assert min(found[precision]["nearest"] for precision in ("float32", "bf16")) > 0.9
    assert len(vectors(out, rounded["run"])) == 320
    shown = fruitpipe("show", out).stdout
    assert re.search(rf"bf16 +cosine to float32 {found['cosine']:.3f} on average", shown)
    model = out / "runs" / manifest(out)["run"] / "model"
    fruitpipe("transform", model, fruits, tmp_path / "again.parquet")
    applied = pq.read_table(tmp_path / "again.parquet").sort_by("path")["vector"].to_pylist()
    np.testing.assert_allclose(applied, vectors(out, rounded["run"])["vector"].to_pylist(), atol=1e-4)
    told = fruitpipe("run", fruits, out, "--set", "backbone=efficientnet_lite0", "--set", "model=reuse", code=2)
    assert "precision=bf16" in one_line_error(told)
