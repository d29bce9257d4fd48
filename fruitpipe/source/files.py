"""Images on disk: everything below a folder, or what a glob says."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from fruitpipe.errors import UserError
from fruitpipe.source.listing import HIDDEN, LISTS, THUMBNAILS, count_other, split_glob, to_listing
from fruitpipe.storage.layout import MARKER
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.formats import EXTENSIONS

STATUS_OF_ERRNO = {errno.ENOENT: "missing", errno.ELOOP: "missing", errno.EACCES: "forbidden", errno.EPERM: "forbidden"}
NO_TEXT = re.compile(r"\\x[0-9a-f]{2}")
"""What `name_of` writes for bytes that are not UTF-8."""


def list_folder(name: str, by_parent: bool, batch: int, others: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Images below a folder or of a glob; what is there besides is counted among the others, by extension.

    Streams: at no time is more held than one batch and the names of folders still to visit. Hidden files and folders
    and results of fruitpipe are passed over.

    Raises UserError where the folder is missing, cannot be listed or is no folder.
    """
    folder, pattern = root_of(name)
    start = len(name_of(os.path.join(folder, "")))  # noqa: PTH118 - a Path has no slash at its end, but for /
    rows: list[tuple[str, str, int]] = []
    for entry in walk(folder, others if pattern is None else Counter()):  # a glob means its own matches alone
        path = name_of(entry.path)
        if pattern is not None and not pattern.match(path, start):
            continue
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 - ten times a Path's speed
            size, etag = size_and_etag(entry)
            rows.append((path, etag, size))
        else:
            count_other(others, entry.name)
        if len(rows) == batch:
            yield to_batch(rows, by_parent)
            rows.clear()
    if rows:
        yield to_batch(rows, by_parent)


def root_of(name: str) -> tuple[Path, re.Pattern[str] | None]:
    """The folder to search, and what to take of it. Raises UserError where there is no such folder."""
    path = Path(name).absolute()
    # What is there is meant as it is: folders may have wild names of their own.
    root = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110 - names may be too long
    folder, pattern = split_glob("" if root == path else str(path.relative_to(root)))
    if folder:
        raise UserError(f"no folder {root / folder}: check the path of the images.")
    if not root.is_dir():
        lists = ", ".join(LISTS)
        raise UserError(f"{root} is not a folder: give the folder that holds the images, or a list of them ({lists}).")
    return root, pattern


def to_batch(rows: list[tuple[str, str, int]], by_parent: bool) -> pa.RecordBatch:
    # Lists, not the tuples that they are: for a tuple, pyarrow would load pandas.
    paths, etags, sizes = (pa.array(list(column)) for column in zip(*rows, strict=True))
    return to_listing(paths, etags, sizes, None, by_parent)


def walk(root: Path, others: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Files that are not hidden; what is, is counted.

    A dangling link is a file: as an image, it will get its row and status.
    """
    folders = [(str(root), frozenset[tuple[int, int]]())]
    while folders:
        folder, ancestors = folders.pop()
        try:
            identity = Path(folder).stat()
            here = (identity.st_dev, identity.st_ino)
            if here in ancestors:  # a link to a folder above
                continue
            entries = os.scandir(folder)
        except OSError as error:
            advice = "Give read rights on it" if error.errno in {errno.EACCES, errno.EPERM} else "Try again"
            raise UserError(f"cannot list {folder}: {error.strerror}. {advice}, or move it away.") from error
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == THUMBNAILS:
                    others[HIDDEN] += 1
                    continue
                if is_folder(entry):
                    if not os.path.exists(os.path.join(entry.path, MARKER)):  # noqa: PTH110, PTH118
                        folders.append((entry.path, ancestors | {here}))
                else:
                    yield entry


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or through a folder that is closed to us
        return False


def size_and_etag(entry: os.DirEntry[str] | Path) -> tuple[int, str]:
    """Size and etag of a file: its size and modification time."""
    try:
        status = entry.stat()
    except OSError as error:
        return 0, f"unknown: {error.strerror}"
    return status.st_size, f"{status.st_size}-{status.st_mtime_ns}"


def name_of(path: str) -> str:
    """The path as UTF-8 text; bytes that are not UTF-8 as \\xNN, since no Parquet string can hold them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(path: str, max_bytes: int, claim: Callable[[int], None] = lambda size: None) -> bytes:
    """The bytes of an image.

    claim: told how many they are before they are read; what it raises is raised.

    Raises BadImage: `missing`, `forbidden`, `unreadable`, `changed` or, above `max_bytes`, `too_large`.
    """
    try:
        with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("unreadable", "not a regular file")
            if status.st_size > max_bytes:
                raise BadImage("too_large", f"{status.st_size} bytes, more than image.max_bytes ({max_bytes})")
            claim(status.st_size)
            data = file.read(status.st_size + 1)
            if len(data) != status.st_size:
                raise BadImage("changed", "it changed while it was read: run again")
            return data
    except OSError as error:
        status_name = STATUS_OF_ERRNO.get(error.errno or 0, "unreadable")
        advice = ": its name is not UTF-8, rename it" if NO_TEXT.search(path) and status_name == "missing" else ""
        raise BadImage(status_name, f"{error.strerror or error}{advice}") from error


def open_without_waiting(path: str, flags: int) -> int:
    """A named pipe called x.jpg would hold whoever opens it until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)
