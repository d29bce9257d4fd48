"""Folders for temporary files, where no other user has any business."""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

PATIENCE = 2.0
"""Seconds for what still writes to a folder to end, such as a JVM that was told to."""
NAME = re.compile(r"\.fruitpipe-\d+-\w+")


@contextmanager
def private_folder(within: Path | None = None) -> Iterator[Path]:
    """A new folder for this block. Only this user can look into it, and nobody can guess its name.

    The name says which process made it. That holds a lock on it for as long as it lives, in whatever container or on
    whatever machine: this clears away the folders beside it that were left by processes which were killed. What cannot
    be locked, as on some network file systems, stays.

    within: where to make it, by default where this system has temporary files.

    Raises OSError where it cannot be made.
    """
    parent = within or Path(tempfile.gettempdir())
    clear(parent)
    folder, lock = made(parent)
    try:
        yield folder
    finally:
        end = time.monotonic() + PATIENCE
        while not removed(folder) and time.monotonic() < end:
            time.sleep(0.05)  # what others still write there by then, the next one clears away
        os.close(lock)


@cache
def folder_of_process() -> Path:
    """A private folder that goes when this process ends. Raises OSError where it cannot be made."""
    held = ExitStack()
    atexit.register(held.close)
    return held.enter_context(private_folder())


def removed(folder: Path) -> bool:
    """Delete a folder, as far as nobody writes there meanwhile; whether it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def made(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".fruitpipe-{os.getpid()}-", dir=parent))
        # Until it has its lock, it looks like one that was left: whoever clears up just then may take it.
        with suppress(FileNotFoundError):
            lock = opened(folder)
            if locked(lock) and folder.exists():
                return folder, lock
            os.close(lock)


def locked(folder: int) -> bool:
    """Lock a folder, if nobody else has; whether it is ours now. What no lock can be had for is nobody else's."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def clear(parent: Path) -> None:
    """Delete this user's folders whose processes are gone."""
    with suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if NAME.fullmatch(entry.name)]
        for folder in found:
            with suppress(OSError):  # another user's, or one that goes meanwhile
                clear_one(folder)


def clear_one(folder: Path) -> None:
    lock = opened(folder)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed(folder)
    finally:
        os.close(lock)


def leave_deleted_folder() -> None:
    """Go to the root where the working folder has been deleted: libraries ask for it, and nothing can lie in it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")
