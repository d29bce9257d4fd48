"""The nearest of many vectors, and what distances say, held against scikit-learn's brute force and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as some
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from fruitpipe.errors import UserError
from fruitpipe.numeric import curation
from fruitpipe.numeric.neighbours import NOWHERE, Metric, Nearest, blocks_of, prepared

METRICS: tuple[Metric, ...] = ("cosine", "euclidean")


def clustered(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors that come in clusters, of which some are equal and one is zeros."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((7, width)) * 3
    vectors = (centres[np.arange(count) * 7 // count] + random.standard_normal((count, width))).astype(np.float32)
    vectors[1], vectors[count // 3 : count // 3 + 20], vectors[count // 2] = vectors[count - 1], vectors[0], 0
    return vectors


def nearest(
    vectors: NDArray[np.float32], k: int, metric: Metric, slices: list[slice] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    compared, positions = prepared(vectors, metric), np.arange(len(vectors))
    found = Nearest(compared, positions, k, metric)
    for chosen in slices or [slice(None)]:
        found.add(blocks_of(compared[chosen], positions[chosen]))
    return found.distances, found.positions


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("count", "width"), [(5000, 24), (300, 700), (13, 1)])
def test_the_nearest_are_those_of_brute_force(count: int, width: int, metric: Metric) -> None:
    vectors, k = clustered(max(count, 90), width)[:count], 12
    distances, positions = nearest(vectors, k, metric)
    points = vectors.astype(np.float64)
    expected, _ = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(points).kneighbors()
    if metric == "cosine":
        zero = ~points.any(axis=1)[:, None] & ~points[positions].any(
            axis=2
        )  # to scikit-learn, these are at 1 from one another
        distances = np.where(zero, 1, distances)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-5)  # scikit-learn's of equal vectors is not 0
    assert not (positions == np.arange(count)[:, None]).any()
    assert all(len(set(row)) == k for row in positions.tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_in_which_vectors_come_changes_no_bit(metric: Metric) -> None:
    vectors = clustered(1500, 40)
    slices = [slice(first, first + 170) for first in range(0, 1500, 170)]
    for other in (slices, slices[::-1]):
        for whole, parted in zip(nearest(vectors, 9, metric), nearest(vectors, 9, metric, other), strict=True):
            np.testing.assert_array_equal(whole, parted)


def test_vectors_far_from_zero_and_near_one_another_have_their_own_neighbours() -> None:
    """Whose products round by more than their distances differ."""
    vectors = (1000 + np.random.default_rng(0).normal(0, 0.5, (600, 24))).astype(np.float32)
    slices = [slice(first, first + 100) for first in range(0, 600, 100)]
    distances, positions = nearest(vectors, 5, "euclidean", slices)
    points = vectors.astype(np.float64)
    expected = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))
    np.fill_diagonal(expected, np.inf)
    order = np.argsort(expected, axis=1)[:, :5]
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(distances, np.take_along_axis(expected, order, axis=1), rtol=1e-6)


@limits(max_examples=30)
@given(some.integers(1, 40), some.integers(1, 6), some.integers(1, 9), some.sampled_from(METRICS), some.integers(0, 99))
def test_ties_go_to_the_lower_position(count: int, width: int, k: int, metric: Metric, seed: int) -> None:
    """Of a few whole numbers, which have many ties."""
    vectors = np.random.default_rng(seed).integers(-1, 2, (count, width)).astype(np.float32)
    distances, positions = nearest(vectors, k, metric, [slice(count // 2, None), slice(0, count // 2)])
    compared = prepared(vectors, metric).astype(np.float64)
    for query in range(count):
        squares = ((compared - compared[query]) ** 2).sum(axis=1)
        shown = (squares / 2 if metric == "cosine" else np.sqrt(squares)).astype(np.float32)
        order = [other for other in np.lexsort((np.arange(count), shown)) if other != query][:k]
        assert positions[query].tolist() == order + [NOWHERE] * (k - len(order))
        assert distances[query, : len(order)].tolist() == shown[order].tolist()


def test_what_no_distance_can_be_told_of_is_refused() -> None:
    for wrong in (np.nan, np.inf, 1e30):
        with pytest.raises(UserError, match=r"longer than 1e\+15 and cannot be compared .*: have the backbone"):
            prepared(np.array([[1, wrong]], np.float32), "cosine")


def test_known_neighbours_are_merged_with_new_ones() -> None:
    vectors = clustered(900, 16)
    old, new = np.arange(900)[::2], np.arange(900)[1::2]
    compared = prepared(vectors, "cosine")
    first = Nearest(compared[old], old, 6, "cosine")
    first.add(blocks_of(compared[old], old))
    then = Nearest(compared[old], old, 6, "cosine", (first.distances, first.positions))
    then.add(blocks_of(compared[new], new))
    distances, positions = nearest(vectors, 6, "cosine")
    np.testing.assert_array_equal(then.distances, distances[old])
    np.testing.assert_array_equal(then.positions, positions[old])


def test_duplicates_are_far_nearer_than_is_usual() -> None:
    usual = np.exp(np.random.default_rng(0).normal(-1, 0.3, 2000))
    usual[:200] = 1e-4
    limit = curation.duplicate_limit(usual.astype(np.float32))
    assert 0.1 < limit < np.exp(-1 - 1.5 * 0.3)
    assert (usual[200:] <= limit).mean() < 0.05
    assert curation.duplicate_limit(np.full(3, 0.5)) == 0
    assert curation.duplicate_limit(np.full(30, np.inf)) == 0


@given(some.integers(1, 30), some.lists(some.tuples(some.integers(0, 29), some.integers(0, 29)), max_size=40))
def test_groups_are_what_pairs_connect(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a, b) for a, b in pairs if max(a, b) < count]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    group = {number: {number} for number in range(count)}
    for a, b in pairs:
        for each in group[a] | group[b]:
            group[each] = group[a] | group[b] | group[each]
        for each in group[a]:
            group[each] = group[a]
    root = curation.groups(count, left, right)
    assert root.tolist() == [min(group[number]) for number in range(count)]
    centre = curation.centres(root, left, right)
    links = np.bincount(np.concatenate([left, right]), minlength=count)
    assert all(links[centre[n]] == max(links[list(group[n])]) and centre[n] in group[n] for n in range(count))


def test_neighbours_vote_and_rare_labels_are_not_outvoted() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, -1, 0])
    neighbours = np.array([[1, 2, 7], [0, 3, 2], [3, 4, 5], [2, 4, 0], [3, 0, 1], [0, 1, 2], [0, 1, 2], [6, 3, -1]])
    voted, confidence, own = curation.vote(labels, neighbours)
    assert voted.tolist() == [0, 0, 1, 0, 1, -1, -1, 1]
    np.testing.assert_allclose(confidence, [1, 2 / 3, 2 / 3, 1, 1, 0, 0, 1])
    np.testing.assert_allclose(own, [1, 2 / 3, 0, 0, 1, 0, 0, 0])


def test_representatives_are_at_most_twice_as_far_apart_as_the_best() -> None:
    vectors = clustered(400, 3)
    chosen = curation.farthest_first(vectors, 7)
    assert len(set(chosen.tolist())) == 7
    radius = np.linalg.norm(vectors[:, None] - vectors[chosen], axis=2).min(axis=1).max()
    apart = np.linalg.norm(vectors[chosen][:, None] - vectors[chosen], axis=2)
    assert radius <= apart[np.triu_indices(7, 1)].min() * (1 + 1e-5)
    equal = np.ones((5, 2), np.float32)
    assert curation.farthest_first(equal, 3).tolist() == [0]


def test_representatives_are_as_many_as_there_are_other_vectors_however_near() -> None:
    random = np.random.default_rng(5)
    groups = random.normal(size=(10, 1, 64)) + 1e-4 * random.normal(size=(10, 20, 64))
    distinct = groups.reshape(200, 64).astype(np.float32)
    vectors = np.concatenate([distinct, distinct[:50]])
    assert len(np.unique(vectors[curation.farthest_first(vectors, 250)], axis=0)) == 200
    assert len(curation.farthest_first(vectors, 250)) == 200
