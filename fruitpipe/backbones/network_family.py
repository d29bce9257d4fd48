"""Families of networks that are built in Keras and run from a flatbuffer.

The flatbuffer takes raw RGB: preprocessing is part of the graph. So whoever runs one needs an engine and an image of
the right size, not TensorFlow and not the name of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import converted, flatbuffer
from fruitpipe.backbones.family import Learning, Listed, memory_of
from fruitpipe.backbones.network_choice import KnownNetwork, NetworkChoice
from fruitpipe.config import Config, Environment
from fruitpipe.config.weights import is_whole_model

if TYPE_CHECKING:
    from fruitpipe.backbones.resolved import ResolvedBackbone

FLOAT = 4
"""Bytes of a parameter."""


class NetworkFamily(ABC):
    """A family of Keras networks."""

    networks: Mapping[str, KnownNetwork]
    pattern: ClassVar[None] = None
    keys = frozenset({"layer", "pooling", "weights", "engine", "precision", "min_cosine"})
    defaults: ClassVar[Mapping[str, Any]] = {}
    learns = False

    @abstractmethod
    def architecture(self, name: str, trained: bool) -> Any:
        """The whole Keras network, with its trained weights or with drawn ones. Raises NoWeights."""

    @abstractmethod
    def preprocess(self, name: str, image: Any) -> Any:
        """The network's preprocessing of RGB values of 0 to 255."""

    @abstractmethod
    def has_weights(self, name: str, environment: Environment) -> bool:
        """Whether its trained weights are on this machine."""

    @property
    def names(self) -> Sequence[str]:
        return list(self.networks)

    def choose(
        self, name: str, layer: str | int | None = None, pooling: str = "avg", weights: str = "imagenet"
    ) -> NetworkChoice:
        """One of its networks, with the layer that it has where none is named."""
        if layer is None and not is_whole_model(weights):
            layer = self.networks[name].layer
        return NetworkChoice(name, layer, pooling, weights)

    def chosen(self, config: Config) -> NetworkChoice:
        """The network, layer, pooling and weights that a config names."""
        return self.choose(config.backbone, config.layer, config.pooling, config.weights)

    def listed(self, name: str, environment: Environment) -> Listed:
        known = self.networks[name]
        found = converted(self.choose(name), environment)
        size = found[1].stat().st_size if found else None
        return Listed(name, known.dimension, known.side, known.parameters, size)

    def worker_memory(self, config: Config) -> int:
        known = self.networks[config.backbone]
        used = known.used if self.chosen(config).layer == known.layer else None
        return memory_of(FLOAT * (known.parameters if used is None else used))

    def resolve(self, config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
        """Converts the network if this machine has not done so before; see `resolved`."""
        backbone, path = flatbuffer(self.chosen(config), environment)
        # A known network counts as a whole: up to its maps, VGG16 has few weights and as much to compute.
        known = self.networks[config.backbone]
        parameters = backbone.parameters if is_whole_model(config.weights) else known.parameters
        return resolved(config, backbone, path, parameters, learning)

    def build(self, choice: NetworkChoice) -> tuple[Any, Backbone]:
        """See `fruitpipe.backbones.convert.Buildable`."""
        from fruitpipe.backbones.keras_model import build

        return build(choice, self)


def resolved(
    config: Config, backbone: Backbone, path: Path, parameters: int, learning: Learning | None
) -> ResolvedBackbone:
    """A converted network, run as a config says.

    parameters: how large it is, to choose the engine by.
    learning: what one in int8 is made from.

    Raises UserError and NotLearnt as `calibrated` does, UserError where the engine is not available here.
    """
    from fruitpipe.backbones.calibrated import calibrated
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines import EngineSpec
    from fruitpipe.engines.choice import network_kind

    path = path.resolve()  # as workers may be in another folder
    if config.precision == "int8":
        return calibrated(config, backbone, path, learning)
    kind = network_kind(config.engine, config.precision, parameters)
    engine = EngineSpec(kind, path)
    return ResolvedBackbone.of(
        config,
        backbone,
        engine,
        portable=engine._replace(kind="litert") if kind == "openvino" else engine,
        exact=engine._replace(kind="openvino") if kind == "openvino_bf16" else None,
    )
