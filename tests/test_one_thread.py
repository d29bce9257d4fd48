"""Linear algebra on one thread, whoever else computes in the process."""

from __future__ import annotations

from threading import Event, Thread

import numpy as np  # noqa: F401 - with BLAS, whose number of threads is looked at
from threadpoolctl import threadpool_info

from fruitpipe.numeric.one_thread import one_thread


def threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_of_two_that_overlap_the_second_waits_and_the_number_is_as_before() -> None:
    """One that ends does not take it from the other."""
    before, entered, seen = threads(), Event(), []

    def other() -> None:
        with one_thread():
            entered.set()
            seen.append(threads())

    second = Thread(target=other)
    with one_thread():
        second.start()
        assert not entered.wait(0.2)
        assert threads() == {1}
        with one_thread():
            pass
        assert threads() == {1}, "the inner one leaves it as it was"
    second.join()
    assert seen == [{1}]
    assert threads() == before
