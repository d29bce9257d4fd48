"""Images on disk: everything below a folder, or what a glob says."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pyarrow as pa

from fruitpipe.config import absolute_path
from fruitpipe.errors import UserError
from fruitpipe.source.listing import HIDDEN, LINKED, LISTS, THUMBNAILS, count_other, split_glob, to_listing, translated
from fruitpipe.storage.layout import MARKER
from fruitpipe.vision.bad_image import REPLACED, BadImage
from fruitpipe.vision.formats import EXTENSIONS

STATUS_OF_ERRNO = {errno.ENOENT: "missing", errno.ELOOP: "missing", errno.EACCES: "forbidden", errno.EPERM: "forbidden"}
STAT_ETAG = re.compile(r"\d+-\d{18,}\Z|unknown: ")
"""Etags of `size_and_etag`, but for those of files from before 1973: a list may give files etags such as `12-3`."""
NO_TEXT = "unknown: name is not UTF-8"
"""The etag of a file whose path no Parquet string can hold."""


def list_folder(name: str, by_parent: bool, batch: int, others: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Images below a folder or of a glob; what is there besides is counted among the others, by extension.

    Streams: at no time is more held than one batch, the names of folders still to visit, and some 130 bytes of each
    that was visited. Hidden files and folders and results of fruitpipe are passed over.

    Raises UserError where the folder is missing, cannot be listed or is no folder.
    """
    folder, glob = root_of(name)
    pattern = split_glob(glob)[1]
    start = len(name_of(os.path.join(folder, "")))  # noqa: PTH118 - a Path has no slash at its end, but for /
    rows: list[tuple[str, str, int]] = []
    # A glob means its own matches alone.
    for entry in walk(folder, Steps(glob), others if pattern is None else Counter()):
        path = name_of(entry.path)
        if pattern is not None and not pattern.match(path, start):
            continue
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 - ten times a Path's speed
            size, etag = size_and_etag(entry)
            if (raw := os.fsencode(entry.path)) != path.encode():
                path, etag = unlike_any_image(raw), NO_TEXT
            rows.append((path, etag, size))
        else:
            count_other(others, entry.name)
        if len(rows) == batch:
            yield to_batch(rows, by_parent)
            rows.clear()
    if rows:
        yield to_batch(rows, by_parent)


def root_of(name: str) -> tuple[Path, str]:
    """The folder to search, and the glob below it, empty where all is meant. Raises UserError where there is none."""
    path = absolute_path(name)
    # What is there is meant as it is: folders may have wild names of their own.
    root = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110 - names may be too long
    glob = "" if root == path else str(path.relative_to(root))
    if folder := split_glob(glob)[0]:
        raise UserError(f"no folder {root / folder}: check the path of the images.")
    if not root.is_dir():
        globs = " a glob in quotes," if root.suffix.lower() in EXTENSIONS else ""  # which the shell has expanded
        raise UserError(
            f"{root} is not a folder: give the folder that holds the images,{globs} or a list of them "
            f"({', '.join(LISTS)})."
        )
    return root, glob


class Steps:
    """The folders that a glob leads into: by their names to begin with, and all of them from its first `**` on."""

    def __init__(self, glob: str) -> None:
        *folders, last = glob.split("/") if glob else ["**"]
        self._named = [re.compile(translated(name)) for name in takewhile(lambda name: name != "**", folders)]
        self._all = "**" in {*folders, last}

    def lead_into(self, name: str, depth: int) -> bool:
        """Whether images may be in a folder of this name, so many folders below the root."""
        return bool(self._named[depth].match(name)) if depth < len(self._named) else self._all

    def level(self, depth: int) -> int:
        """The same for folders in which the same names match."""
        return min(depth, len(self._named))


def to_batch(rows: list[tuple[str, str, int]], by_parent: bool) -> pa.RecordBatch:
    # Lists, not the tuples that they are: for a tuple, pyarrow would load pandas.
    paths, etags, sizes = (pa.array(list(column)) for column in zip(*rows, strict=True))
    return to_listing(paths, etags, sizes, None, by_parent)


