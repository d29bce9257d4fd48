"""Facts about a converted backbone."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict


class Backbone(BaseModel):
    """One network with its weights, cut off at a layer."""

    model_config = ConfigDict(frozen=True)

    name: str
    input_size: int
    """Side of the square input, pixels."""
    layer: str
    pooling: str
    weights: str
    """SHA-256 of all arrays up to the layer; of a whole model, of its layers as well; of a SavedModel, of its files."""
    dimension: int
    """Length of a feature."""
    parameters: int
    """up to the layer"""

    @property
    def digest(self) -> str:
        """Identity of the network: architecture, layer, pooling, preprocessing, input size and weights."""
        parts = (self.name, self.layer, self.pooling, self.input_size, self.weights)
        return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
