"""The bytes of an image, wherever it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import Bucket, Changed, Forbidden, NoBucket, bucket_of, open_bucket, split
from fruitpipe.source import files
from fruitpipe.vision.bad_image import REPLACED, BadImage

REMOTE_THREADS = 32
"""Requests in flight: at 200 ms each, 160 images/s a worker, more than any backbone here takes."""


@dataclass(frozen=True)
class Reader:
    """Reads images of up to `max_bytes`. Picklable; connects where it reads, at the first image of a bucket."""

    s3: S3Config
    max_bytes: int
    buckets: tuple[Bucket, ...] = ()
    """inputs, which the driver has opened; they need not be located again"""
    _refused: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """why, by other buckets from which nothing could be read"""

    def read(self, path: str, etag: str = "", claim: Callable[[int], None] = lambda size: None) -> bytes | memoryview:
        """The bytes of an image, those that were listed with this etag.

        claim: told how many they are, each time before they are read; what it raises is raised.

        Raises BadImage: `missing`, `forbidden`, `unreadable`, `changed` or `too_large`; UserError where nothing could
        be read from one of `buckets`, such as for want of credentials.
        """
        if not is_remote(path) or self._given(path):
            return self._read(path, etag, claim)
        place = bucket_of(path)
        if place not in self._refused:
            try:
                return self._read(path, etag, claim)
            except UserError as error:
                self._refused[place] = str(error)  # those of other buckets in a list may be well
        raise BadImage("forbidden", self._refused[place])

    def require_place(self, path: str) -> None:
        """Raise UserError where an image cannot be read for the sake of its bucket, whatever bucket that is."""
        with suppress(BadImage):
            self._read(path, "", lambda size: None)

    def _read(self, path: str, etag: str, claim: Callable[[int], None]) -> bytes | memoryview:
        """As `read`. Raises UserError whatever the bucket is."""
        if not is_remote(path):
            return files.read_image(local_path(path), self.max_bytes, etag, claim)

        def admit(size: int) -> None:
            if size > self.max_bytes:
                raise BadImage("too_large", f"{size} bytes, more than image.max_bytes ({self.max_bytes})")
            claim(size)

        try:
            bucket = self._given(path) or open_bucket(path, self.s3)
            return bucket.get(split(path)[2], etag or None, admit).data
        except FileNotFoundError as error:
            listed = "deleted since it was listed, or its key has a slash at an end: rename it"
            raise BadImage("missing", listed if etag else "no such object") from error
        except NoBucket as error:
            raise BadImage("missing", str(error)) from error
        except Forbidden as error:
            raise BadImage("forbidden", str(error)) from error
        except Changed as error:
            raise BadImage("changed", REPLACED) from error
        except UserError:
            raise
        except FruitpipeError as error:
            raise BadImage("unreadable", str(error)) from error

    def _given(self, path: str) -> Bucket | None:
        """The one of `buckets` that an object is in."""
        return next((bucket for bucket in self.buckets if bucket.url == bucket_of(path)), None)


def threads_for(path: str) -> int:
    """How many images of a place to read at once."""
    return REMOTE_THREADS if is_remote(path) else 1


def digest(data: bytes | memoryview) -> str:
    """Digest of an image's bytes, 128 bits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
