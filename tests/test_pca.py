from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import Pca, fit

Matrix = NDArray[np.float64]


class Oracle(NamedTuple):
    """What scikit-learn makes of the same rows: the rank's components."""

    variance: Matrix
    ratio: Matrix
    components: Matrix
    vectors: Matrix


def draw(n: int, d: int, seed: int) -> Matrix:
    """Correlated features of very different means and scales."""
    chance = np.random.default_rng(seed)
    mixed = chance.normal(size=(n, d)) @ (chance.normal(size=(d, d)) * 0.8 ** np.arange(d))
    return mixed * chance.uniform(0.1, 10, d) + chance.normal(0, 10, d)


def has_clear_rank(rows: Matrix) -> bool:
    """A component with less than 1e-10 of the largest variance may or may not count: rounding decides."""
    centred = rows - rows.mean(axis=0)
    rank = min(len(rows) - 1, rows.shape[1])
    deviations = centred.std(axis=0)
    variances = (np.linalg.svd(each, compute_uv=False)[:rank] ** 2 for each in (centred, centred / deviations))
    return all(each[-1] > 1e-10 * each[0] for each in variances)


ROWS = st.builds(draw, st.integers(2, 60), st.integers(1, 30), st.integers(0, 2**31)).filter(has_clear_rank)


def oracle(rows: Matrix, scale: bool) -> Oracle:
    standard = StandardScaler(with_std=scale).fit_transform(rows)
    model = PCA(svd_solver="full").fit(standard)
    rank = min(len(rows) - 1, rows.shape[1])
    return Oracle(
        model.explained_variance_[:rank],
        model.explained_variance_ratio_[:rank],
        model.components_[:rank],
        model.transform(standard)[:, :rank],
    )


def fit_rows(rows: Matrix, components: int | None = None, variance: float | None = None, scale: bool = True) -> Pca:
    return fit(Moments.of(rows), components, variance, scale)


def signs(ours: Matrix, theirs: Matrix) -> Matrix:
    return np.sign(np.einsum("ij,ij->i", ours, theirs))[:, None]


@given(ROWS, st.booleans())
@settings(max_examples=150)
def test_it_is_scikit_learns_scaler_and_pca_up_to_sign(rows: Matrix, scale: bool) -> None:
    expected = oracle(rows, scale)
    rank = len(expected.variance)
    pca = fit_rows(rows, components=rank, scale=scale)
    np.testing.assert_allclose(
        pca.explained_variance[:rank], expected.variance, rtol=1e-6, atol=1e-9 * expected.variance[0]
    )
    assert not pca.explained_variance[rank:].any()
    np.testing.assert_allclose(pca.explained_variance_ratio[:rank], expected.ratio, atol=1e-6)
    assert pca.components.shape == expected.components.shape
    turn = signs(pca.components, expected.components)
    np.testing.assert_allclose(pca.components * turn, expected.components, atol=1e-5)
    size = np.abs(expected.vectors).max()
    np.testing.assert_allclose(pca.transform(rows) * turn.T, expected.vectors, atol=1e-5 * max(size, 1))


@given(ROWS)
def test_mean_and_scale_are_scikit_learns(rows: Matrix) -> None:
    pca, scaler = fit_rows(rows), StandardScaler().fit(rows)
    np.testing.assert_allclose(pca.mean, scaler.mean_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(pca.scale, scaler.scale_, rtol=1e-8)


@given(ROWS, st.floats(0.01, 1))
def test_variance_keeps_the_fewest_components_that_explain_it(rows: Matrix, variance: float) -> None:
    pca = fit_rows(rows, variance=variance)
    share = np.cumsum(oracle(rows, True).ratio)
    kept = len(pca.components)
    assert share[kept - 1] >= variance - 1e-9
    assert kept == 1 or share[kept - 2] < variance + 1e-9


@given(ROWS, st.integers(1, 100), st.floats(0.01, 1))
def test_with_components_and_variance_the_smaller_number_wins(rows: Matrix, components: int, variance: float) -> None:
    by_number = len(fit_rows(rows, components=components).components)
    by_share = len(fit_rows(rows, variance=variance).components)
    assert len(fit_rows(rows, components, variance).components) == min(by_number, by_share)


@given(ROWS, st.integers(1, 100))
def test_components_keeps_so_many_but_never_more_than_the_rank(rows: Matrix, components: int) -> None:
    assert len(fit_rows(rows, components).components) == min(components, len(rows) - 1, rows.shape[1])


@given(ROWS)
def test_with_neither_ninety_five_percent_are_kept(rows: Matrix) -> None:
    assert np.array_equal(fit_rows(rows).components, fit_rows(rows, variance=0.95).components)


@given(ROWS, st.integers(1, 30), st.booleans())
def test_rows_are_orthonormal_and_their_largest_loading_is_positive(rows: Matrix, components: int, scale: bool) -> None:
    loadings = fit_rows(rows, components, scale=scale).components
    np.testing.assert_allclose(loadings @ loadings.T, np.eye(len(loadings)), atol=1e-9)
    assert (loadings.max(axis=1) >= -loadings.min(axis=1)).all()


@given(ROWS, st.integers(1, 30), st.booleans())
def test_the_reconstruction_error_is_that_of_the_explicit_reconstruction(
    rows: Matrix, components: int, scale: bool
) -> None:
    pca = fit_rows(rows, components, scale=scale)
    vectors, errors = pca.transform_with_error(rows)
    standard = (rows - pca.mean) / pca.scale
    rebuilt = (standard @ pca.components.T) @ pca.components
    expected = ((standard - rebuilt) ** 2).mean(axis=1)
    np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-9 * (standard**2).max(initial=1.0))
    assert vectors.dtype == errors.dtype == np.float32


