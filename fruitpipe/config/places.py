"""Paths and URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fruitpipe.config.secrets import secret_free
from fruitpipe.errors import UserError

SCHEMES = ("s3", "gs", "az", "file")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def text_of(value: Any) -> Any:
    """A path of any kind as text; anything else as it is. Raises ValueError for a URL that was made a path."""
    if not isinstance(value, os.PathLike):
        return value
    text = os.fspath(value)
    if isinstance(text, str) and re.match(r"\w+:/[^/]", text):
        raise ValueError("give a URL as text: a Path takes a slash out of it")
    return text


def listed(value: Any) -> Any:
    """Several places as a list, whatever holds them; one place as it is."""
    one = isinstance(value, str | bytes | os.PathLike | Mapping) or not isinstance(value, Iterable)
    return value if one else list(value)


def location(url: str) -> str:
    """Check a path or URL of a place. Raises ValueError, never quoting a key."""
    if (scheme := SCHEME.match(url)) is None:
        return url
    secret_free(url)
    if scheme[1] in {"s3a", "s3n", "S3"}:
        raise ValueError("write s3:// here")
    if scheme[1] in {"http", "https"}:
        raise ValueError("write s3://bucket/folder here, and the server as s3.endpoint where it is not AWS")
    if scheme[1] not in SCHEMES:
        raise ValueError(f"no such scheme: a path, or {', '.join(f'{name}://' for name in SCHEMES)}")
    if scheme[1] == "file":
        if is_remote(url):
            raise ValueError("write file:///folder here, or /folder alone")
    elif not re.match(r"[a-z0-9]+://[A-Za-z0-9]", url):
        raise ValueError(f"expected {scheme[1]}://bucket/folder")
    return url


def is_remote(url: str) -> bool:
    """Whether a place is no path on this disk; what is no object store either, is refused as it is opened."""
    return SCHEME.match(url) is not None and not url.startswith("file:///")


def local_path(url: str) -> str:
    """The path of a place on disk, which may be given as file://…"""
    return url if is_remote(url) else url.removeprefix("file://")


def absolute_path(url: str) -> Path:
    """The path from the root of a place on disk; links are followed where `..` comes after them, as the system does.

    Raises UserError where it starts from a working folder that has been deleted.
    """
    try:
        path = Path(local_path(url)).absolute()
    except FileNotFoundError:
        raise UserError("the folder you are in is gone: cd elsewhere, or give absolute paths.") from None
    if ".." not in path.parts:
        return path
    end = len(path.parts) - path.parts[::-1].index("..")
    return Path(os.path.realpath(Path(*path.parts[:end])), *path.parts[end:])
