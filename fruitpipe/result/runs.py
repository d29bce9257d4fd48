"""The runs of a result: look at them, publish an older one, clear away what no run needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel

from fruitpipe.config import is_remote
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.model.model import Model, read_model
from fruitpipe.result.compaction import read_merges, with_merged
from fruitpipe.result.manifest import Manifest, Outcome
from fruitpipe.result.notebook import as_html
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import TEMPORARY, Store


@dataclass(frozen=True, repr=False)
class Run:
    """A published run."""

    store: Store
    manifest: Manifest

    def __repr__(self) -> str:
        counts = self.manifest.counts
        return f"Run({self.path()!r}, {counts.ok} images, {counts.failed} failed)"

    def in_rows(self) -> dict[str, object]:
        """Counts, model, times and places, for people."""
        places = {"vectors": self.vectors, "model at": self.path("model"), "report": self.path("report.html")}
        return self.manifest.in_rows() | places

    def _repr_html_(self) -> str:
        return as_html(self.in_rows(), self.manifest.warnings)

    @property
    def id(self) -> str:
        return self.manifest.run

    def path(self, name: str = "") -> str:
        """Where the run's folder, or a file in it, lies."""
        return self.store.location(layout.run(self.id, name))

    @property
    def vectors(self) -> str:
        """The folder of Parquet files with columns path, label, vector."""
        return self.path(layout.FOLDER["parquet"])

    @property
    def model(self) -> Model:
        return read_model(self.store, layout.model(self.id))


class RunRow(BaseModel):
    """A run in a list, published or not."""

    run: str
    status: Literal["latest", "published", "failed", "interrupted", "unfinished"]
    started: datetime | None = None
    seconds: float | None = None
    images: int | None = None
    failed: int | None = None
    new: int | None = None
    components: int | None = None
    explained: float | None = None
    reason: str | None = None


def list_runs(store: Store) -> list[RunRow]:
    """All runs, oldest first. Raises UserError where there is no result."""
    require_result(store)
    latest = latest_run(store)
    return [row_of(store, run_id, latest) for run_id in store.folders(layout.RUNS)]


def row_of(store: Store, run_id: str, latest: str | None) -> RunRow:
    if (document := store.find(layout.manifest(run_id))) is not None:
        manifest = Manifest.read(document)
        return RunRow(
            run=run_id,
            status="latest" if run_id == latest else "published",
            started=manifest.started,
            seconds=(manifest.finished - manifest.started).total_seconds(),
            images=manifest.counts.images,
            failed=manifest.counts.failed,
            new=manifest.plan.todo,
            components=manifest.model.components,
            explained=manifest.model.explained,
        )
    if (document := store.find(layout.outcome(run_id))) is not None:
        outcome = Outcome.model_validate_json(document)
        seconds = (outcome.finished - outcome.started).total_seconds()
        return RunRow(
            run=run_id, status=outcome.status, started=outcome.started, seconds=seconds, reason=outcome.reason
        )
    return RunRow(run=run_id, status="unfinished")


def open_run(store: Store, run_id: str = "latest") -> Run:
    """A published run. Raises UserError where there is none of this name."""
    require_result(store)
    name = (latest_run(store) or "") if run_id == "latest" else run_id
    document = store.find(layout.manifest(name)) if is_name(name) else None
    if document is None:
        advice = f"`fruitpipe runs {store.url}` lists those there are."
        raise UserError(
            f"no published run in {store.url} yet: {advice}" if not name else f"no published run {name}: {advice}"
        )
    return Run(store, Manifest.read(document))


def is_name(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".")


def is_result(store: Store) -> bool:
    """Whether there is a result. Raises UserError where another version wrote it whose layout is not known here."""
    document = store.find(layout.MARKER)
    if document is None:
        return False
    try:
        version = json.loads(document)["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{store.location(layout.MARKER)} is damaged: choose another output.") from error
    if version != layout.VERSION:
        raise UserError(
            f"{store.url} has layout {version}, and this fruitpipe knows layout {layout.VERSION}: use the fruitpipe "
            "that wrote it, or a later one, or choose another output."
        )
    return True


def require_result(store: Store) -> None:
    """Raise UserError where there is no result, or one whose layout is not known here."""
    if not is_result(store):
        raise UserError(f"{store.url} is no result of fruitpipe: give the OUT folder of a `fruitpipe run`.")


def latest_run(store: Store) -> str | None:
    """Id of the run that is published as the latest."""
    document = store.find(layout.LATEST)
    return str(json.loads(document)["run"]) if document else None


def point_latest(store: Store, run_id: str) -> None:
    """Raises FruitpipeError where somebody else does so at the same moment."""
    if not store.swap(layout.LATEST, store.find(layout.LATEST), json.dumps({"run": run_id}).encode()):
        raise FruitpipeError(
            f"another process has just published a run in {store.url}: this is not the latest. `fruitpipe publish` "
            "makes it so."
        )


def publish(store: Store, run_id: str) -> Run:
    """Make an older run the latest. Raises UserError where it was never published, or somebody is writing."""
    run = open_run(store, run_id)
    with Lease(store, "fruitpipe publish"):
        point_latest(store, run.id)
    return run


def model_path(store: Store, name: str) -> str:
    """The model folder that `reuse` means: `latest`, a run id of this result, or a path."""
    if name == "latest" or (is_name(name) and not Path(name).exists() and not is_remote(name)):
        return open_run(store, name).path("model")
    return name


class Garbage(NamedTuple):
    """An object that no published run needs."""

    name: str
    bytes: int


def garbage(store: Store) -> list[Garbage]:
    """Unfinished and failed runs, work files, temporary files, and features that no published run uses.

    What has a name that fruitpipe does not give, or lies behind a link, is somebody else's and never garbage.
    """
    require_result(store)
    # In this order, and the latest in any case: a run that is published meanwhile, or that a store lists late, is not
    # taken for one that was never published.
    found = [Garbage(*each) for folder in (layout.FEATURES, layout.RUNS) for each in store.names(folder)]
    runs = {name.split("/")[1] for name, _ in found if name.startswith(f"{layout.RUNS}/")}
    published, used = set(), set()
    for run_id in runs | ({latest} if (latest := latest_run(store)) else set()):
        if (document := store.find(layout.manifest(run_id))) is not None:
            published.add(run_id)
            used.update(Manifest.read(document).feature_parts)
    used = with_merged(used, read_merges(store))

    def needed(name: str) -> bool:
        if name.endswith(TEMPORARY):
            return False
        folder, _, rest = name.partition("/")
        if folder == layout.FEATURES:
            return name in used
        return rest.split("/")[0] in published and not name.startswith(layout.work(rest.split("/")[0]) + "/")

    return sorted(
        each for each in found if layout.is_ours(each.name) and not needed(each.name) and not store.is_linked(each.name)
    )


def collect(store: Store) -> list[Garbage]:
    """Delete the garbage and say what it was.

    Raises UserError where there is no result, or somebody is writing, FruitpipeError where somebody else writes by now.
    """
    require_result(store)  # before a lease leaves its mark in somebody else's folder
    with Lease(store, "fruitpipe gc") as lease:
        found = garbage(store)
        for each in found:
            lease.require_held()  # a run that took over may be publishing what was garbage
            store.delete(each.name)
        store.tidy(layout.is_ours)
    return found
