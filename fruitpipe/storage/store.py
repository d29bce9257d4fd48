"""Whole objects under one folder or prefix: put, get, list, delete, swap.

Nothing here knows their meaning, only how large they may be.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from fruitpipe import units
from fruitpipe.config import S3Config, absolute_path, is_remote, local_path
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import Bucket, Found, open_bucket, prefix_of
from fruitpipe.storage import layout
from fruitpipe.storage.tree import IN_THE_WAY, Tree

UNNAMEABLE = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")
"""In an object's name: what obstore refuses to write."""


class Upload(NamedTuple):
    """An upload in parts that began and has not ended, as a crash leaves it; no listing of objects shows it."""

    name: str
    """of the object that it would have become"""
    id: str


class Store(ABC):
    """Objects below a folder or prefix, by name relative to it with `/` between folders. Cheap to make; pickles.

    Whoever made the place cannot lead us out of it: methods raise UserError where a name is none of an object there,
    as on disk where a link is in the way.
    """

    url: str

    @abstractmethod
    def create(self) -> None:
        """Make the folder. Raises UserError where that cannot be, or where what is there is no place for results.

        Raises FruitpipeError where the disk is full.
        """

    @abstractmethod
    def location(self, name: str) -> str:
        """What a person types to reach an object."""

    @abstractmethod
    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object: readers see the old one or the new one, and a crash leaves no half."""

    @abstractmethod
    def upload(self, file: Path, name: str) -> None:
        """Put a local file, moving it where that is cheaper."""

    @abstractmethod
    def copy(self, name: str, to: str) -> None:
        """Give an object, which is never changed, another name too, moving no bytes where that can be.

        Raises FileNotFoundError.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Raises FileNotFoundError, and UserError where it is no object, or larger than `layout` allows."""

    def find(self, name: str) -> bytes | None:
        """The object, or None."""
        try:
            return self.get(name)
        except FileNotFoundError:
            return None

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A seekable file for reading. Raises FileNotFoundError."""

    @abstractmethod
    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        """Put an object (None: delete it) if what is there now is `expected` (None: nothing); say whether it was."""

    @abstractmethod
    def swaps(self, scratch: str) -> bool:
        """Whether the store does so in one step, or two writers that come at the same moment may both succeed.

        May find out by an object of the name `scratch`, which is not there before and not there afterwards.
        """

    def folds(self, name: str) -> bool:
        """Whether an object of the store is also that of a key with `//` for its last `/`, as where keys are paths."""
        return False

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names of objects below a folder and their sizes in bytes, temporary files of interrupted puts included."""
        return ((name, size) for name, size in self.entries(prefix) if size is not None)

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """As `names`, with what is no object, such as a link, and has None for its size."""

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below a folder, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object, and the folders that this leaves empty. Deleting what is not there is no error."""

    def delete_all(self, names: Iterable[str], before: Callable[[], None] = lambda: None) -> None:
        """Delete objects, in a bucket a thousand with one request where it can.

        before: called before each request or file; ends it by raising.
        """
        for name in names:
            before()
            self.delete(name)

    def uploads(self) -> list[Upload]:
        """All uploads in parts that have not ended, whoever began them, by name. Raises Forbidden."""
        return []

    def abort(self, upload: Upload) -> None:
        """Clear away what an upload has left."""
        raise NotImplementedError


def open_store(url: str, s3: S3Config | None = None) -> Store:
    """The store of a path or URL. Raises UserError where a bucket cannot be reached, or the working folder is gone."""
    return BucketStore(url, open_bucket(url, s3 or S3Config())) if is_remote(url) else LocalStore(local_path(url))


def too_large(place: str, name: str) -> UserError:
    """What to say of an object that is larger than fruitpipe makes one of its name."""
    most = units.size(layout.most_bytes(name))
    return UserError(
        f"{place} is larger than the {most} that such a file has at most: it is damaged, or not fruitpipe's. Delete "
        "it, or choose another place."
    )


def check_nameable(url: str, key: str) -> None:
    """Raise UserError where an object, or those below a folder, could not be written."""
    if UNNAMEABLE.search(key):
        raise UserError(f"cannot write to {url!r}: take //, /./, /../ and control characters out of it.")


