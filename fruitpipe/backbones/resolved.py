"""A backbone that is ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Config
from fruitpipe.engines import EngineSpec
from fruitpipe.vision.decode import features_digest, twin_features
from fruitpipe.vision.scale import Twin


class ResolvedBackbone(NamedTuple):
    """The backbone of a config, its engine here and elsewhere, and the identity of its features."""

    facts: Backbone
    engine: EngineSpec
    features: str
    """digest of the features that it gives under the config"""
    twin: Twin
    """features that are the same for small images"""
    portable: EngineSpec
    """for models, whose machines may not have the engine: gives the same features but for rounding"""
    exact: EngineSpec | None
    """in float32, to compare with; None where `engine` is"""
    objects: tuple[str, ...]
    """of the result, that it is made of: kept as long as the run"""
    text: Path | None
    """the package of its text tower, where it has one: models alone need it"""

    @classmethod
    def of(
        cls,
        config: Config,
        facts: Backbone,
        engine: EngineSpec,
        *,
        portable: EngineSpec | None = None,
        exact: EngineSpec | None = None,
        objects: tuple[str, ...] = (),
        text: Path | None = None,
    ) -> ResolvedBackbone:
        """portable: defaults to `engine`."""
        features = features_digest(facts.digest, config.image, config.precision)
        twin = twin_features(facts.digest, config.image, config.precision, facts.input_size)
        return cls(facts, engine, features, twin, portable or engine, exact, objects, text)
