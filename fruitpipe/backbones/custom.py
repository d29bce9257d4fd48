"""Classes of the user's own, named in the config as package.module:Class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import WORKER, Learning, Listed
from fruitpipe.config import Config, Environment

if TYPE_CHECKING:
    from fruitpipe.backbones.resolved import ResolvedBackbone


class CustomBackbones:
    """Classes that implement `fruitpipe.CustomBackbone`."""

    names: ClassVar[tuple[str, ...]] = ()
    pattern = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
    keys: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {}
    learns = False

    def listed(self, name: str, environment: Environment) -> Listed:
        """Raises UserError where the class is missing or does not implement the protocol."""
        from fruitpipe.engines.custom import create

        _, description = create(name)
        return Listed(name, description.dimension, description.input_size, None, None)

    def worker_memory(self, config: Config) -> int:
        """MiB, without what the class itself allocates."""
        return WORKER

    def resolve(self, config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
        """Asks the class to describe itself."""
        from fruitpipe.backbones.resolved import ResolvedBackbone
        from fruitpipe.engines import EngineSpec
        from fruitpipe.engines.custom import artefact, create

        _, description = create(config.backbone)
        data = artefact(config.backbone, description)
        backbone = Backbone(
            name=config.backbone,
            input_size=description.input_size,
            layer="feature",
            pooling="none",
            weights=hashlib.sha256(data).hexdigest(),
            dimension=description.dimension,
            parameters=0,
        )
        return ResolvedBackbone.of(config, backbone, EngineSpec("python", data))
