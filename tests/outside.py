"""Packages from outside fruitpipe, as pip would install them: a module, and entry points in its .dist-info."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path, name: str, code: str, entries: Mapping[str, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put a module into a folder, where this process, those that it starts and Spark's workers look for modules.

    entries: what the package registers, module:attribute by name by group.
    """
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{entry} = {where}" for entry, where in of.items())])
        for group, of in entries.items()
    )
    (facts / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
