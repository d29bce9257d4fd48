"""Threads that work for a generator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, of which none is at work when a generator has come to its end, or has failed: then they end what
    they have begun, and begin nothing.

    Where the generator is given up before, nobody waits for them.
    It may be the garbage collector that gives it up, which runs amid anything, even where a thread holds the lock with
    which Python lets threads wait for one another: there it would wait for itself.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, GeneratorExit), cancel_futures=True)
        raise
    pool.shutdown()
