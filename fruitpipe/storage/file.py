"""A file as manifests have it: its name, size and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pydantic import AfterValidator, BaseModel

from fruitpipe.storage import layout

Data = bytes | memoryview


class File(BaseModel):
    """One file of a run."""

    name: str
    """within the run's folder, or that of the result"""
    rows: int | None = None
    bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: Data, rows: int | None = None) -> File:
        return cls(name=name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    @classmethod
    def at(cls, name: str, path: Path, rows: int | None = None) -> File:
        """Of what lies on disk."""
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
        return cls(name=name, rows=rows, bytes=path.stat().st_size, sha256=digest.hexdigest())


def named(form: Callable[[str], bool]) -> AfterValidator:
    """Validation of a file in a document by the form of its name."""

    def check(file: File) -> File:
        layout.require(form, file.name)
        return file

    return AfterValidator(check)
