"""A release of the chart: submit it, wait for it, end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fruitpipe.config import Config, load_config
from fruitpipe.errors import UserError
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.helm import Helm
from fruitpipe.releases.observation import find, observe
from fruitpipe.releases.plain import dig
from fruitpipe.releases.status import Status, status_of

LOOK = 1.0
"""Seconds between looks at a release that is waited for."""


@dataclass(frozen=True)
class Release:
    """A release of the chart by its name."""

    name: str
    connection: Connection
    earlier: datetime | None = None
    """when the run was submitted that was there before, whose end is not that of this one"""
    schedule: str | None = None
    """after a rerun, the cron expression for whose next time the run waits"""

    @property
    def helm(self) -> Helm:
        return Helm(self.connection.context, self.connection.namespace)

    def status(self) -> Status:
        """How it is now. Raises UserError where there is none."""
        return status_of(self.connection, self.name)

    def wait(self, told: Callable[[Status], None] = lambda _: None) -> Status:
        """Wait until its run has ended; how it is then.

        told: called with each look, once a second.
        """
        while True:
            now = status_of(self.connection, self.name, result=False)
            if now.ended and (self.earlier is None or now.started != self.earlier):
                return self.status()
            told(now)
            time.sleep(LOOK)

    def rerun(self) -> Release:
        """Have it run again with the same values, for what is new among the images; the release, to be waited for.

        One that has a schedule runs when that says so. Raises UserError where there is none of this name.
        """
        seen = observe(self.connection, self.name)
        self.helm.change(self.name, {"reprocess": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "suspend": False})
        return replace(self, earlier=seen.submitted, schedule=dig(seen.schedule, "spec", "schedule"))

    def cancel(self) -> None:
        """End the run that goes on, and start none until `rerun` or `submit`. What was computed is kept."""
        seen = observe(self.connection, self.name)
        self.helm.change(self.name, {"suspend": True})
        if seen.schedule and seen.application:  # whose suspension lets a run that has begun go on
            self.connection.delete(seen.operator.kind, seen.application["metadata"]["name"])

    def delete(self) -> None:
        """Remove it from the cluster, not its results. Raises UserError where there is none of this chart."""
        self.helm.uninstall(self.name)


def submit(
    config: Config | str | Path,
    name: str,
    assignments: Iterable[str] = (),
    *,
    image: str | None = None,
    values: str | Path | Iterable[str | Path] = (),
    context: str | None = None,
    namespace: str | None = None,
) -> Release:
    """Install the chart that comes with this package for a config, or upgrade the release of this name.

    With the same arguments it does nothing: what runs goes on, and what has ended is not run again.

    Parameters
    ----------
    config: the main job's, or its YAML file.
    name: of the release.
    assignments: `key=value` of the config, where it is a file.
    image: such as `registry/fruitpipe:1.0` or `registry/fruitpipe@sha256:…`; the chart's own where it is None.
    values: YAML files of the chart's values.
    context: of the kubeconfig; its current one where it is None.
    namespace: that of the context where it is None.

    Raises
    ------
    UserError: helm or the chart's operator is missing, the chart or the cluster refuses, the name is that of a release
        of another chart, or a Config has assignments.
    """
    given = values_of(config, assignments, image)
    release = Release(name, Connection(context, namespace))
    before = find(release.connection, name)
    release.helm.install(name, files_of(values), given)
    after = find(release.connection, name)
    changed = before and after and before.asked != after.asked
    return replace(release, earlier=before.submitted) if before and changed else release


def values_of(config: Config | str | Path, assignments: Iterable[str], image: str | None) -> dict[str, Any]:
    """Values of the chart for a config, with what was said in it and no defaults.

    Raises UserError where there are assignments for what has been made already.
    """
    if isinstance(config, Config) and [*assignments]:
        raise UserError("assignments are for the file of a config: say them in the Config itself.")
    checked = config if isinstance(config, Config) else load_config(config, assignments)
    made: dict[str, Any] = {"pipeline": checked.model_dump(mode="json", exclude_unset=True)}
    return made | ({"image": image_of(image)} if image else {})


def files_of(values: str | Path | Iterable[str | Path]) -> list[Path]:
    """Files of values, where one may stand for itself."""
    return [Path(file) for file in ([values] if isinstance(values, str | Path) else values)]


def image_of(reference: str) -> dict[str, str]:
    """An image's name as the chart has it, whatever files of values say. Raises UserError without tag and digest."""
    repository, _, digest = reference.partition("@")
    if digest:
        return {"repository": repository, "digest": digest}
    repository, _, tag = reference.rpartition(":")
    if not repository or "/" in tag:
        raise UserError(f"--image: {reference} has neither tag nor digest: give one, such as {reference}:1.0.")
    return {"repository": repository, "tag": tag, "digest": ""}
