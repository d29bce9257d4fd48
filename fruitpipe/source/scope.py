"""What a list of images may name: whoever wrote it does not choose what else is read with the rights of who runs it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import reduce
from shlex import join

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import absolute_path, is_remote
from fruitpipe.errors import UserError
from fruitpipe.objects import bucket_of
from fruitpipe.source.listing import SHOWN

OBJECTS = ("s3://", "gs://", "az://")
NEVER = ("/dev/", "/proc/", "/sys/")
"""Folders whose files are no files of a disk, but for MEMORY."""
MEMORY = ("/dev/shm/",)
ROUNDABOUT = ("//", "/.")
"""In a path: what may lead elsewhere than it seems."""


def folder_with(name: str) -> str:
    """The folder that a list is in, absolute."""
    return name.rpartition("/")[0] if is_remote(name) else str(absolute_path(name).parent)


class Scope:
    """The places whose images a list may name.

    A list on disk names files below its own folder, and objects of any bucket; one in a bucket, objects of that bucket.
    allow: further folders, buckets or prefixes.
    """

    def __init__(self, name: str, allow: Sequence[str] = ()) -> None:
        self.folder = folder_with(name)
        self._name, self._allow = name, allow
        self._own = bucket_of(name) if is_remote(name) else self.folder
        anywhere = () if is_remote(name) else OBJECTS
        self._places = [*anywhere, *(place for each in (self._own, *allow) for place in spellings(each))]

    def checked(self, paths: pa.Array, before: int, kind: str = "row") -> pa.Array:
        """These absolute paths or URLs, on disk without `..`: the system would follow a link before it. Nulls stay.

        before: how many rows there were before.

        Raises UserError where one is elsewhere.
        """
        objects = begin_with(paths, OBJECTS)
        roundabout = pc.and_not(reduce(pc.or_, (pc.match_substring(paths, part) for part in ROUNDABOUT)), objects)
        straight = pa.array(map(normal, paths.filter(roundabout).to_pylist()), pa.string())
        led = pc.replace_with_mask(paths, roundabout, straight)
        fine = begin_with(led, self._places)
        never = pc.and_not(begin_with(led, NEVER), begin_with(led, MEMORY))
        row = pc.index(pc.and_not(fine, never), False).as_py()
        if row < 0:
            return led
        path = paths[row].as_py()
        said = f"{self._name} names {path[:SHOWN]!r} in its {kind} {before + row + 1}"
        if never[row].as_py():
            raise UserError(f"{said}: no list may name what is no file of a disk.")
        places = places_of(led.filter(pc.invert(pc.or_(fine, never))).to_pylist())
        assignment = f"lists.allow=[{', '.join(map(in_yaml, [*self._allow, *places]))}]"
        example = f" ({join(['--set', assignment])})" if len(assignment) <= SHOWN else ""
        raise UserError(
            f"{said}, outside of {self._own}: if you trust the list, set lists.allow to the places of such images"
            f"{example}."
        )


def places_of(paths: Sequence[str]) -> list[str]:
    """Buckets and folders that hold all of these: one folder if they have any in common."""
    buckets = {bucket_of(path) for path in paths if path.startswith(OBJECTS)}
    folders = {os.path.dirname(path) for path in paths if not path.startswith(OBJECTS)}  # noqa: PTH120
    common = os.path.commonpath(folders) if folders else "/"
    return sorted(buckets) + (sorted(folders) if common == "/" else [common])


def in_yaml(place: str) -> str:
    """A place as an item of a list in YAML."""
    return place if re.fullmatch(r"(\w+:/)?[\w/.@+~-]+", place) else json.dumps(place, ensure_ascii=False)


def begin_with(paths: pa.Array, beginnings: Sequence[str]) -> pa.Array:
    return reduce(pc.or_, (pc.starts_with(paths, each) for each in beginnings))


def spellings(place: str) -> set[str]:
    """What the paths of a place begin with; a folder may be named by links."""
    if is_remote(place):
        return {f"{place.rstrip('/')}/"}
    folder = absolute_path(place)
    return {f"{normal(str(each)).rstrip('/')}/" for each in (folder, os.path.realpath(folder))}


def normal(path: str) -> str:
    """A path without what may lead elsewhere than it seems."""
    return re.sub("^/+", "/", os.path.normpath(path))
