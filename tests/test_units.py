from __future__ import annotations

import pytest

from fruitpipe.units import duration, in_kinds, size


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (3_000_000_000, "3.0 GB")]
)
def test_sizes_are_in_words(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_are_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_kinds_are_named_up_to_a_number() -> None:
    assert in_kinds({}) == ""
    assert in_kinds({"heic": 12, "txt": 1}) == "12 heic, 1 txt"
    assert in_kinds({"a": 3, "b": 2, "c": 1, "d": 1}, most=2) == "3 a, 2 b, 2 of other kinds"
