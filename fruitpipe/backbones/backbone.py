"""What is known of a backbone without loading Keras."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast


class Definition(Protocol):
    """The module that defines a backbone, named `fruitpipe.backbones.<name>`."""

    INPUT_SIZE: int
    """Side of the square input, pixels."""
    LAYER: str
    """The layer whose output is the feature."""

    def weights_file(self, keras_home: Path) -> Path:
        """Where the trained weights are, or will be once Keras has downloaded them."""

    def build(self) -> Any:
        """The Keras model from RGB values of 0 to 255, shape (1, side, side, 3), to features, shape (1, d).

        Raises UserError where the weights are not to be had.
        """


@dataclass(frozen=True)
class Backbone:
    """One network with its weights."""

    name: str
    input_size: int
    """Side of the square input, pixels."""
    layer: str
    weights: str
    """SHA-256 of the weights file."""

    @property
    def digest(self) -> str:
        """Identity of the network: architecture, layer, preprocessing, input size and weights."""
        return hashlib.sha256(f"{self.name}|{self.layer}|{self.input_size}|{self.weights}".encode()).hexdigest()


def definition(name: str) -> Definition:
    return cast(Definition, importlib.import_module(f"fruitpipe.backbones.{name}"))


def by_name(name: str, keras_home: Path) -> Backbone | None:
    """The backbone of this name, or None as long as its weights are not on this machine."""
    module = definition(name)
    weights = module.weights_file(keras_home)
    if not weights.is_file():
        return None
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return Backbone(name, module.INPUT_SIZE, module.LAYER, digest)
