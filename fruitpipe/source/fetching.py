"""The bytes of many images, read ahead of their use within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import accumulate
from threading import Lock
from typing import NamedTuple

from fruitpipe.source.reader import Reader, threads_for
from fruitpipe.thread_pool import thread_pool
from fruitpipe.vision.bad_image import BadImage

Data = bytes | memoryview
AHEAD, AHEAD_BYTES = 32, 64 << 20
"""Images fetched before their turn, twice a batch where that is more, and the bytes from which they are fewer."""
TOGETHER, TOGETHER_BYTES = 8, 1 << 20
"""Images on disk that are read in one go, and the bytes from which they are fewer. Where each is handed over alone,
threads take turns five times as often, and a small file takes 1.5 times the CPU time (`benchmarks/worker.py`)."""


class Image(NamedTuple):
    """An image to read."""

    path: str
    etag: str = ""
    size: int = 0
    """bytes, where they are known"""


def fetch(images: list[Image], reader: Reader, most: int = AHEAD) -> Iterator[Data | BadImage]:
    """The bytes of each image, or why not, in order, at most so many ahead of their use.

    Sizes that were listed say how many to begin with; an image without one is taken to be as large as the one before.
    What is there then counts as it is: an image for which there is no room is read at its turn.
    """
    room = Room(AHEAD_BYTES + reader.max_bytes)  # the last one that was begun may be of any size
    threads = max((threads_for(image.path) for image in images), default=1)
    with thread_pool(threads) as pool:
        ahead: deque[tuple[int, int, Future[deque[Data | BadImage | None]]]] = deque()
        held = last = 0

        def take() -> Data | BadImage:
            nonlocal held, last
            number, expected, future = ahead.popleft()
            held -= expected
            found = future.result().popleft()
            room.free(number)
            if found is None:
                found = read_or_error(reader, images[number])
            assert found is not None, "it has room for itself"
            last = 0 if isinstance(found, BadImage) else len(found)
            return found

        begun = 0
        while begun < len(images):
            sizes = sizes_together(images[begun : begun + (TOGETHER if threads == 1 else 1)], last)
            while ahead and len(ahead) + len(sizes) > most:
                yield take()
            some = range(begun, begun + len(sizes))
            future = pool.submit(read_in_turn, reader, [(images[at], partial(room.claim, at)) for at in some])
            ahead.extend((at, size, future) for at, size in zip(some, sizes, strict=True))
            held += sum(sizes)
            begun = some.stop
            while held > AHEAD_BYTES and len(ahead) > 1:
                yield take()
        while ahead:
            yield take()


def sizes_together(images: Sequence[Image], last: int) -> list[int]:
    """Expected sizes of the first of some images, which are read in one go: at least one.

    last: size of the image before, for those without a listed size.
    """
    sizes = [image.size or last for image in images]
    return [size for size, all_ in zip(sizes, accumulate(sizes), strict=True) if all_ <= TOGETHER_BYTES] or sizes[:1]


def read_in_turn(
    reader: Reader, images: Sequence[tuple[Image, Callable[[int], None]]]
) -> deque[Data | BadImage | None]:
    """What `read_or_error` gives for each image with its claim."""
    return deque(read_or_error(reader, image, claim) for image, claim in images)


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
        return error.kept()
    except NoRoom:
        return None
