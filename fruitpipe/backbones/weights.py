"""Identity of a user's own weights: a digest of their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fruitpipe.config.weights import is_saved_model

SAVED_MODEL = "saved_model.pb"


def content_digest(weights: str) -> str:
    """SHA-256 of a file of weights, or of the names and bytes of all files of a SavedModel.

    Raises OSError where there is none.
    """
    path = Path(weights)
    if not is_saved_model(weights):
        return file_digest(path)
    (path / SAVED_MODEL).stat()  # any other folder may have terabytes
    return folder_digest(path)


def folder_digest(path: Path) -> str:
    """SHA-256 of the names and bytes of all files of a folder."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = "\n".join(f"{file_digest(files[name])} {name}" for name in sorted(files))
    return hashlib.sha256(listed.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
