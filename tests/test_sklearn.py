"""Scaler and PCA as a transformer of scikit-learn: it keeps scikit-learn's rules, and gives a run's bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import command
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import SkipTestWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fruitpipe.model.model import load_model
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import fit
from fruitpipe.sinks import vectors_of
from fruitpipe.sklearn import FruitpipePCA


def test_it_passes_scikit_learns_checks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # those of the array API, which NumPy's arrays need not
        results = check_estimator(FruitpipePCA(), on_fail=None)
    assert len(results) > 30
    assert [each["check_name"] for each in results if each["status"] == "failed"] == []


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """More than two vector parts of them, with a constant one."""
    drawn = np.random.default_rng(7)
    rows = drawn.standard_normal((9001, 24)) @ drawn.standard_normal((24, 24)) + 100
    rows[:, 3] = 5
    return rows.astype(np.float32)


def test_it_is_scikit_learns_own_but_for_signs(features: np.ndarray) -> None:
    ours = FruitpipePCA(10).fit_transform(features)
    theirs = make_pipeline(StandardScaler(), PCA(10, svd_solver="full")).fit_transform(features.astype(np.float64))
    signs = np.sign((ours * theirs).sum(axis=0))
    assert np.allclose(ours, theirs * signs, atol=1e-4)
    assert ours.dtype == np.float32


def test_moments_are_added_as_a_run_does(features: np.ndarray) -> None:
    """Four parts of 2250 or 2251 rows, each in blocks of 1024."""
    total = Moments.empty(24)
    for begin, end in ((0, 2250), (2250, 4500), (4500, 6750), (6750, 9001)):
        part = Moments.empty(24)
        for first in range(begin, end, 1024):
            part += Moments.of(features[first : min(first + 1024, end)])
        total += part
    ours = FruitpipePCA(variance=0.9).fit(features)
    assert np.array_equal(ours.components_, fit(total, variance=0.9).components)


def test_the_order_of_memory_changes_no_bit(features: np.ndarray) -> None:
    rows = features.astype(np.float64) / 3
    fitted, by_columns = FruitpipePCA().fit(rows), np.asfortranarray(rows)
    assert np.array_equal(FruitpipePCA().fit(by_columns).components_, fitted.components_)
    assert np.array_equal(fitted.transform(by_columns), fitted.transform(rows))


def test_numbers_that_are_too_large_are_refused(features: np.ndarray) -> None:
    rows = features.astype(np.float64)
    with pytest.raises(ValueError, match="too large"):
        FruitpipePCA().fit(rows * 1e160)
    with pytest.raises(ValueError, match="beyond float32"):
        FruitpipePCA().fit(rows).transform(rows * 1e160)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"n_components": each} for each in (0, -3, 1.5, "2")),
        *({"variance": each} for each in (0.0, 2.0, np.nan, "a")),
    ],
)
def test_parameters_out_of_bounds_are_refused(features: np.ndarray, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be .* is not\.$"):
        FruitpipePCA(**wrong).fit(features)
    with pytest.raises(ValueError, match=r"must be .* is not\.$"):
        fit(Moments.of(features), wrong.get("n_components"), wrong.get("variance"))
    FruitpipePCA(np.int64(2), variance=np.float32(1)).fit(features)


def test_it_gives_a_runs_bits(fruits: Path, tmp_path: Path) -> None:
    command.run(fruits / "Apple", tmp_path / "out")
    run_id = command.manifest(tmp_path / "out")["run"]
    published = command.vectors(tmp_path / "out")
    parts = [pq.read_table(path) for path in (tmp_path / "out").glob("features/*/part-*.parquet")]
    table = pa.concat_tables(parts).sort_by("path")
    assert table["path"].to_pylist() == published["path"].to_pylist()
    features = np.frombuffer(b"".join(table["feature"].to_pylist()), np.float32).reshape(len(table), -1)
    assert np.array_equal(FruitpipePCA().fit_transform(features), vectors_of(published))

    model = load_model(tmp_path / "out" / "runs" / run_id / "model")
    of_model = FruitpipePCA.of(model)
    assert np.array_equal(of_model.transform(features), vectors_of(published))
    assert len(of_model.get_feature_names_out()) == model.pca.length
