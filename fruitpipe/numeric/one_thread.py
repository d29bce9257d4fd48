"""Linear algebra that gives the same bits whatever else goes on in the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from threadpoolctl import threadpool_limits

_turn = RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Have BLAS and OpenMP use one thread within the block: more sum in another order, and so give other bits.

    The number is the process's. Two such blocks at once, as of two runs, would take away each other's, and at last
    leave the wrong one behind: the second waits for the first.
    """
    with _turn, threadpool_limits(1):
        yield
