"""Threads that work for a generator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, of which none is at work when a generator has come to its end, or has failed.

    Where the generator is given up before, nobody waits for them: they end what they have begun, and begin nothing.
    It may be the garbage collector that gives it up, which runs amid anything, even where a thread holds the lock with
    which Python lets threads wait for one another: there it would wait for itself.
    """
    pool, given_up = ThreadPoolExecutor(threads), False
    try:
        yield pool
    except GeneratorExit:
        given_up = True
        raise
    finally:
        pool.shutdown(wait=not given_up, cancel_futures=given_up)
