"""What is written about a run: its manifest, the last object of a published run, and the outcome of one that failed."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any, Literal

from pydantic import BaseModel, field_validator

from fruitpipe.config import Config
from fruitpipe.engines import Kind
from fruitpipe.model.model import Model
from fruitpipe.pipeline.backbone import Prepared

Data = bytes | memoryview
REPORTED = (
    *("fruitpipe", "pyspark", "ai-edge-litert", "openvino", "opencv-python-headless", "scikit-learn"),
    *("tensorflow", "tensorflow-cpu", "keras", "pillow", "numpy", "pyarrow", "duckdb"),
)


class File(BaseModel):
    """One file of a run."""

    name: str
    """within the run's folder"""
    rows: int | None = None
    bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: Data, rows: int | None = None) -> File:
        return cls(name=name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class Counts(BaseModel):
    """Images of a run."""

    images: int
    ok: int
    failed: int
    by_status: dict[str, int]
    by_label: dict[str, int]
    """images with a vector"""


class Summary(BaseModel):
    """Figures of a plan."""

    images: int
    bytes: int
    labels: dict[str, int]
    new: int
    """never seen before"""
    changed: int
    """seen before with another etag"""
    retried: int
    """failed before, to be tried again"""
    known: int
    """with features already"""
    known_failed: int
    """failed before, not to be tried again"""
    gone: int
    """with features, but no longer in the input"""

    @property
    def todo(self) -> int:
        return self.new + self.changed + self.retried


class BackboneFacts(BaseModel):
    """The backbone that gave the features."""

    name: str
    layer: str
    pooling: str
    input_size: int
    dimension: int
    parameters: int
    digest: str
    engine: Kind = "litert"

    @classmethod
    def of(cls, prepared: Prepared) -> BackboneFacts:
        backbone = prepared.backbone
        facts = backbone.model_dump(exclude={"weights"})
        return cls(**facts, digest=backbone.digest, engine=prepared.extractor.kind)


class ModelFacts(BaseModel):
    """The scaler and PCA that gave the vectors, if there was one: without, the features are the vectors."""

    fitted_by: str
    """run id"""
    images: int
    """that it was fitted on; 0 without a PCA"""
    components: int
    """k, length of a vector"""
    explained: float | None
    """share of the variance that the k components explain, on the images of the fit; None without a PCA"""
    explained_variance: list[float]
    """of every component, kept or not, largest first; empty without a PCA"""
    explained_variance_ratio: list[float]
    reconstruction_error: float
    """mean over the images of the fit"""
    reconstruction_error_p99: float

    @classmethod
    def of(cls, model: Model) -> ModelFacts:
        return cls(
            fitted_by=model.card.run,
            images=model.card.images,
            components=model.pca.length,
            explained=model.pca.explained,
            explained_variance=model.pca.explained_variance.tolist(),
            explained_variance_ratio=model.pca.explained_variance_ratio.tolist(),
            reconstruction_error=model.card.reconstruction_error,
            reconstruction_error_p99=model.card.reconstruction_error_p99,
        )


class Drift(BaseModel):
    """How far the images of this run are from those that the reused model was fitted on."""

    reconstruction_error: float
    """mean over this run's images"""
    fit_reconstruction_error: float
    """mean over the images of the fit"""
    beyond_p99: float
    """share of this run's images beyond the 99th percentile of the fit; 0.01 where nothing has changed"""


class Accuracy(BaseModel):
    """Shares of images that get their own label in a space of so many dimensions."""

    dimension: int
    nearest: float
    """from the nearest other image"""
    logistic: float
    """from a logistic regression, cross-validated"""


class Evaluation(BaseModel):
    """How well labels are told apart, with all features and with components only."""

    images: int
    """of a sample, evenly spaced"""
    labels: int
    """that they have"""
    left_out: int
    """labels with too few images in the sample"""
    chance: float
    """share of the most frequent label, which is right where a guess always names it"""
    full: Accuracy
    """with all features, as the PCA takes them"""
    reduced: list[Accuracy]
    """with 8, 16, 32 … and all k components"""


class Precise(BaseModel):
    """What features of one precision come to."""

    components: int
    """k, by the config's PCA of these features alone"""
    nearest: float | None
    """accuracy of the nearest neighbour among their vectors; None without labels"""


class Comparison(BaseModel):
    """Features in bf16 against those in float32, on a sample of the run's images."""

    images: int
    cosine: float
    """between both features of an image, mean"""
    worst_cosine: float
    float32: Precise
    bf16: Precise

    def __str__(self) -> str:
        """One line for people."""
        changes = f"{self.bf16.components} components instead of {self.float32.components}"
        if self.bf16.nearest is not None and self.float32.nearest is not None:
            changes += f", nearest neighbours right for {self.bf16.nearest:.1%} instead of {self.float32.nearest:.1%}"
        cosines = f"{self.cosine:.3f} on average, {self.worst_cosine:.3f} at worst"
        return f"cosine to float32 {cosines}, {changes} (each on {self.images} images alone)"


class Manifest(BaseModel):
    """A published run."""

    layout: int
    run: str
    started: datetime
    finished: datetime
    config: Config
    config_digest: str
    backbone: BackboneFacts
    features_digest: str
    counts: Counts
    plan: Summary
    model: ModelFacts
    drift: Drift | None
    comparison: Comparison | None = None
    evaluation: Evaluation | None = None
    """None where `evaluate` is off, or too few images have one label"""
    files: list[File]
    feature_parts: list[str]
    timings: dict[str, float]
    """seconds by stage"""
    worker_memory: int
    """largest resident set of a Python worker, bytes"""
    warnings: list[str]
    versions: dict[str, str]

    @field_validator("config", mode="before")
    @classmethod
    def resolved(cls, config: Any) -> Any:
        """The config without the name of its preset, whose keys it has: presets come and go."""
        return {**config, "preset": None} if isinstance(config, dict) else config

    @property
    def images_per_second(self) -> float | None:
        """of the feature stage; None where nothing was new"""
        seconds = self.timings.get("featurize")
        return self.plan.todo / seconds if seconds else None


class Outcome(BaseModel):
    """A run that ended without being published."""

    run: str
    status: Literal["failed", "interrupted"]
    reason: str
    started: datetime
    finished: datetime
    images: int | None = None


def versions() -> dict[str, str]:
    """Versions of what results depend on. TensorFlow has one name or the other, by the machine."""
    found = {"python": python_version()}
    for name in REPORTED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
