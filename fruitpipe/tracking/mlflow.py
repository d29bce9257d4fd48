"""A run in MLflow for each that has ended, by mlflow-skinny: an extra, fruitpipe[mlflow]."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from fruitpipe.numeric.evaluation import Evaluation
from fruitpipe.redaction import values_without_secrets, without_secrets
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import Run
from fruitpipe.tracking.tracker import Begun, Unfinished

if TYPE_CHECKING:
    from mlflow.entities import Metric

EXPERIMENT = "fruitpipe"
"""Its name, where MLFLOW_EXPERIMENT_NAME says no other."""
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Where nobody says otherwise: it tells nobody else, and a server that is gone costs seconds."""
TOGETHER = 100
"""Parameters that MLflow takes at once."""


@dataclass(frozen=True)
class Mlflow:
    """The runs of an experiment."""

    uri: str

    @property
    def name(self) -> str:
        return f"MLflow at {self.uri}"

    def began(self, begun: Begun) -> None:
        """Nothing: of a run that was killed, nobody would say that it has ended."""

    def published(self, begun: Begun, run: Run) -> None:
        if run.reason:  # there is one of it already
            return
        places = {"vectors": run.vectors, "manifest": run.path("manifest.json"), "report": run.path("report.html")}
        self._add(begun, "FINISHED", places, run.manifest)

    def gave_up(self, begun: Begun, status: Unfinished, reason: str) -> None:
        self._add(begun, "FAILED" if status == "failed" else "KILLED", {"reason": reason})

    def _add(self, begun: Begun, status: str, facts: dict[str, str], manifest: Manifest | None = None) -> None:
        with defaults():
            from mlflow.entities import Param, RunTag
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            client = MlflowClient(self.uri)
            tags = {f"fruitpipe.{name}": without_secrets(text) for name, text in {"run": begun.id, **facts}.items()}
            if manifest and manifest.revision:
                tags["mlflow.source.git.commit"] = manifest.revision
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
            made = client.create_run(experiment, milliseconds(begun.started), run_name=begun.id).info.run_id
            params = [Param(key, text) for key, text in params_of(begun.config)]
            try:
                for first in range(0, len(params), TOGETHER):
                    client.log_batch(made, params=params[first : first + TOGETHER])
                metrics = list(metrics_of(manifest)) if manifest else []
                client.log_batch(made, metrics=metrics, tags=[RunTag(key, text) for key, text in tags.items()])
            finally:  # or it would be running for ever
                ended = manifest.finished if manifest else datetime.now(UTC)
                client.set_terminated(made, status, milliseconds(ended))


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def params_of(section: BaseModel, within: str = "") -> Iterator[tuple[str, str]]:
    """Settings as text, by their keys; sections have keys below theirs, all else is JSON where it is no text."""
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from params_of(value, f"{within}{name}.")
        else:
            clean = values_without_secrets(value)
            yield f"{within}{name}", clean if isinstance(clean, str) else json.dumps(clean)


def metrics_of(manifest: Manifest) -> Iterator[Metric]:
    """Numbers of a run; accuracies with the components that they are of as MLflow's step."""
    from mlflow.entities import Metric

    at = milliseconds(manifest.finished)
    counts, model = manifest.counts, manifest.model
    numbers: dict[str, float | None] = {
        "images": counts.images,
        "ok": counts.ok,
        "failed": counts.failed,
        "new": manifest.plan.todo,
        "components": model.components,
        "explained_variance": model.explained,
        "reconstruction_error": model.reconstruction_error,
        "beyond_p99": manifest.drift.beyond_p99 if manifest.drift else None,
        "images_per_second": manifest.images_per_second,
        "seconds": (manifest.finished - manifest.started).total_seconds(),
        **{f"seconds.{stage}": seconds for stage, seconds in manifest.timings.items()},
    }
    yield from (Metric(name, float(number), at, 0) for name, number in numbers.items() if number is not None)
    if record := manifest.records.get("evaluation"):
        for each in Evaluation.model_validate(record.model_dump()).reduced:
            yield Metric("accuracy.nearest", each.nearest, at, each.dimension)
            yield Metric("accuracy.logistic", each.logistic, at, each.dimension)


@contextmanager
def defaults() -> Iterator[None]:
    """VARIABLES meanwhile, as far as they are not set."""
    added = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
