"""Image networks of today, and how a config has each of them: those of all families, and those of catalogue.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from fruitpipe.backbones.family import all_families
from fruitpipe.config import Environment
from fruitpipe.errors import UserError

FILE = Path(__file__).with_name("catalogue.yaml")


class Entry(BaseModel):
    """An image network. What is None is not known, or not asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    good_for: str | None = None
    dimension: int
    """of its features"""
    size: int
    """side of its square input, pixels"""
    parameters: int | None = None
    speed: float | None = None
    """images a second of a core, in those of mobilenet_v2"""
    licence: str | None = None
    """of the trained weights"""
    weights: str | None = None
    """where they are"""
    preset: str | None = None
    """of keras-hub, with the same weights"""
    sidecar: dict[str, Any] | None = None
    """what to write beside the ONNX file; None where a config names the network as it is, or a preset has it"""

    @property
    def backbones(self) -> list[str]:
        """What a config may say to have it."""
        of_hub = [f"keras_hub:{self.preset}"] if self.preset else []
        in_a_file = [self.file] if self.sidecar else []
        return [*of_hub, *in_a_file] or [self.name]

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"

    @property
    def sidecar_text(self) -> str:
        return yaml.safe_dump(self.sidecar, sort_keys=False)


def catalogue(environment: Environment) -> list[Entry]:
    """All networks: those that a config names as they are come first."""
    told = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    speed = told["speed"]
    about = {name: group for group in told["known"] for name in group.pop("names")}
    known = [family.listed(name, environment) for family in all_families() for name in family.names]
    entries = [
        {"name": row.name, "dimension": row.dimension, "size": row.input_size, "parameters": row.parameters}
        | about.get(row.name, {})
        for row in known
    ]
    return [Entry(**each, speed=speed.get(each["name"])) for each in [*entries, *told["others"]]]


def entry_of(name: str, environment: Environment) -> Entry:
    """One network. Raises UserError where there is none of that name."""
    for entry in catalogue(environment):
        if entry.name == name:
            return entry
    raise UserError(f"{name} is not in the catalogue: `fruitpipe backbones --all` lists it.")