def not_writable(url: str, error: OSError) -> FruitpipeError:
    """What to say of a place on disk that takes no files."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return FruitpipeError(f"the disk of {url} is full: make room there, and give the same command again.")
    advice = "Choose" if error.errno in IN_THE_WAY else "Have it made writable, or choose"
    return UserError(f"cannot write to {url}: {error.strerror}. {advice} another output.")


class LocalStore(Store):
    """A folder on disk. Nothing below it is reached through a link; the folder itself may be one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = absolute_path(url)
        self._tree = Tree(self.root)

    def create(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(self.url, error) from error
        for name in layout.FOLDERS:  # a link is told now and not after hours
            self.folders(name)
        self.find(layout.LATEST)

    def location(self, name: str) -> str:
        return str(self.root / name)

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._tree.write(name, lambda file: file.write(data))

    def upload(self, file: Path, name: str) -> None:
        self._tree.move(file, name)

    def copy(self, name: str, to: str) -> None:
        self._tree.link(name, to)

    def get(self, name: str) -> bytes:
        with self._tree.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > layout.most_bytes(name):
                raise too_large(self.location(name), name)
            return file.read(size)

    def open(self, name: str) -> BinaryIO:
        return self._tree.open(name)

    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        with self._tree.locked():
            if self.find(name) != expected:
                return False
            if data is not None:
                self.put(name, data)
            elif expected is not None:
                self._tree.remove(name)
            return True

    def swaps(self, scratch: str) -> bool:
        return True

    def entries(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        return self._tree.walk(prefix)

    def folders(self, prefix: str) -> list[str]:
        return self._tree.folders(prefix)

    def delete(self, name: str) -> None:
        self._tree.remove(name)


class BucketStore(Store):
    """A prefix of a bucket. There are no folders to make: an object's name holds them."""

    def __init__(self, url: str, bucket: Bucket) -> None:
        self.url = url.removesuffix("/")
        self.bucket = bucket
        self._prefix = prefix_of(url)

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._prefix, name)))

    def create(self) -> None:
        if self._prefix:
            check_nameable(self.url, self._prefix)
        self.bucket.has_any(self._prefix)  # or says why it cannot be reached

    def location(self, name: str) -> str:
        return f"{self.bucket.url}/{self._key(name)}"

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.bucket.put(self._key(name), data)

    def upload(self, file: Path, name: str) -> None:
        self.bucket.put(self._key(name), file)
        file.unlink()

    def copy(self, name: str, to: str) -> None:
        self.bucket.copy(self._key(name), self._key(to))

    def get(self, name: str) -> bytes:
        return bytes(self._get(name).data)

    def _get(self, name: str) -> Found:
        def admit(size: int) -> None:
            if size > layout.most_bytes(name):
                raise too_large(self.location(name), name)

        return self.bucket.get(self._key(name), admit=admit)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self.bucket.open(self._key(name)))

    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        key = self._key(name)
        try:
            found = self._get(name)
        except FileNotFoundError:
            if expected is not None:
                return False
            return data is None or self.bucket.put_if(key, data, None)
        if bytes(found.data) != expected:
            return False
        if data is not None:
            return self.bucket.put_if(key, data, found)
        self.bucket.delete(key)  # stores have no conditional delete; this one is a moment after the comparison
        return True

    def swaps(self, scratch: str) -> bool:
        key = self._key(scratch)
        try:
            self.bucket.put(key, b"1")
            found = self.bucket.get(key)
            self.bucket.put(key, b"2")  # some stores accept conditions and pass over them
            return not self.bucket.put_if(key, b"3", None) and not self.bucket.put_if(key, b"3", found)
        finally:
            self.bucket.delete(key)

    def folds(self, name: str) -> bool:
        folder, _, last = self._key(name).rpartition("/")
        try:
            self.bucket.get(f"{folder}//{last}")
        except (FileNotFoundError, FruitpipeError):  # also where it cannot be told, as without a right to list
            return False
        return True

    def entries(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        start = len(self._key("x")) - 1
        for page in self.bucket.pages(self._key(prefix)):
            for key, size in zip(page["key"].to_pylist(), page["size"].to_pylist(), strict=True):
                yield key[start:], size

    def folders(self, prefix: str) -> list[str]:
        return self.bucket.folders(self._key(prefix))

    def delete(self, name: str) -> None:
        self.bucket.delete(self._key(name))

    def delete_all(self, names: Iterable[str], before: Callable[[], None] = lambda: None) -> None:
        self.bucket.delete_all(map(self._key, names), before)

    def uploads(self) -> list[Upload]:
        start = len(self._key("x")) - 1
        return sorted(Upload(key[start:], id) for key, id in self.bucket.uploads(self._prefix))

    def abort(self, upload: Upload) -> None:
        self.bucket.abort_upload(self._key(upload.name), upload.id)
