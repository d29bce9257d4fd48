"""An object as a seekable file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from fruitpipe.objects.error_messages import in_our_words
from fruitpipe.objects.keys import exact
from fruitpipe.objects.place import Place
from fruitpipe.objects.retry import retried

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BUFFER = 1 << 16
"""Bytes read at least, so that the end of a Parquet file with its index is one request."""
NO_RANGE = re.compile("status code: 416|CONTENT_RANGE header")
"""What stores, and a stand-in for Google's, say of an object that is empty, and so has no last bytes."""


class ObjectFile(io.RawIOBase):
    """A seekable file for reading. Raises FileNotFoundError where there is no such object.

    Its last BUFFER bytes come with its size: whoever reads Parquet begins there, and small files are no more. Each
    request is for BUFFER more than is wanted: a buffered reader asks for whole buffers first, and then for the rest.

    client: called for each request, so that a forked process is refused one.
    """

    def __init__(self, place: Place, key: str, client: Callable[[], ObjectStore]) -> None:
        self._place, self._key, self._client, self._position = place, key, client, 0
        with in_our_words(place, "read", key):
            self._size, self._end = self._open()
        self._next = Piece(0, memoryview(b""))

    def _open(self) -> tuple[int, Piece]:
        """Size and last bytes."""
        import obstore

        client, key = self._client(), exact(self._key)

        def ask() -> tuple[int, Piece]:
            answer = obstore.get(client, key, options={"range": {"suffix": BUFFER}})
            return answer.meta["size"], Piece(answer.range[0], memoryview(answer.bytes()))

        try:
            return retried(ask)
        except obstore.exceptions.NotSupportedError:  # Azure does not count from the end
            pass
        except obstore.exceptions.GenericError as error:
            if not NO_RANGE.search(str(error)):
                raise
        size = obstore.head(client, key)["size"]
        return size, Piece(size, memoryview(b""))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fewer bytes than there is room for where the next ones are held already."""
        data = self._end.after(self._position) or self._next.after(self._position) or self._ask(len(buffer))
        read = min(len(buffer), len(data))
        buffer[:read] = data[:read]
        self._position += read
        return read

    def _ask(self, size: int) -> memoryview:
        """The next bytes, as many at least if there are so many before those at the end."""
        import obstore

        start, end = self._position, min(self._position + size + BUFFER, self._end.start)
        if end <= start:
            return memoryview(b"")
        with in_our_words(self._place, "read", self._key):
            data = memoryview(obstore.get_range(self._client(), self._key, start=start, end=end))
        self._next = Piece(start + size, memoryview(bytes(data[size:])))  # not all of them
        return data


class Piece(NamedTuple):
    """Some bytes of an object."""

    start: int
    data: memoryview

    def after(self, position: int) -> memoryview:
        """Those from a position on; none where it does not lie among them."""
        return self.data[position - self.start :] if position >= self.start else self.data[:0]
