"""Contexts that are entered on another thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from fruitpipe.thread_pool import thread_pool

Entered = TypeVar("Entered")


@contextmanager
def background(manager: AbstractContextManager[Entered]) -> Iterator[Future[Entered]]:
    """Enter a context on another thread, and leave it on this one."""
    with thread_pool(1) as pool:
        entering = pool.submit(manager.__enter__)
        try:
            yield entering
        finally:
            if entering.exception() is None:
                manager.__exit__(None, None, None)
