"""Where images come from: list a folder, read a file. Object stores will stand beside the local functions here."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from fruitpipe.config import ImageConfig
from fruitpipe.errors import UserError
from fruitpipe.images import EXTENSIONS, BadImage
from fruitpipe.layout import MARKER

LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("content", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
"""One row per image. `etag`: changes with the file; `content`: digest of its bytes, where asked for."""
BATCH = 10_000
STATUS_OF_ERRNO = {errno.ENOENT: "missing", errno.ELOOP: "missing", errno.EACCES: "forbidden", errno.EPERM: "forbidden"}


def list_images(
    folder: str,
    labels: str = "parent",
    verify_content: bool = False,
    max_bytes: int = ImageConfig().max_bytes,
    batch: int = BATCH,
) -> Iterator[pa.RecordBatch]:
    """Every image below a folder, as batches of the schema LISTING, in no particular order.

    With `verify_content`, images of up to `max_bytes` are read for their digest.

    Streams: at no time is more held than one batch and the names of folders still to visit. Hidden files and folders
    and results of fruitpipe are passed over.

    Raises UserError where the folder is missing, cannot be listed or is no folder.
    """
    rows: list[tuple[str, str, str | None, int, str | None]] = []
    for entry in walk(root_of(folder)):
        path = name_of(entry.path)
        size, etag = size_and_etag(entry)
        label = Path(path).parent.name if labels == "parent" else None
        content = digest_of_file(entry.path, max_bytes) if verify_content else None
        rows.append((path, etag, content, size, label))
        if len(rows) == batch:
            yield to_batch(rows)
            rows.clear()
    if rows:
        yield to_batch(rows)


def root_of(folder: str) -> Path:
    """The folder to search. Raises UserError where there is none."""
    root = Path(folder).absolute()
    if not os.path.exists(root):  # noqa: PTH110 - Path.exists raises for names that are too long
        raise UserError(f"no folder {folder}: check the path of the images.")
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder that holds the images.")
    return root


def to_batch(rows: list[tuple[str, str, str | None, int, str | None]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    # A list, not the tuple that it is: for a tuple, pyarrow would load pandas.
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, LISTING, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=LISTING)


def walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """Entries that look like images. A dangling link is one: it will get its row and status."""
    folders = [(str(root), frozenset[tuple[int, int]]())]
    while folders:
        folder, ancestors = folders.pop()
        try:
            identity = Path(folder).stat()
            entries = os.scandir(folder)
        except OSError as error:
            raise UserError(
                f"cannot list {folder}: {error.strerror}. Give read rights on it or move it away."
            ) from error
        here = (identity.st_dev, identity.st_ino)
        if here in ancestors:  # a link to a folder above
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    if not os.path.exists(os.path.join(entry.path, MARKER)):  # noqa: PTH110, PTH118
                        folders.append((entry.path, ancestors | {here}))
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 - ten times a Path's speed
                    yield entry


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or through a folder that is closed to us
        return False


def size_and_etag(entry: os.DirEntry[str]) -> tuple[int, str]:
    try:
        status = entry.stat()
    except OSError as error:
        return 0, f"unknown: {error.strerror}"
    return status.st_size, f"{status.st_size}-{status.st_mtime_ns}"


def name_of(path: str) -> str:
    """The path as UTF-8 text; bytes that are not UTF-8 as \\xNN, since no Parquet string can hold them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(path: str, max_bytes: int) -> bytes:
    """The bytes of an image.

    Raises BadImage: `missing`, `forbidden`, `unreadable` or, above `max_bytes`, `too_large`.
    """
    try:
        with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("unreadable", "not a regular file")
            if status.st_size > max_bytes:
                raise BadImage("too_large", f"{status.st_size} bytes, more than image.max_bytes ({max_bytes})")
            return file.readall()
    except OSError as error:
        status_name = STATUS_OF_ERRNO.get(error.errno or 0, "unreadable")
        raise BadImage(status_name, error.strerror or str(error)) from error


def open_without_waiting(path: str, flags: int) -> int:
    """A named pipe called x.jpg would hold whoever opens it until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def digest(data: bytes) -> str:
    """Digest of an image's bytes, 128 bits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of_file(path: str, max_bytes: int) -> str | None:
    try:
        return digest(read_image(path, max_bytes))
    except BadImage:
        return None  # the run itself reads it again, and tells why it cannot
