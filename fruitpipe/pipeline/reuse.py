"""Reuse of an earlier run's model: whether it fits the config, and how far the images have drifted."""

from __future__ import annotations

from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config, ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.custom import version_of
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.result.manifest import Drift
from fruitpipe.result.runs import find_model
from fruitpipe.storage.store import Store

PRECISIONS = {"openvino_bf16": "bf16", "litert_int8": "int8"}
"""By kind of engine."""


def model_to_reuse(config: Config, store: Store) -> Model | None:
    """The model that a config names; None where one is to be fitted. Raises UserError where it is not to be had."""
    return find_model(store, config.reuse, config.s3) if config.model == "reuse" else None


def require_match(config: Config, model: Model | None, backbone: ResolvedBackbone) -> None:
    """Raise UserError where a model to reuse takes other features, or reduces them although the config says not to."""
    if model is None:
        return
    if model.card.features != backbone.features:
        there = feature_settings(model.card.backbone, model.engine, model.card.image)
        here = feature_settings(config.backbone, backbone.engine, config.image)
        others = [f"{name}={value}" for name, value in there.items() if value != here.get(name)]
        raise UserError(
            f"the model to reuse ({config.reuse}) takes features with "
            f"{', '.join(others) or 'another layer, pooling or weights'}: choose the same, or model: fit."
        )
    if model.pca.width != backbone.facts.dimension:
        raise UserError(
            f"the model to reuse ({config.reuse}) takes {model.pca.width} features, and {config.backbone} gives "
            f"{backbone.facts.dimension}: choose another one, or model: fit."
        )
    if config.pca == "none" and isinstance(model.pca, Pca):
        raise UserError(f"the model to reuse ({config.reuse}) has a PCA: leave pca: none out, or set model: fit.")


def feature_settings(backbone: str, engine: EngineSpec, image: ImageConfig) -> dict[str, str | bool]:
    """Settings that decide the features, by key of a config, for messages."""
    found: dict[str, str | bool] = {"backbone": backbone}
    found["precision"] = PRECISIONS.get(engine.kind, "float32")
    if engine.kind == "python":
        found["version"] = version_of(engine.data)
    return found | {f"image.{name}": value for name, value in image.steps.items()}


def drift_of(model: Model, errors: Distribution) -> Drift | None:
    """How the reconstruction errors of this run's images compare with those of the fit.

    None without a PCA: such a model loses nothing, so nothing can drift.
    """
    card, pca = model.card, model.pca
    if isinstance(pca, Unreduced):
        return None
    return Drift(
        reconstruction_error=errors.mean,
        fit_reconstruction_error=card.reconstruction_error,
        # With all components kept, errors are rounding noise, and so is their percentile.
        beyond_p99=errors.share_above(max(card.reconstruction_error_p99, pca.noise)),
    )
