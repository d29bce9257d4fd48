"""The bytes of many images, read ahead of their use within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

from fruitpipe.source.reader import Reader, threads_for
from fruitpipe.vision.bad_image import BadImage

Data = bytes | memoryview
AHEAD, AHEAD_BYTES = 32, 64 << 20
"""Images fetched before their turn, twice a batch where that is more, and the bytes from which they are fewer."""


class Image(NamedTuple):
    """An image to read."""

    path: str
    etag: str = ""
    size: int = 0
    """bytes, where they are known"""


def fetch(images: list[Image], reader: Reader, most: int = AHEAD) -> Iterator[Data | BadImage]:
    """The bytes of each image, or why not, in order, at most so many ahead of their use.

    Sizes that were listed say how many to begin with; an image of none is taken to be as large as the one before. What
    is there then counts as it is: an image for which there is no room is read at its turn.
    """
    room = Room(AHEAD_BYTES + reader.max_bytes)  # the last one that was begun may be of any size
    with ThreadPoolExecutor(max((threads_for(image.path) for image in images), default=1)) as pool:
        ahead: deque[tuple[int, int, Future[Data | BadImage | None]]] = deque()
        held = last = 0

        def take() -> Data | BadImage:
            nonlocal held, last
            number, expected, future = ahead.popleft()
            held -= expected
            found = future.result()
            room.free(number)
            if found is None:
                found = read_or_error(reader, images[number])
            assert found is not None, "it has room for itself"
            last = 0 if isinstance(found, BadImage) else len(found)
            return found

        for number, image in enumerate(images):
            expected = image.size or last
            ahead.append((number, expected, pool.submit(read_or_error, reader, image, partial(room.claim, number))))
            held += expected
            while len(ahead) > most or (held > AHEAD_BYTES and len(ahead) > 1):
                yield take()
        while ahead:
            yield take()


class NoRoom(Exception):
    """An image has more bytes than there is room for."""


class Room:
    """Bytes of images that are there, or on their way, before their turn."""

    def __init__(self, most: int) -> None:
        self._most, self._claimed, self._lock = most, dict[int, int](), Lock()

    def claim(self, number: int, size: int) -> None:
        """Take room for an image, once however often it is claimed. Raises NoRoom."""
        with self._lock:
            others = sum(self._claimed.values()) - self._claimed.get(number, 0)
            if others + size > self._most:
                raise NoRoom
            self._claimed[number] = size

    def free(self, number: int) -> None:
        with self._lock:
            self._claimed.pop(number, None)


def read_or_error(
    reader: Reader, image: Image, claim: Callable[[int], None] = lambda size: None
) -> Data | BadImage | None:
    """The bytes of an image, or why not; None where their claim found no room."""
    try:
        return reader.read(image.path, image.etag, claim)
    except BadImage as error:
        return error
    except NoRoom:
        return None
