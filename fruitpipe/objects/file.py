"""An object as a file: read by ranges, a request for each."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fruitpipe.objects.refusal import explained

if TYPE_CHECKING:
    from fruitpipe.objects.bucket import Bucket

BUFFER = 1 << 16
"""Bytes read at least, so that the end of a Parquet file with its index is one request."""


class ObjectFile(io.RawIOBase):
    """A seekable file for reading. Raises FileNotFoundError where there is no such object."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        import obstore

        self._bucket, self._key, self._position = bucket, key, 0
        with explained(bucket.place, "read", key):
            self._size = obstore.head(bucket.client(), key)["size"]

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
        import obstore

        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        with explained(self._bucket.place, "read", self._key):
            data = obstore.get_range(self._bucket.client(), self._key, start=self._position, end=end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
