"""How a release is: what the cluster, its driver and its result say, put together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import yaml

from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.releases.causes import Cause, cause_of
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.helm import CHART_LABEL, NAME
from fruitpipe.releases.observation import (
    APPLICATIONS,
    RELEASE,
    SCHEDULES,
    Observation,
    dig,
    observe,
    time_of,
)
from fruitpipe.releases.progress import Progress, progress_of
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import Store, open_store

PHASES = {
    "": "not taken up",
    "NEW": "not taken up",
    "SUBMITTED": "starting",
    "RUNNING": "running",
    "SUCCEEDING": "done",
    "COMPLETED": "done",
    "FAILING": "failed, to be tried again",
    "FAILED": "failed",
    "SUBMISSION_FAILED": "failed",
    "PENDING_SUBMISSION": "starting",
    "PENDING_RERUN": "about to run again",
    "INVALIDATING": "about to run again",
    "SUSPENDING": "suspended",
    "SUSPENDED": "suspended",
    "RESUMING": "starting",
    "UNKNOWN": "unknown to the operator",
}
"""The operator's states, in words."""
ENDED = {"done", "failed"}
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
    """the run that readers of the result get"""
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
    published = unseen = None
    config = config_of(connection, seen)
    manifest: Manifest | None = None
    if result and config:
        try:
            manifest = open_run(open_store(config.output, config.s3)).manifest
            published = manifest.run
        except (FruitpipeError, OSError) as error:
            unseen = str(error)
    phase, code = phase_of(seen, manifest)
    driver = seen.driver
    progress = progress_of(connection, driver) if driver and phase == "running" else None
    ended = dig(driver, "status", "containerStatuses", 0, "state", "terminated", default={})
    return Status(
        name=name,
        namespace=seen.namespace,
        phase=phase,
        cause=None if phase == "done" else cause_of(seen),
        executors=executors_of(seen),
        progress=progress,
        started=seen.submitted,
        said=" ".join(ended.get("message", "").split()) if phase in ENDED else "",
        exit_code=code,
        output=config.output if config else "",
        published=published,
        unseen=unseen,
    )


def phase_of(seen: Observation, manifest: Manifest | None) -> tuple[str, int | None]:
    """The phase in words, and the pipeline's exit code once it has ended.

    manifest: of the result's latest run.
    """
    phase = PHASES.get(seen.state, seen.state.lower())
    if dig(seen.schedule or seen.application, "spec", "suspend", default=False) and seen.state != "RUNNING":
        return "suspended", None
    if seen.schedule and seen.application is None:
        return "waiting for its schedule", None
    code = dig(seen.driver, "status", "containerStatuses", 0, "state", "terminated", "exitCode")
    if phase == "done" or (phase == "failed" and code == 0) or (phase == "failed" and published_since(seen, manifest)):
        return "done", 0
    if phase == "failed":
        return phase, code or EXIT_FAILED
    return phase, None


def published_since(seen: Observation, manifest: Manifest | None) -> bool:
    """Whether the run that the operator speaks of has published."""
    return bool(manifest and seen.driver is None and seen.submitted and manifest.started >= seen.submitted)


def executors_of(seen: Observation) -> Executors:
    spec = dig(seen.application, "spec", default={})
    dynamic = dig(spec, "dynamicAllocation", "enabled", default=False)
    wanted = dig(spec, "dynamicAllocation", "minExecutors") if dynamic else dig(spec, "executor", "instances")
    phases = [dig(pod, "status", "phase") for pod in seen.executors]
    return Executors(int(wanted or 0), phases.count("Running"), phases.count("Pending"))


def store_of(connection: Connection, name: str) -> Store:
    """Where a release has its result. Raises UserError where there is no such release."""
    config = config_of(connection, observe(connection, name))
    if config is None:
        raise UserError(f"release {name} has lost its config: submit it again.")
    return open_store(config.output, config.s3)


def config_of(connection: Connection, seen: Observation) -> Config | None:
    """The config that a release runs with."""
    owner = seen.schedule or seen.application
    found = connection.config_map(str(dig(owner, "metadata", "name")))
    text = dig(found, "data", "run.yaml")
    return Config.model_validate(yaml.safe_load(text)) if text else None


class Row(NamedTuple):
    """A release in a list."""

    name: str
    namespace: str
    phase: str
    started: datetime | None
    """when its last run was submitted"""


def list_releases(connection: Connection, everywhere: bool = False) -> list[Row]:
    """All releases by name. everywhere: of all namespaces."""
    rows = []
    for kind in (APPLICATIONS, SCHEDULES):
        for each in connection.custom(kind, RELEASE, everywhere) or []:
            labels, namespace = each["metadata"]["labels"], each["metadata"]["namespace"]
            if not labels.get(CHART_LABEL, "").startswith(f"{NAME}-"):
                continue  # of another chart, or a run of a schedule, which has a row
            pair = (None, each) if kind == SCHEDULES else (each, None)
            seen = Observation(labels[RELEASE], namespace, *pair)
            started = time_of(dig(each, "status", "lastRun")) if kind == SCHEDULES else seen.submitted
            rows.append(Row(labels[RELEASE], namespace, phase_of(seen, None)[0], started))
    return sorted(rows, key=lambda row: row[:2])
