"""Contexts that are entered on another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from fruitpipe.thread_pool import thread_pool

Entered = TypeVar("Entered")


@contextmanager
def background(
    manager: AbstractContextManager[Entered], give_up: Callable[[], None] = lambda: None
) -> Iterator[Future[Entered]]:
    """Enter a context on another thread, and leave it on this one.

    give_up: called where nobody wants it any more before it is entered, as after Ctrl-C; may end what that waits for.
    """
    with thread_pool(1) as pool:
        entering = pool.submit(manager.__enter__)
        try:
            yield entering
        finally:
            if not entering.done():
                give_up()
            if entering.exception() is None:
                manager.__exit__(None, None, None)
