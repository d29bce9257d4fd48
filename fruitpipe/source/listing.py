"""What is known of an image before it is read, and which names are images."""

from __future__ import annotations

import os
import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.errors import UserError
from fruitpipe.storage import layout
from fruitpipe.vision.formats import EXTENSIONS

LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("content", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
"""One row per image. `path`: absolute, or the URL of an object. `etag`: changes with the file; empty where unknown.
`content`: digest of its bytes, where asked for. `size`: bytes, 0 where unknown. `label`: as a list says, or the
name of the folder."""
BATCH = 10_000
LISTS = (".parquet", ".csv", ".jsonl", ".ndjson", ".txt", "manifest.json")
"""Ends of the names of lists of images."""
THUMBNAILS = "@eaDir"
"""A folder of thumbnails, which a Synology puts into each folder of photographs."""
HIDDEN = "hidden"
"""How hidden files and folders are counted."""
LINKED = "linked"
"""How links to folders are counted that are listed by another path."""
AGAIN = "named again"
"""How rows are counted whose image another row names, too, or another input."""
NAMELESS = "without a path"
"""How rows of a list are counted that name none."""
LONGEST_TEXT = 4096
"""Bytes of a path, label or etag in a list, at most. Systems have no longer paths."""
SHOWN = 300
"""Characters of what is wrong with a list, or of a path in it, in a message, at most."""
LONGEST, KINDS = 8, 100
"""Letters of an extension, and how many of these are counted apart."""
WILD = re.compile(r"[*?\[]")
IMAGE = rf"(?i)\.({'|'.join(sorted(extension[1:] for extension in EXTENSIONS))})\z"
PARENT = r"(?s)^(?:.*/)?([^/]*)/[^/]*\z"


def to_listing(
    paths: pa.Array, etags: pa.Array, sizes: pa.Array, labels: pa.Array | None, by_parent: bool
) -> pa.RecordBatch:
    """A batch of LISTING. Labels are those given, else the names of the folders if `by_parent`, else null.

    Accents are written in one way (NFC), as macOS and other systems write the same name differently.
    """
    if labels is None:
        labels = parents_of(paths) if by_parent else pa.nulls(len(paths), pa.string())
    labels = pc.utf8_normalize(labels, form="NFC")
    return pa.RecordBatch.from_arrays([paths, etags, pa.nulls(len(paths), pa.string()), sizes, labels], schema=LISTING)


def parents_of(paths: pa.Array) -> pa.Array:
    """Names of the folders that the paths are in."""
    return pc.replace_substring_regex(paths, PARENT, r"\1")


def are_images(names: pa.Array) -> pa.Array:
    """Which names, relative to the input, end like images and are not hidden."""
    return pc.and_not(pc.match_substring_regex(names, IMAGE), are_hidden(names))


def are_hidden(names: pa.Array) -> pa.Array:
    """Which names, relative to the input, are hidden, in a hidden folder, or thumbnails of a result."""
    return pc.match_substring_regex(names, rf"(^|/)(\.|{THUMBNAILS}/|{layout.THUMBNAILS.pattern}\z)")


def count_other(others: Counter[str], name: str) -> None:
    """Count a file by its extension, in lower case and without its dot; as `other` where it is unlike one.

    There are at most KINDS of them: names that end in numbers or hashes would make one of each file.
    """
    kind = os.path.splitext(name)[1].lower()[1:]  # noqa: PTH122 - ten times a Path's speed
    if not kind:
        kind = "without extension"
    elif len(kind) > LONGEST or not kind.isalnum() or not kind[0].isalpha():
        kind = "other"
    others[kind if kind in others or len(others) < KINDS else "other"] += 1


def split_glob(path: str) -> tuple[str, re.Pattern[str] | None]:
    """The folder that a glob starts from, and a pattern of whole paths; no pattern where there is nothing wild.

    Raises UserError where `**` is not a whole folder.
    """
    wild = WILD.search(path)
    if wild is None:
        return path, None
    try:
        pattern = translated(path).replace("(?:.+/)?", "(?:.*/)?")  # ** stands for a folder without a name, too
        return path[: wild.start()].rpartition("/")[0], re.compile(pattern)
    except ValueError:
        raise UserError(f"{path}: ** stands for folders, as in photos/**/*.jpg.") from None


def translated(glob: str) -> str:
    """A glob as a regular expression of whole paths. Raises ValueError where `**` is not a whole folder."""
    from fsspec.utils import glob_translate  # with asyncio and all of fsspec, which most inputs do without

    return str(glob_translate(glob))
