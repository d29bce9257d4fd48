"""The manifest, written last by a published run, and the outcome of a run that was not published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from platform import python_version
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, field_validator
from pydantic_core import to_json

from fruitpipe.config import RECORDED, Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.numeric.pca import components_for
from fruitpipe.result import long_lists
from fruitpipe.result.notebook import as_html
from fruitpipe.storage import layout
from fruitpipe.storage.file import File, named
from fruitpipe.storage.layout import RunId, checked, is_feature, is_run_file
from fruitpipe.units import in_kinds, size

MOST_LABELS = 5
REPORTED = (
    *("fruitpipe", "pyspark", "ai-edge-litert", "openvino", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless"),
    *("scikit-learn", "tensorflow", "tensorflow-cpu", "keras", "pillow", "numpy", "pyarrow", "duckdb"),
)
TREE = TypeAdapter(dict[str, Any])

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Counts(BaseModel):
    """Images of a run."""

    images: Count
    ok: Count
    failed: Count
    by_status: dict[str, Count]
    by_label: dict[str, Count]
    """images with a vector"""

    def are_within(self, max_rate: float) -> bool:
        """Whether there is a vector, and the share of failed images is no larger."""
        return self.ok > 0 and self.failed / (self.ok + self.failed) <= max_rate


class Summary(BaseModel):
    """Figures of a plan."""

    images: Count
    bytes: Count
    labels: dict[str, Count]
    new: Count
    """never seen before"""
    changed: Count
    """seen before with another etag"""
    retried: Count
    """failed before, to be tried again"""
    known: Count
    """with features already"""
    known_failed: Count
    """failed before, not to be tried again"""
    gone: Count
    """with features, but not among these images"""
    passed_over: dict[str, Count] = {}
    """files of the inputs that are no images by name or hidden, by extension, most first"""

    @property
    def todo(self) -> int:
        return self.new + self.changed + self.retried

    def in_rows(self) -> dict[str, object]:
        """For people."""
        labels = ", ".join(f"{name} {count}" for name, count in list(self.labels.items())[:MOST_LABELS])
        more = f", … {len(self.labels)} in all" if len(self.labels) > MOST_LABELS else ""
        return {
            "images": f"{self.images}, {size(self.bytes)}",
            "labels": f"{labels}{more}" if labels else "none",
            "new": self.new,
            "changed": self.changed,
            "to retry": self.retried,
            "known": self.known,
            "known bad": self.known_failed,
            "gone": self.gone,
            "not images": in_kinds(self.passed_over) or 0,
        }

    def _repr_html_(self) -> str:
        return as_html(self.in_rows())


class BackboneFacts(BaseModel):
    """The backbone that gave the features."""

    name: str
    layer: str
    pooling: str
    input_size: int
    dimension: int
    parameters: int
    digest: str
    engine: str = "litert"


class ModelFacts(BaseModel):
    """The scaler and PCA that gave the vectors, if there was one: without, the features are the vectors."""

    fitted_by: RunId
    images: Count
    """that it was fitted on; 0 without a PCA"""
    components: Count
    """k, length of a vector"""
    explained: FiniteFloat | None
    """share of the variance that the k components explain, on the images of the fit; None without a PCA"""
    explained_variance: list[FiniteFloat]
    """of every component, kept or not, largest first; empty without a PCA"""
    explained_variance_ratio: list[FiniteFloat]
    reconstruction_error: FiniteFloat
    """mean over the images of the fit"""
    reconstruction_error_p99: FiniteFloat

    def in_rows(self) -> dict[str, object]:
        """For people."""
        if self.explained is None:
            return {"model": f"no PCA: vectors are the {self.components} features"}
        cumulative = list(accumulate(self.explained_variance_ratio))
        needed = {share: min(components_for(cumulative, share), len(cumulative)) for share in (0.90, 0.95, 0.99)}
        shares = ", ".join(f"{share:.0%}: {k}" for share, k in needed.items())
        return {
            "model": f"fitted by {self.fitted_by} on {self.images} images",
            "components": f"{self.components}, {self.explained:.2%} of the variance",
            "k for": shares if any(cumulative) else "none, as the features do not differ",
        }


class Drift(BaseModel):
    """How far the images of this run are from those that the reused model was fitted on."""

    reconstruction_error: FiniteFloat
    """mean over this run's images"""
    fit_reconstruction_error: FiniteFloat
    """mean over the images of the fit"""
    beyond_p99: FiniteFloat
    """share of this run's images beyond the 99th percentile of the fit; 0.01 where nothing has changed"""


class Record(BaseModel):
    """Result of a further stage: how to show it, and any other keys for programs."""

    model_config = ConfigDict(extra="allow")

    label: str
    """for `fruitpipe show`, a word"""
    title: str
    """for the report"""
    note: str
    """a sentence without its point"""
    columns: list[str] = []
    rows: list[list[str]] = []
    """of a table, if there is one"""


