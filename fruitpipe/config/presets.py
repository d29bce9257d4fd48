"""Configs that come with the package, by name: a YAML file each, whose first line says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fruitpipe.config.names import one_of

PRESETS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "presets").glob("*.yaml"))}


def preset_name(value: str) -> str:
    """A name that is known. Raises PydanticCustomError `unknown_name` otherwise, with the likely one."""
    return one_of(value, PRESETS, "is not a known preset: `fruitpipe presets` lists them.")


def about(name: str) -> str:
    """One-line description of a preset."""
    return PRESETS[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").rstrip(".")


def keys_of(name: str) -> dict[str, Any]:
    """The keys of a preset."""
    tree: dict[str, Any] = yaml.safe_load(PRESETS[name].read_text(encoding="utf-8"))
    return tree


def overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two config trees; where both have a key, the second wins."""
    both = ((name, under[name], over[name]) for name in under.keys() & over.keys())
    deeper = {name: overlaid(a, b) for name, a, b in both if isinstance(a, Mapping) and isinstance(b, Mapping)}
    return {**under, **over, **deeper}
