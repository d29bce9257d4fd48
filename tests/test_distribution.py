"""Distributions in buckets against NumPy's quantiles of the numbers themselves."""

from __future__ import annotations

import base64
import zlib
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fruitpipe.numeric.distribution import RELATIVE_ERROR, Distribution

SHARES = (0.0, 0.01, 0.5, 0.9, 0.99, 1.0)


def errors(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).gamma(8, 0.3, count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 1000, 200_000])
def test_quantiles_are_those_of_the_numbers_or_a_little_above(count: int) -> None:
    numbers = errors(count)
    found = Distribution.of(numbers)
    assert len(found) == count
    assert found.mean == pytest.approx(numbers.mean(dtype=np.float64), rel=1e-12)
    for share in SHARES:
        true = np.quantile(numbers, share, method="inverted_cdf")
        assert true <= found.quantile(share) <= true * (1 + RELATIVE_ERROR)
        limit = found.quantile(share)
        assert found.share_above(limit) == (numbers > limit).mean(), "exactly"


@pytest.mark.parametrize("wrong", [-1, np.inf, np.nan])
def test_other_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="negative or not finite"):
        Distribution.of(np.array([1, wrong], np.float32))


def test_it_does_not_grow_with_the_numbers() -> None:
    found = Distribution.of(errors(1_000_000))
    assert found.buckets.nbytes + found.counts.nbytes < 100_000


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1))
def test_its_text_is_the_whole_of_it(numbers: list[float]) -> None:
    made = Distribution.of(np.array(numbers, np.float32))
    found = Distribution.unpacked(made.packed(), len(numbers))
    assert found.total == made.total
    assert np.array_equal(found.buckets, made.buckets)
    assert np.array_equal(found.counts, made.counts)
    with pytest.raises(ValueError, match="a distribution"):
        Distribution.unpacked(made.packed(), len(numbers) + 1)
    assert len(Distribution.of(errors(4096)).packed()) < 12_000


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_text_with_another_byte_is_another_distribution_or_none(place: int, change: int) -> None:
    numbers = errors(50)
    data = bytearray(zlib.decompress(base64.b64decode(Distribution.of(numbers).packed())))
    data[place % len(data)] ^= change
    try:
        found = Distribution.unpacked(base64.b64encode(zlib.compress(data)).decode(), 50)
    except ValueError:
        return
    assert len(found) == 50
    assert np.isfinite([found.mean, found.quantile(0.5), found.quantile(1.0)]).all()


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1), st.integers(1, 5))
def test_parts_together_are_the_whole(numbers: list[float], parts: int) -> None:
    whole = np.array(numbers, np.float32)
    found = reduce(add, (Distribution.of(whole[start::parts]) for start in range(parts)))
    expected = Distribution.of(whole)
    assert np.array_equal(found.buckets, expected.buckets)
    assert np.array_equal(found.counts, expected.counts)
    assert found.total == pytest.approx(expected.total, rel=1e-6)
    true = np.quantile(whole, 0.5, method="inverted_cdf")
    assert true - 1.2e-41 <= found.quantile(0.5) <= true * (1 + RELATIVE_ERROR) + 1.2e-41


def test_zeros_are_zeros() -> None:
    """As the errors of all images are without a PCA."""
    found = Distribution.of(np.array([0, 0, 0, 1], np.float32))
    assert [found.quantile(share) for share in (0, 0.5, 0.75)] == [0, 0, 0]
    assert (found.share_above(0), found.share_above(1.1478e-41)) == (0.25, 0.25)
    assert Distribution.unpacked(found.packed(), 4).quantile(0.5) == 0
