"""A file as manifests have it: its name, size and digest."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel

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
