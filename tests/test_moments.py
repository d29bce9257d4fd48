from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fruitpipe.numeric.moments import Moments, symmetric, upper_half

Matrix = NDArray[np.float64]
MATRICES = st.tuples(st.integers(1, 30), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-1e3, 1e3, width=32))
)


def assert_same(one: Moments, other: Moments, rows: Matrix) -> None:
    size = np.abs(rows).max(initial=1.0)
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-10, atol=1e-10 * size)
    np.testing.assert_allclose(one.scatter, other.scatter, rtol=1e-10, atol=1e-10 * size**2)


@given(MATRICES, st.lists(st.integers(0, 30), max_size=6))
def test_moments_of_parts_add_up_to_those_of_the_whole_however_it_is_split(rows: Matrix, cuts: list[int]) -> None:
    blocks = [Moments.of(block) for block in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts))]
    assert_same(reduce(add, blocks), Moments.of(rows), rows)


@given(MATRICES, st.data())
def test_the_order_of_addition_does_not_matter(rows: Matrix, data: st.DataObject) -> None:
    singles = [Moments.of(row[None]) for row in rows]
    shuffled = data.draw(st.permutations(singles))
    assert_same(reduce(add, shuffled), reduce(add, singles), rows)


@given(MATRICES)
def test_the_scatter_is_numpys_covariance_times_its_degrees_of_freedom(rows: Matrix) -> None:
    moments = Moments.of(rows)
    expected = np.cov(rows, rowvar=False, ddof=0).reshape(rows.shape[1], -1) * len(rows)
    size = np.abs(rows).max(initial=1.0)
    np.testing.assert_allclose(moments.scatter, expected, rtol=1e-10, atol=1e-10 * size**2)
    np.testing.assert_allclose(moments.mean, np.mean(rows, axis=0), rtol=1e-10, atol=1e-10 * size)


@pytest.mark.parametrize("dimension", [1, 2, 7, 100])
def test_half_of_a_symmetric_matrix_is_all_of_it(dimension: int) -> None:
    matrix = Moments.of(np.random.default_rng(0).normal(size=(9, dimension))).scatter
    half = upper_half(matrix)
    np.testing.assert_array_equal(half, matrix[np.triu_indices(dimension)])
    np.testing.assert_array_equal(symmetric(half, dimension), matrix)
    for other in (half[:-1], np.append(half, 0)):
        with pytest.raises(ValueError, match="not half of a symmetric matrix"):
            symmetric(other, dimension)


def test_no_digits_are_lost_where_the_mean_is_large_against_the_spread() -> None:
    small = np.random.default_rng(0).integers(0, 100, (1000, 4)).astype(np.float64)
    parts = [Moments.of(block) for block in np.array_split(small + 2.0**24, 7)]
    expected = Moments.of(small).scatter
    np.testing.assert_allclose(reduce(add, parts).scatter, expected, atol=1e-8 * expected.max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_is_summed_in_double_precision_and_left_as_it_was(dtype: type) -> None:
    rows = np.random.default_rng(0).normal(100, 1, (5000, 3)).astype(dtype)
    before = rows.copy()
    moments = Moments.of(rows)
    assert np.array_equal(rows, before)
    expected = np.cov(before.astype(np.float64), rowvar=False, ddof=0) * len(rows)
    np.testing.assert_allclose(moments.scatter, expected, rtol=1e-10)


def test_nothing_added_changes_nothing() -> None:
    moments = Moments.of(np.random.default_rng(0).normal(size=(5, 3)))
    for total in (moments + Moments.empty(3), Moments.empty(3) + moments, moments + Moments.of(np.empty((0, 3)))):
        assert total.count == 5
        assert np.array_equal(total.mean, moments.mean)
        assert np.array_equal(total.scatter, moments.scatter)


def test_addition_leaves_both_terms_alone() -> None:
    one, other = (Moments.of(np.random.default_rng(seed).normal(size=(5, 3))) for seed in (0, 1))
    scatters = one.scatter.copy(), other.scatter.copy()
    assert (one + other).count == 10
    assert np.array_equal(one.scatter, scatters[0])
    assert np.array_equal(other.scatter, scatters[1])
