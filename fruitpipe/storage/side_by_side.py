"""Objects that are read side by side: of a bucket's, each is mostly waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from fruitpipe.thread_pool import thread_pool

AT_ONCE = 16
"""Objects: each is a request or two."""
Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(work: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Items with what the work on each gives, in their order, AT_ONCE under way or waiting for their turn."""
    return ((item, found.result()) for item, found in in_advance(work, items, AT_ONCE))


def in_advance(work: Callable[[Item], Found], items: Iterable[Item], most: int) -> Iterator[tuple[Item, Future[Found]]]:
    """Items with what comes of the work on each, in their order, so many of them begun before their turn."""
    with thread_pool(most) as pool:
        ahead: deque[tuple[Item, Future[Found]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) > most:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
