"""Whole objects under one folder or prefix: put, get, list, delete, swap. Nothing here knows their meaning."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fruitpipe.errors import UserError

TEMPORARY = ".tmp"


class Store:
    """Objects in a local folder, by name relative to it with `/` between folders. Cheap to make; pickles.

    Object stores will have the same methods over fsspec.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = Path(url).absolute()

    def prepare(self) -> None:
        """Make the folder. Raises UserError where that cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {self.url}: {error.strerror}. Choose another output folder.") from error

    def location(self, name: str) -> str:
        """What a person types to reach an object."""
        return str(self.root / name)

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole object: readers see the old one or the new one, and a crash leaves no half."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def upload(self, file: Path, name: str) -> None:
        """Put a local file, moving it where that is cheaper."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, path)

    def get(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return (self.root / name).read_bytes()

    def find(self, name: str) -> bytes | None:
        """The object, or None."""
        try:
            return self.get(name)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """A seekable file for reading. Raises FileNotFoundError."""
        return cast(BinaryIO, (self.root / name).open("rb"))

    def swap(self, name: str, expected: bytes | None, data: bytes | None) -> bool:
        """Put an object (None: delete it) if what is there now is `expected` (None: nothing); say whether it was."""
        with self._locked():
            if self.find(name) != expected:
                return False
            if data is not None:
                self.put(name, data)
            else:
                (self.root / name).unlink(missing_ok=True)
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names below a folder and their sizes in bytes, temporary files of interrupted puts included."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder, name)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:  # gone since, as temporary files of others are
                    continue
                yield path.relative_to(self.root).as_posix(), size

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below a folder, sorted."""
        path = self.root / prefix
        return sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []

    def delete(self, name: str) -> None:
        """Delete an object, and the folders that this leaves empty. Deleting what is not there is no error."""
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            if folder.exists():
                if any(folder.iterdir()):
                    break
                folder.rmdir()
