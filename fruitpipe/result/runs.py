"""The runs of a result: look at them, publish an older one, take its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Literal, TypeVar

from pydantic import BaseModel

from fruitpipe.config import S3Config, is_remote
from fruitpipe.errors import FruitpipeError, UserError, in_words
from fruitpipe.model.model import Model, load_model, read_model
from fruitpipe.objects import Forbidden
from fruitpipe.result.manifest import Manifest, Outcome, Unpublished
from fruitpipe.result.notebook import as_html
from fruitpipe.source.inputs import place_of
from fruitpipe.storage import layout
from fruitpipe.storage.document import damaged, find_document, find_read
from fruitpipe.storage.file import File
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.storage.store import Store, open_store
from fruitpipe.tasks.vector_part import Vectors

OfRun = TypeVar("OfRun", Manifest, Outcome)


@dataclass(frozen=True, repr=False)
class Run:
    """A published run."""

    store: Store
    manifest: Manifest
    reason: str | None = None
    """why `fruitpipe.run` returned it instead of making one"""

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
    def vector_parts(self) -> Vectors:
        """Its vectors, part by part."""
        return Vectors.among(self.store, self.id, self.manifest.files, self.manifest.model.components)

    @property
    def vector_files(self) -> list[File]:
        """The Parquet files with columns path, label, vector, in order."""
        return list(self.vector_parts.files)

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
    status: Literal["latest", "published", "unfinished", "unreadable"] | Unpublished
    started: datetime | None = None
    seconds: float | None = None
    images: int | None = None
    failed: int | None = None
    new: int | None = None
    components: int | None = None
    explained: float | None = None
    reason: str | None = None


class Marker(BaseModel):
    """Content of `fruitpipe.json`."""

    layout: int | str


class Latest(BaseModel):
    """Content of `latest.json`."""

    run: layout.RunId


def list_runs(store: Store) -> list[RunRow]:
    """All runs, oldest first. Raises UserError where there is no result."""
    require_result(store)
    latest = latest_run(store)
    return [row_of(store, run_id, latest) for run_id in run_ids(store)]


def run_ids(store: Store) -> list[str]:
    """Ids of all runs, published or not, oldest first."""
    return [name for name in store.folders(layout.RUNS) if layout.is_run(name)]


def unchanged_runs(store: Store) -> list[str]:
    """Ids of the newest runs, as far as they had nothing to do."""
    newest = (row_of(store, run_id, latest=None) for run_id in reversed(run_ids(store)))
    return [row.run for row in takewhile(lambda row: row.status == "unchanged", newest)]


def row_of(store: Store, run_id: str, latest: str | None) -> RunRow:
    try:
        manifest = find_manifest(store, run_id)
        outcome = None if manifest else find_outcome(store, run_id)
    except (UserError, OSError) as error:  # of this run; there are others
        return RunRow(run=run_id, status="unreadable", reason=in_words(error))
    if manifest:
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
    if outcome:
        seconds = (outcome.finished - outcome.started).total_seconds()
        return RunRow(
            run=run_id, status=outcome.status, started=outcome.started, seconds=seconds, reason=outcome.reason
        )
    return RunRow(run=run_id, status="unfinished")


def find_manifest(store: Store, run_id: str) -> Manifest | None:
    """The manifest of a run; None where it is not published. Raises UserError where it cannot be read."""
    name = layout.manifest(run_id)
    read = partial(Manifest.read, find=lambda beside: store.find(layout.run(run_id, beside)))
    return of_run(store, run_id, name, find_read(store, name, read))


def put_lists(store: Store, manifest: Manifest) -> bytes:
    """Put a run's long lists. Returns its document, without which readers see no run: to put it publishes that.

    Raises FruitpipeError where a list is longer than readers take.
    """
    document, beside = manifest.written()
    for name, data in beside.items():
        store.put(layout.run(manifest.run, name), data)
    return document


def find_outcome(store: Store, run_id: str) -> Outcome | None:
    """How a run ended that was not published; None where it does not say. Raises UserError where it cannot be read."""
    name = layout.outcome(run_id)
    return of_run(store, run_id, name, find_document(store, name, Outcome))


def of_run(store: Store, run_id: str, name: str, document: OfRun | None) -> OfRun | None:
    """A document of a run, which says of which. Raises UserError where it is of another one."""
    if document and document.run != run_id:
        raise damaged(store, name, f"it is of another run, {document.run}")
    return document


def open_run(store: Store, run_id: str = "latest") -> Run:
    """A published run. Raises UserError where there is none of this name."""
    require_result(store)
    name = (latest_run(store) or "") if run_id == "latest" else run_id
    manifest = find_manifest(store, name) if layout.is_run(name) else None
    if manifest is None:
        advice = f"`fruitpipe runs {quote(store.url)}` lists those there are."
        raise UserError(
            f"no published run in {store.url} yet: {advice}" if not name else f"no published run {name}: {advice}"
        )
    return Run(store, manifest)


def is_result(store: Store) -> bool:
    """Whether there is a result. Raises UserError where another version wrote it whose layout is not known here."""
    marker = find_document(store, layout.MARKER, Marker)
    if marker and marker.layout != layout.VERSION:
        raise UserError(
            f"{store.url} has layout {marker.layout}, and this fruitpipe knows layout {layout.VERSION}: use the "
            "fruitpipe that wrote it, or a later one, or choose another output."
        )
    return marker is not None


def check_place(store: Store) -> None:
    """Raise UserError where there is neither a result nor a place for one."""
    if is_result(store):
        return
    for folder, there in side_by_side(partial(is_marked, store), store.folders("")):
        if there:
            raise UserError(
                f"{store.url} holds results of their own, such as {folder}, as of several backbones: give that one or "
                "choose another output, or set `backbones` as those runs did."
            )


def check_outside_results(output: str, s3: S3Config | None) -> None:
    """Raise UserError where an output is among the features or runs of a result, which would be strangers there."""
    parts = place_of(output).split("/")
    for number, part in enumerate(parts):
        if part in layout.FOLDERS and any(parts[:number]):
            outer = open_store("/".join(parts[:number]), s3)
            if is_marked(outer):
                raise UserError(f"{output} is within the result {outer.url}: choose another output.")


def is_marked(store: Store, folder: str = "") -> bool:
    """Whether there is a result in a folder, or right there, as far as it is open to us."""
    with suppress(OSError, Forbidden):
        return store.find(f"{folder}/{layout.MARKER}".lstrip("/")) is not None
    return False


def require_result(store: Store) -> None:
    """Raise UserError where there is no result, or one whose layout is not known here."""
    if not is_result(store):
        raise UserError(
            f"{store.url} is not a fruitpipe result: give the OUT folder of a `fruitpipe run`, or of several backbones "
            "the folder of one in it."
        )


def latest_run(store: Store) -> str | None:
    """Id of the run that is published as the latest."""
    latest = find_document(store, layout.LATEST, Latest)
    return latest.run if latest else None


def point_latest(store: Store, run_id: str) -> None:
    """Raises FruitpipeError where somebody else does so at the same moment."""
    if not store.swap(layout.LATEST, store.find(layout.LATEST), json.dumps({"run": run_id}).encode()):
        raise FruitpipeError(
            f"another process has just published a run in {store.url}: this is not the latest. `fruitpipe publish` "
            "makes it so."
        )


def publish(store: Store, run_id: str, register: Callable[[Run], None] = lambda run: None) -> Run:
    """Make an older run the latest. Raises UserError where it was never published, or somebody is writing.

    register: what else is to be done before somebody else may write.
    """
    run = open_run(store, run_id)
    with Lease(store, "fruitpipe publish"):
        point_latest(store, run.id)
        register(run)
    return run


def find_model(store: Store, name: str, s3: S3Config) -> Model:
    """The model that `reuse` means: of `latest`, of a run id of this result, or at a path.

    Raises UserError where there is none.
    """
    if name == "latest" and not (is_result(store) and latest_run(store)):
        raise UserError(f"no published run in {store.url} yet, whose model could be reused: run with model: fit first.")
    is_path = is_remote(name) or "/" in name or name.startswith(".") or Path(name).exists()
    return open_run(store, name).model if name == "latest" or not is_path else load_model(name, s3)
