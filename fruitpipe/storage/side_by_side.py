"""Objects that are read side by side: of a bucket's, each is mostly waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

READERS = 8
"""Objects read at once: on object stores, each is a few requests."""
Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(read: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Items with what is read of them, in their order, READERS at once; few are held."""
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        while chunk := list(islice(remaining, 4 * READERS)):
            yield from zip(chunk, pool.map(read, chunk), strict=True)
