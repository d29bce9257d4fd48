"""Files below one folder of a disk, reached without following a link: who made them cannot lead us out of it.

Each folder on the way is opened within the one before (openat(2), O_NOFOLLOW), so that nothing can be put in between.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fruitpipe.errors import UserError, in_words
from fruitpipe.objects import Forbidden

TEMPORARY = ".tmp"
LOCK = ".lock"
LOCK_RIGHTS = 0o622
"""Who may write may lock, and nobody else: a lock needs no right but to open the file."""
PATIENCE = 30.0
"""Seconds to wait for the lock, which others hold for as long as it takes to write a small file."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""A named pipe would hold whoever opens it until somebody writes."""
NO_LINKS = {errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a system says where a file cannot have a further name: the disk knows none, or it is somebody else's file."""
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What a system says of a place where there can be no folder, whoever asks: a file is there, or a link to nowhere."""
DEEPEST = 8
"""Folders within one another that are looked into; fruitpipe makes four."""


class Entry(NamedTuple):
    """What a folder holds."""

    name: str
    """from the tree's root"""
    bytes: int | None
    """None of what is no regular file: a link, a pipe, or a folder that is closed to us or too deep"""


class Tree:
    """A folder on disk and what is below it. The folder itself may be a link.

    Names have `/` between folders. Methods raise OSError as the system does, and UserError where a name would lead out
    of the tree, through a link, or to what is no regular file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str) -> BinaryIO:
        """A regular file, for reading. Raises Forbidden where it may not be read: it is not damaged."""
        try:
            with self._parent(name) as (folder, last):
                descriptor = self._open(folder, last, FILE, name)
        except PermissionError as error:
            raise Forbidden(in_words(error)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._no_file(name)
        return os.fdopen(descriptor, "rb")

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Make a file, and the folders that it is in, by what `fill` writes: it appears when it is whole."""
        with self._parent(name, make=True) as (folder, last):
            temporary = f".{last}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def move(self, file: Path, name: str) -> None:
        """Put a file from elsewhere here, copying it only where it is on another disk."""
        with self._parent(name, make=True) as (folder, last):
            try:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                os.replace(file, last, dst_dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                return
        with file.open("rb") as source:
            self.write(name, partial(shutil.copyfileobj, source))
        file.unlink()

    def link(self, name: str, to: str) -> None:
        """Give a file a further name, in place of what has it now; where the disk cannot, copy the file."""
        with self.open(name) as source:
            try:
                with self._parent(name) as (folder, last), self._parent(to, make=True) as (target, new):
                    with suppress(FileNotFoundError):
                        os.unlink(new, dir_fd=target)
                    os.link(last, new, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self.write(to, partial(shutil.copyfileobj, source))

    def remove(self, name: str) -> None:
        """Delete a file, and the folders that this leaves empty. What is not there is no error."""
        with suppress(FileNotFoundError), self._parent(name) as (folder, last):
            os.unlink(last, dir_fd=folder)
        while name := name.rpartition("/")[0]:
            try:
                with self._parent(name) as (folder, last):
                    os.rmdir(last, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError:  # not empty
                return

    def walk(self, name: str) -> Iterator[Entry]:
        """All that is below a folder but folders, in no order; nothing where there is no such folder."""
        try:
            folder = self._enter(parts_of(name) if name else [])
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            yield from entries_of(folder, name)
        finally:
            os.close(folder)

    def folders(self, name: str) -> list[str]:
        """Names of the folders right below one, sorted; none where there is no such folder."""
        try:
            folder = self._enter(parts_of(name) if name else [])
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            with os.scandir(folder) as found:
                return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        finally:
            os.close(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes, and threads, from coming in here meanwhile."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        with self._parent(LOCK) as (folder, last):
            descriptor = self._open(folder, last, flags, LOCK, LOCK_RIGHTS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._no_file(LOCK)
            rights = stat.S_IMODE(status.st_mode)
            if rights & ~LOCK_RIGHTS and status.st_uid == os.geteuid():  # made by an earlier fruitpipe
                os.fchmod(descriptor, rights & LOCK_RIGHTS)
            self._wait_for(descriptor)
            try:
                yield
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # what was forked meanwhile has it open, too
        finally:
            os.close(descriptor)

    def _wait_for(self, lock: int) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    path = self.root / LOCK
                    raise UserError(
                        f"another process has held {path} for {PATIENCE:.0f} s: end it (`fuser {path}` says which), "
                        "or delete the file while nobody writes there."
                    ) from None
                time.sleep(0.005)

    @contextmanager
    def _parent(self, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that a name is in, as a descriptor, and the name within it; errors get the whole path."""
        *above, last = parts_of(name)
        try:
            folder = self._enter(above, make)
            try:
                yield folder, last
            finally:
                os.close(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.root / name)) from error

    def _enter(self, parts: Sequence[str], make: bool = False) -> int:
        """A descriptor of a folder, made with those above where it is to be.

        Raises UserError where the root cannot be one.
        """
        try:
            if make:
                self.root.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.root, FOLDER)
        except OSError as error:
            if error.errno in IN_THE_WAY:
                raise UserError(f"cannot use {self.root}: {error.strerror}. Choose another folder.") from error
            raise
        for number, part in enumerate(parts, 1):
            outer = folder
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=outer)
                folder = self._open(outer, part, FOLDER, "/".join(parts[:number]))
            finally:
                os.close(outer)
        return folder

    def _open(self, folder: int, part: str, flags: int, name: str, rights: int = 0) -> int:
        """Open what a folder holds. name: the whole one, for messages."""
        try:
            return os.open(part, flags | os.O_NOFOLLOW, rights, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR} and is_link(folder, part):
                raise UserError(
                    f"{self.root / name} is a link, and none is followed below {self.root}: put there what it leads "
                    "to. Only the folder as a whole may be a link."
                ) from None
            if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
                raise self._no_file(name) from None
            raise

    def _no_file(self, name: str) -> UserError:
        return UserError(f"{self.root / name} is not a regular file: delete it, or choose another place.")


def parts_of(name: str) -> list[str]:
    """The parts of a name. Raises UserError where one leads elsewhere than into a folder."""
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
        raise UserError(f"{name!r} cannot be the name of a file or folder.")
    return parts


def is_link(folder: int, part: str) -> bool:
    return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)


def entries_of(folder: int, name: str) -> Iterator[Entry]:
    """What is below an open folder, which has this name."""
    with os.scandir(folder) as found:
        for entry in found:
            path = f"{name}/{entry.name}" if name else entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone since, as temporary files of others are
                continue
            if is_folder:
                yield from entries_within(folder, entry.name, path)
            else:
                yield Entry(path, status.st_size if stat.S_ISREG(status.st_mode) else None)


def entries_within(folder: int, part: str, path: str) -> Iterator[Entry]:
    """What is below a folder within an open one; the folder itself where it cannot be looked into."""
    try:
        inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder) if path.count("/") < DEEPEST else None
    except FileNotFoundError:
        return
    except OSError:
        inner = None
    if inner is None:
        yield Entry(path, None)
        return
    try:
        yield from entries_of(inner, path)
    finally:
        os.close(inner)