def test_duplicated_columns_do_not_raise_the_rank() -> None:
    rows = draw(40, 3, 0)
    pca = fit_rows(np.hstack([rows, rows, 2 * rows + 1]), components=9)
    assert len(pca.components) == 3
    np.testing.assert_allclose(pca.explained_variance_ratio[:3].sum(), 1)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-30, 0.1, 123456.789])
@pytest.mark.parametrize("scale", [True, False])
def test_constant_features_get_scale_one_and_no_weight(value: float, scale: bool) -> None:
    rows = draw(50, 4, 0)
    with_constant = np.insert(rows, 2, value, axis=1)
    pca, without = fit_rows(with_constant, 4, scale=scale), fit_rows(rows, 4, scale=scale)
    assert pca.scale[2] == 1
    assert np.abs(pca.components[:, 2]).max() < 1e-12
    np.testing.assert_allclose(np.delete(pca.components, 2, axis=1), without.components, atol=1e-9)
    np.testing.assert_allclose(pca.transform(with_constant), without.transform(rows), atol=1e-5)


@pytest.mark.parametrize("rows", [np.full((1, 4), 3.7), np.full((9, 4), 3.7), np.zeros((9, 4)), np.full((9, 1), 0.1)])
@pytest.mark.parametrize("options", [{}, {"components": 3}, {"variance": 1.0}, {"scale": False}])
def test_one_row_or_equal_rows_give_one_component_and_the_vector_zero(rows: Matrix, options: dict[str, int]) -> None:
    pca = fit_rows(rows, **options)  # type: ignore[arg-type]
    vectors, errors = pca.transform_with_error(rows)
    assert vectors.shape == (len(rows), 1)
    assert np.abs(vectors).max() < 1e-12
    assert errors.max() < 1e-12
    assert not pca.explained_variance_ratio.any()


def test_errors_end_with_float32_and_vectors_beyond_it_are_refused() -> None:
    pca = fit_rows(np.insert(draw(50, 4, 0), 2, 1.0, axis=1), 4)
    features = np.repeat(pca.mean[None], 2, axis=0)
    features[1, 2] = 3e20  # constant at the fit, and so without weight, but for rounding
    vectors, errors = pca.transform_with_error(features)
    assert np.isfinite(vectors).all()
    assert errors.tolist() == [0, np.finfo(np.float32).max]
    with pytest.raises(ValueError, match="beyond float32"):
        pca.transform(np.full((1, 5), 1e160))
    with pytest.raises(ValueError, match="too large"), np.errstate(all="ignore"):
        fit_rows(draw(50, 4, 0) * 1e160)


@pytest.mark.parametrize("unit", [1e-6, 1, 1e6])
@pytest.mark.parametrize("scale", [True, False])
def test_noise_is_less_than_errors_and_more_than_rounding_in_any_unit(unit: float, scale: bool) -> None:
    rows = draw(200, 12, 0) * unit
    cut, whole = fit_rows(rows, variance=0.99, scale=scale), fit_rows(rows, 12, scale=scale)
    assert np.median(cut.transform_with_error(rows)[1]) > 100 * cut.noise
    assert whole.transform_with_error(3 * rows)[1].max() < whole.noise


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no features"):
        fit(Moments.empty(4))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 5), (2, 5, 4)])
def test_features_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected features of shape \(n, 4\)"):
        fit_rows(draw(20, 4, 0)).transform(np.zeros(shape))


def test_transform_leaves_the_features_as_they_were() -> None:
    rows = draw(20, 4, 0)
    before = rows.copy()
    fit_rows(rows).transform(rows)
    assert np.array_equal(rows, before)


FINGERPRINT = """
import hashlib
import numpy as np
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import fit
pca = fit(Moments.of(np.random.default_rng(0).normal(size=(500, 200))))
print(hashlib.sha256(pca.components.tobytes() + pca.explained_variance.tobytes()).hexdigest())
"""


def test_two_processes_give_the_same_bits() -> None:
    command = [sys.executable, "-c", FINGERPRINT]
    one, other = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == other
    assert len(one.strip()) == 64


def test_on_real_photographs_ratios_and_numbers_of_components_are_the_oracles(data: Path) -> None:
    with np.load(data / "oracle" / "sample-mobilenetv2.npz") as arrays:
        features, expected = arrays["features"], arrays["explained_variance_ratio"]
    for variance in (0.90, 0.95):
        pca = fit_rows(features, variance=variance)
        np.testing.assert_allclose(pca.explained_variance_ratio[: len(expected)], expected, atol=1e-4)
        assert len(pca.components) == int(np.argmax(np.cumsum(expected) >= variance)) + 1


@pytest.mark.parametrize("scale", [True, False])
def test_few_images_of_many_features_lose_no_digits(scale: bool) -> None:
    """Those of which only the range of the covariance is solved, with variances from 1 to 1e-8 of the largest."""
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(60, 60)) * np.logspace(0, -4, 60) @ chance.normal(size=(60, 400)) + 5
    expected, pca = oracle(rows, scale), fit_rows(rows, components=59, scale=scale)
    assert pca.explained_variance.shape == (400,)
    np.testing.assert_allclose(pca.explained_variance[:59], expected.variance, rtol=1e-6)
    assert not pca.explained_variance[59:].any()
    turn = signs(pca.components, expected.components)
    np.testing.assert_allclose(pca.components * turn, expected.components, atol=1e-6)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(59), atol=1e-12)