class Manifest(BaseModel):
    """A published run. Records of further stages are beside these keys, each under its stage's name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Record | Any, Field(union_mode="left_to_right")]]

    layout: int
    run: RunId
    started: AwareDatetime
    finished: AwareDatetime
    config: Config
    config_digest: str
    backbone: BackboneFacts
    features_digest: str
    revision: str | None = None
    """commit that the release was of, where a chart's run made it"""
    images_digest: str | None = None
    """of paths, etags and labels; None where an earlier version made the run"""
    counts: Counts
    plan: Summary
    model: ModelFacts
    drift: Drift | None
    files: list[Annotated[File, named(is_run_file)]]
    feature_parts: list[Annotated[str, checked(is_feature)]]
    timings: dict[str, float]
    """seconds by stage"""
    worker_memory: int
    """largest resident set of a Python worker, bytes"""
    warnings: list[str]
    unfinished: list[str] = []
    """further stages that failed, of which warnings tell"""
    versions: dict[str, str]

    @field_validator("config", mode="before")
    @classmethod
    def resolved(cls, config: Any) -> Any:
        """The config without the name of its preset, whose keys it has: presets come and go."""
        return {**config, "preset": None} if isinstance(config, dict) else config

    @classmethod
    def read(cls, document: bytes, find: Callable[[str], bytes | None] = lambda name: None) -> Manifest:
        """Read a manifest, also one that names what is not installed here. Raises ValueError where it is damaged.

        find: what a file of the run holds, by its name, such as one with a long list; None where there is none.
        """
        return cls.model_validate(long_lists.with_lists(TREE.validate_json(document), find), context=RECORDED)

    def written(self) -> tuple[bytes, dict[str, bytes]]:
        """The document, and what the files with its long lists hold, by their names in the run.

        Of numbers, only those in records of further stages may be others than finite, and become null.

        Raises FruitpipeError where the document, or a list, is longer than readers take.
        """
        tree, beside = long_lists.without_lists(self.model_dump(mode="json"))
        document = to_json(tree, indent=2, inf_nan_mode="null")
        if len(document) > layout.most_bytes(layout.MANIFEST):
            raise FruitpipeError(f"the manifest would have {len(document)} bytes, more than readers take.")
        return document, beside

    @property
    def records(self) -> dict[str, Record]:
        """Records of further stages by the stages' names."""
        extra = (self.model_extra or {}).items()
        return {name: value for name, value in extra if isinstance(value, Record)}

    @property
    def has_page(self) -> bool:
        """Whether the run made a page of all images."""
        return self.config.explore and "explore" not in self.unfinished

    @property
    def images_per_second(self) -> float | None:
        """Speed of the feature stage; None where nothing was new."""
        seconds = self.timings.get("featurize")
        return self.plan.todo / seconds if seconds else None

    def in_rows(self) -> dict[str, object]:
        """For people."""
        counts, plan, backbone = self.counts, self.plan, self.backbone
        rows: dict[str, object] = {
            "run": self.run,
            "started": f"{self.started:%Y-%m-%d %H:%M:%S} UTC",
            **({"commit": self.revision} if self.revision else {}),
            "input": ", ".join(self.config.inputs),
            "images": f"{counts.images} ({', '.join(f'{n} {status}' for status, n in counts.by_status.items())})",
            "work": f"{plan.new} new, {plan.changed} changed, {plan.retried} retried, {plan.known} known, "
            f"{plan.gone} gone",
            "labels": len(counts.by_label),
            "backbone": f"{backbone.name}, {backbone.dimension} features ({backbone.layer}), run by {backbone.engine}",
            **self.model.in_rows(),
        }
        if drift := self.drift:
            rows["drift"] = (
                f"{drift.beyond_p99:.1%} beyond the fit's 99th percentile, reconstruction error "
                f"{drift.reconstruction_error:.3g} ({drift.fit_reconstruction_error:.3g} at the fit)"
            )
        for record in self.records.values():
            rows[record.label] = record.note
            for name, *values in record.rows:
                rows[f"  {name}"] = ", ".join(values)
        rows["times"] = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.timings.items())
        if self.images_per_second:
            rows["speed"] = f"{self.images_per_second:.0f} img/s"
        return rows


Unpublished = Literal["failed", "interrupted", "unchanged"]


class Outcome(BaseModel):
    """A run that ended without being published."""

    run: RunId
    status: Unpublished
    reason: str
    started: AwareDatetime
    finished: AwareDatetime


def versions() -> dict[str, str]:
    """Versions of what results depend on. TensorFlow and onnxruntime have one name or another, by the machine."""
    found = {"python": python_version()}
    for name in REPORTED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
