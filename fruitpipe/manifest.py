"""What is written about a run: its manifest, the last object of a published run, and the outcome of one that failed."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from platform import python_version
from typing import Literal

from pydantic import BaseModel

from fruitpipe.config import Config
from fruitpipe.plan import Summary

REPORTED = ("fruitpipe", "pyspark", "ai-edge-litert", "tensorflow", "keras", "pillow", "numpy", "pyarrow", "duckdb")


class File(BaseModel):
    """One file of a run."""

    name: str
    """within the run's folder"""
    rows: int | None = None
    bytes: int
    sha256: str


class Counts(BaseModel):
    """Images of a run."""

    images: int
    ok: int
    failed: int
    by_status: dict[str, int]
    by_label: dict[str, int]
    """images with a vector"""


class BackboneFacts(BaseModel):
    """The backbone that gave the features."""

    name: str
    layer: str
    input_size: int
    dimension: int
    digest: str


class ModelFacts(BaseModel):
    """The scaler and PCA that gave the vectors."""

    fitted_by: str
    """run id"""
    images: int
    """that it was fitted on"""
    components: int
    """k, length of a vector"""
    explained: float
    """share of the variance that the k components explain, on the images of the fit"""
    explained_variance: list[float]
    """of every component, kept or not, largest first"""
    explained_variance_ratio: list[float]
    reconstruction_error: float
    """mean over the images of the fit"""
    reconstruction_error_p99: float


class Drift(BaseModel):
    """How far the images of this run are from those that the reused model was fitted on."""

    reconstruction_error: float
    """mean over this run's images"""
    fit_reconstruction_error: float
    """mean over the images of the fit"""
    beyond_p99: float
    """share of this run's images beyond the 99th percentile of the fit; 0.01 where nothing has changed"""


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
    files: list[File]
    feature_parts: list[str]
    timings: dict[str, float]
    """seconds by stage"""
    images_per_second: float | None
    """of the feature stage; None where nothing was new"""
    worker_memory: int
    """largest resident set of a Python worker, bytes"""
    warnings: list[str]
    versions: dict[str, str]


class Outcome(BaseModel):
    """A run that ended without being published."""

    run: str
    status: Literal["failed", "interrupted"]
    reason: str
    started: datetime
    finished: datetime
    images: int | None = None


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {"python": python_version()} | {name: version(name) for name in REPORTED}
