"""Whole objects under one folder or prefix: put, get, list, delete, swap. Nothing here knows their meaning."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import Bucket, open_bucket, prefix_of

TEMPORARY = ".tmp"
UNNAMEABLE = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")
"""In an object's name: what obstore refuses to write."""


class Store(ABC):
    """Objects below a folder or prefix, by name relative to it with `/` between folders. Cheap to make; pickles."""

    url: str

    @abstractmethod
    def create(self) -> None:
        """Make the folder. Raises UserError where that cannot be."""

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
    def get(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

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

    @abstractmethod
    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names below a folder and their sizes in bytes, temporary files of interrupted puts included."""

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below a folder, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object, and the folders that this leaves empty. Deleting what is not there is no error."""

    def is_linked(self, name: str) -> bool:
        """Whether an object is a link or lies behind one, and so may be somebody else's."""
        return False

    def tidy(self, ours: Callable[[str], bool]) -> int:
        """Clear away what interrupted writes of objects of `ours` have left and no listing shows; say how many."""
        return 0


def open_store(url: str, s3: S3Config | None = None) -> Store:
    """The store of a path or URL. Raises UserError where a bucket cannot be reached."""
    return BucketStore(url, open_bucket(url, s3 or S3Config())) if is_remote(url) else LocalStore(local_path(url))


def check_nameable(url: str, key: str) -> None:
    """Raise UserError where an object, or those below a folder, could not be written."""
    if UNNAMEABLE.search(key):
        raise UserError(f"cannot write to {url!r}: take //, /./, /../ and control characters out of it.")


class LocalStore(Store):
    """A folder on disk."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = Path(url).absolute()

    def create(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.url}: {error.strerror}. Choose another output folder.") from error

    def location(self, name: str) -> str:
        return str(self.root / name)

    def put(self, name: str, data: bytes | memoryview) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def upload(self, file: Path, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, path)

    def get(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, (self.root / name).open("rb"))

    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        with self._locked():
            if self.find(name) != expected:
                return False
            if data is not None:
                self.put(name, data)
            else:
                (self.root / name).unlink(missing_ok=True)
            return True

    def swaps(self, scratch: str) -> bool:
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.root / ".lock"
        if path.is_symlink():
            raise UserError(f"{path} is a link, through which nothing is written: delete it, or choose another output.")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder, name)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:  # gone since, as temporary files of others are
                    continue
                yield path.relative_to(self.root).as_posix(), size

    def folders(self, prefix: str) -> list[str]:
        path = self.root / prefix
        return sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []

    def is_linked(self, name: str) -> bool:
        path = self.root / name
        within = [path, *path.parents]
        return any(each.is_symlink() for each in within[: within.index(self.root)])

    def delete(self, name: str) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            if folder.exists():
                if any(folder.iterdir()):
                    break
                folder.rmdir()


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

    def get(self, name: str) -> bytes:
        return bytes(self.bucket.get(self._key(name)).data)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self.bucket.open(self._key(name)))

    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        key = self._key(name)
        try:
            found = self.bucket.get(key)
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

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        start = len(self._key("x")) - 1
        for page in self.bucket.pages(self._key(prefix)):
            for key, size in zip(page["key"].to_pylist(), page["size"].to_pylist(), strict=True):
                yield key[start:], size

    def folders(self, prefix: str) -> list[str]:
        return self.bucket.folders(self._key(prefix))

    def delete(self, name: str) -> None:
        self.bucket.delete(self._key(name))

    def tidy(self, ours: Callable[[str], bool]) -> int:
        start = len(self._key("x")) - 1
        return self.bucket.abort_uploads(self._prefix, lambda key: ours(key[start:]))
