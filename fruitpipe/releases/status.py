"""How a release is: what the cluster, its driver and its result say, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from fruitpipe.config import RECORDED, Config
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.releases.causes import Cause, cause_of
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.helm import CHART_LABEL, NAME
from fruitpipe.releases.observation import (
    RELEASE,
    WITHOUT_APPLICATION,
    Observation,
    container_of,
    newest,
    observe,
    of_operators,
    require,
    schedule_in,
)
from fruitpipe.releases.operators import DONE, FAILED, RUNNING, SUSPENDED
from fruitpipe.releases.plain import Plain, dig
from fruitpipe.releases.progress import Progress, progress_of
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import Store, open_store

ENDED = {DONE, FAILED}
EXIT_FAILED = 1


@dataclass(frozen=True)
class Executors:
    """Their number."""

    wanted: int
    running: int
    pending: int


@dataclass(frozen=True)
class Status:
    """A release at a moment."""

    name: str
    namespace: str
    phase: str
    cause: Cause | None
    """of what is wrong"""
    executors: Executors
    progress: Progress | None
    """while a driver runs"""
    started: datetime | None
    said: str
    """the driver's last words, once it has ended"""
    exit_code: int | None
    """of the pipeline, once it has ended"""
    output: str
    published: str | None = None
    """the run that readers of the result get; of several backbones, each with its name"""
    unseen: str | None = None
    """why the result cannot be read from here"""

    @property
    def ended(self) -> bool:
        return self.exit_code is not None


def status_of(connection: Connection, name: str, result: bool = True) -> Status:
    """How a release is now. Raises UserError where there is none of this name.

    result: look into its result, too: it is believed over the operator's word, which has called runs failed that
    had published.
    """
    seen = observe(connection, name)
    config = published = unseen = None
    manifests: list[Manifest] = []
    try:
        config = config_of(connection, name)
        if result and config:
            runs = {name: open_run(store) for name, store in results_of(config).items()}
            published = ", ".join(f"{name} {run.id}".lstrip() for name, run in runs.items())
            manifests = [run.manifest for run in runs.values()]
    except (FruitpipeError, OSError) as error:
        unseen = str(error)
    phase, code = phase_of(seen, manifests)
    progress = progress_of(connection, seen.driver) if seen.driver and phase == RUNNING else None
    ended = dig(container_of(seen.last_driver), "state", "terminated", default={})
    return Status(
        name=name,
        namespace=seen.namespace,
        phase=phase,
        cause=None if phase == DONE else cause_of(seen),
        executors=executors_of(seen),
        progress=progress,
        started=seen.submitted,
        said=" ".join(ended.get("message", "").split()) if phase in ENDED else "",
        exit_code=code,
        output=config.output if config else "",
        published=published,
        unseen=unseen,
    )


def phase_of(seen: Observation, manifests: Sequence[Manifest] = ()) -> tuple[str, int | None]:
    """The phase in words, and the pipeline's exit code once it has ended.

    manifests: of the latest run of each result, where they could be read.
    """
    phase = seen.phase
    if seen.suspended and phase != RUNNING:
        return SUSPENDED, None
    if seen.schedule and seen.application is None:
        return "waiting for its schedule", None
    code = dig(container_of(seen.last_driver), "state", "terminated", "exitCode")
    if phase == DONE or (phase == FAILED and (code == 0 or published_since(seen, manifests))):
        return DONE, 0
    if phase == FAILED:
        return phase, code or EXIT_FAILED
    return phase, None


def published_since(seen: Observation, manifests: Sequence[Manifest]) -> bool:
    """Whether the run that the operator speaks of has published."""
    if not manifests or seen.driver or seen.submitted is None:
        return False
    return all(manifest.started >= seen.submitted for manifest in manifests)


def executors_of(seen: Observation) -> Executors:
    phases = [dig(pod, "status", "phase") for pod in seen.executors]
    return Executors(
        seen.operator.executor(seen.application).instances, phases.count("Running"), phases.count("Pending")
    )


def stores_of(connection: Connection, name: str) -> list[Store]:
    """Where a release has its results. Raises UserError where there is no such release, or no config to read."""
    config = config_of(connection, require(connection, name).name)
    if config is None:
        raise UserError(f"release {name} has lost its config: submit it again.")
    return list(results_of(config).values())


def results_of(config: Config) -> dict[str, Store]:
    """Where each backbone's result is, by its name."""
    return {name: open_store(output, config.s3) for name, output in config.outputs.items()}


def config_of(connection: Connection, name: str) -> Config | None:
    """The config that a release runs with, whose image may know more than this machine.

    Raises UserError where it cannot be read here.
    """
    found = [dig(each, "data", "run.yaml") for each in connection.config_maps(f"{RELEASE}={name}")]
    text = next(filter(None, found), None)
    try:
        return Config.model_validate(yaml.safe_load(text), context=RECORDED) if text else None
    except (ValidationError, yaml.YAMLError) as error:
        raise UserError(
            f"this fruitpipe cannot read the config of release {name}: take the version of its image."
        ) from error


class Row(NamedTuple):
    """A release in a list."""

    name: str
    namespace: str
    phase: str
    started: datetime | None
    """when its last run was submitted"""


def list_releases(connection: Connection, everywhere: bool = False) -> list[Row]:
    """All releases by name. everywhere: of all namespaces."""
    listed = of_operators(connection, RELEASE, everywhere) or []
    found: dict[tuple[str, str], list[Plain]] = {}
    for each in (*listed, *connection.config_maps(WITHOUT_APPLICATION, everywhere)):
        labels, namespace = each["metadata"]["labels"], each["metadata"]["namespace"]
        if labels.get(CHART_LABEL, "").startswith(f"{NAME}-"):  # not of another chart, nor a run of a schedule
            found.setdefault((labels[RELEASE], namespace), []).append(each)
    return [row_of(name, namespace, parts) for (name, namespace), parts in sorted(found.items())]


def row_of(name: str, namespace: str, parts: list[Plain]) -> Row:
    """parts: objects of the release."""
    seen = Observation(name, namespace, newest(parts), schedule_in(parts))
    return Row(name, namespace, phase_of(seen)[0], seen.submitted)
