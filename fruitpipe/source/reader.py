"""The bytes of an image, wherever it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import Bucket, Changed, Forbidden, NoBucket, open_bucket, split
from fruitpipe.source import files
from fruitpipe.vision.bad_image import BadImage

REMOTE_THREADS = 32
"""Requests in flight: at 200 ms each, 160 images/s a worker, more than any backbone here takes."""


@dataclass(frozen=True)
class Reader:
    """Reads images of up to `max_bytes`. Picklable; connects where it reads, at the first image of a bucket."""

    s3: S3Config
    max_bytes: int
    buckets: tuple[Bucket, ...] = ()
    """those that the driver has opened; where they are need not be found out again"""

    def _bucket_of(self, path: str) -> Bucket:
        scheme, name, _ = split(path)
        url = f"{scheme}://{name}"
        return next((bucket for bucket in self.buckets if bucket.url == url), None) or open_bucket(url, self.s3)

    def read(self, path: str, etag: str = "") -> bytes | memoryview:
        """The bytes of an image, those that were listed with this etag.

        Raises BadImage: `missing`, `forbidden`, `unreadable`, `changed` or `too_large`; UserError where nothing could
        be read from there, such as for want of credentials.
        """
        if not is_remote(path):
            return files.read_image(local_path(path), self.max_bytes)
        try:
            return self._bucket_of(path).get(split(path)[2], etag or None, self.max_bytes).data
        except FileNotFoundError as error:
            listed = "deleted since it was listed, or its key has a slash at an end: rename it"
            raise BadImage("missing", listed if etag else "no such object") from error
        except NoBucket as error:
            raise BadImage("missing", str(error)) from error
        except Forbidden as error:
            raise BadImage("forbidden", str(error)) from error
        except Changed as error:
            raise BadImage("changed", "changed between listing and reading: run again") from error
        except OverflowError as error:
            raise BadImage("too_large", f"more than image.max_bytes ({self.max_bytes})") from error
        except UserError:
            raise
        except FruitpipeError as error:
            raise BadImage("unreadable", str(error)) from error


def threads_for(path: str) -> int:
    """How many images of a place to read at once."""
    return REMOTE_THREADS if is_remote(path) else 1


def digest(data: bytes | memoryview) -> str:
    """Digest of an image's bytes, 128 bits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