def walk(root: Path, steps: Steps, others: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Files that are not hidden; what is, is counted.

    Each folder is walked once, however many links lead to it, so that links to links make no more files than there are:
    by its own path, if that is below the root, or else by the link with the fewest links above it that comes first. The
    links passed over for that are counted, too.

    A dangling link is a file: as an image, it will get its row and status.
    """
    walked: set[tuple[int, int, int]] = set()
    reached = [(str(root), 0)]
    while reached:
        links: list[tuple[str, int]] = []
        folders = sorted(reached, reverse=True)
        while folders:
            folder, depth = folders.pop()
            try:
                identity = Path(folder).stat()
                here = (identity.st_dev, identity.st_ino, steps.level(depth))
                if here in walked:
                    others[LINKED] += 1
                    continue
                walked.add(here)
                entries = os.scandir(folder)
            except OSError as error:
                advice = "Give read rights on it" if error.errno in {errno.EACCES, errno.EPERM} else "Try again"
                raise UserError(f"cannot list {folder}: {error.strerror}. {advice}, or move it away.") from error
            below: list[tuple[str, int]] = []
            with entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == THUMBNAILS:
                        others[HIDDEN] += 1
                    elif not is_folder(entry):
                        yield entry
                    elif steps.lead_into(name_of(entry.name), depth) and not is_result(entry.path):
                        (links if entry.is_symlink() else below).append((entry.path, depth + 1))
            folders += sorted(below, reverse=True)
        reached = links


def is_result(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, MARKER))  # noqa: PTH110, PTH118 - as above


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or through a folder that is closed to us
        return False


def size_and_etag(path: os.DirEntry[str] | bytes) -> tuple[int, str]:
    """Size and etag of a file: its size and modification time."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except OSError as error:
        return 0, f"unknown: {error.strerror}"
    except ValueError as error:  # a list may name what cannot be a name
        return 0, f"unknown: {error}"
    return status.st_size, etag_of(status)


def etag_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def name_of(path: str) -> str:
    """The path as UTF-8 text; bytes that are not UTF-8 as \\xNN, since no Parquet string can hold them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unlike_any_image(path: bytes) -> str:
    """A path that is not UTF-8 as text that no other image has for its path: no name of an image ends so."""
    return path.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace") + " (not UTF-8)"


def read_image(path: str, max_bytes: int, etag: str = "", claim: Callable[[int], None] = lambda size: None) -> bytes:
    """The bytes of an image, those that were listed with this etag, unless that is a list's own.

    claim: told how many they are before they are read; what it raises is raised.

    Raises BadImage: `missing`, `forbidden`, `unreadable`, `changed` or, above `max_bytes`, `too_large`.
    """
    if etag == NO_TEXT:
        raise BadImage("missing", "its name is not UTF-8: rename it")
    try:
        with open(path.encode(), "rb", buffering=0, opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("unreadable", "not a regular file")
            if STAT_ETAG.match(etag) and etag != etag_of(status):
                raise BadImage("changed", REPLACED)
            if status.st_size > max_bytes:
                raise BadImage("too_large", f"{status.st_size} bytes, more than image.max_bytes ({max_bytes})")
            claim(status.st_size)
            data = file.read(status.st_size + 1)
            if len(data) != status.st_size or etag_of(os.fstat(file.fileno())) != etag_of(status):
                raise BadImage("changed", "it changed while it was read: run again")
            return data
    except ValueError as error:
        raise BadImage("missing", f"no file can have this name: {error}") from error
    except OSError as error:
        raise BadImage(STATUS_OF_ERRNO.get(error.errno or 0, "unreadable"), error.strerror or str(error)) from error


def open_without_waiting(path: str | bytes, flags: int) -> int:
    """A named pipe called x.jpg would hold whoever opens it until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)
