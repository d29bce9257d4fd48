"""Models on disk."""

from __future__ import annotations

from pathlib import Path

from fruitpipe.model.model import Model


def write_model(model: Model, folder: Path) -> Path:
    """The folder, made with a model's files in it."""
    folder.mkdir(parents=True)
    for name, data in model.files().items():
        (folder / name).write_bytes(data)
    return folder
