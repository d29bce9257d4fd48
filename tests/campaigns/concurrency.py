"""Concurrency: runs, gc, publish, compaction and readers on one result at a time, in interleavings that are drawn.

All is real but Spark, whose tasks run one after another where the driver is. No published run ever lacks a file, or
changes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import fruitpipe
from campaigns.turns import Turns
from fruitpipe.config import Config, S3Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.model.model import read_model
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.result.compaction import compact, read_merges, with_merged
from fruitpipe.result.garbage import collect
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import latest_run, list_runs, open_run, publish
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore, Store, open_store

BACKBONE = "colour_histogram:ColourHistogram"
REFUSALS = ("wait for it to end", "took over", "has just published")
FIRST = {"image": {"max_seconds": 21}}
"""The config of the template's runs: with another one, there is something to do."""
SETS = {"few": range(30), "more": range(45), "others": range(15, 60)}


class Here:
    """What a run asks of Spark: tasks run one after another, on the driver's thread."""

    slots, local, note, worker_memory, gpu_tasks = 2, True, "", 0, 0

    def share(self, value: Any) -> Callable[[], Any]:
        return lambda: value

    def map(
        self,
        task: Callable[[int], Any],
        count: int,
        watch: Callable[[Any], None] = lambda _: None,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        results = []
        for number in range(count):
            results.append(task(number))
            watch(results[-1])
            poll()
        return results


@contextmanager
def in_steps() -> Iterator[None]:
    """Runs of this process meanwhile do without Spark, and with the store of their thread."""

    @contextmanager
    def here(*_: object) -> Iterator[Here]:
        yield Here()

    def store_of(url: str, s3: S3Config) -> Store:
        return getattr(own, "store", None) or open_store(url, s3)

    with (
        patch("fruitpipe.pipeline.job.runner", here),
        patch("fruitpipe.pipeline.run.open_store", store_of),
        one_thread(),
        # Whoever waits for the turn at linear algebra makes no step, and the one whose turn it is would wait for that.
        patch("fruitpipe.tasks.reduce.one_thread", nullcontext),
        patch("fruitpipe.pipeline.stages.one_thread", nullcontext),
    ):
        yield


own = threading.local()
"""The store that a run of this thread is to use."""


class Template:
    """A result with two runs and what is left of a third, whose features the next run of its images will take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(60)]
        for name, numbers in SETS.items():
            for number in numbers:
                path = folder / name / f"{number % 3}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures[number].save(path)
        self.vectors: dict[tuple[str, str], pa.Table] = {}
        """by images and by those of the fit"""
        for name in ("others", "few", "more"):
            run = fruitpipe.run(self.config(name, folder / "out", **FIRST))
            self.vectors[name, name] = vectors_of(run.store, run.manifest)
            model = run.store.location(layout.model(run.id))
            again = fruitpipe.run(self.config("more", folder / f"more by {name}", model="reuse", reuse=model))
            self.vectors["more", name] = vectors_of(again.store, again.manifest)
            if name == "others":
                run.store.delete(layout.manifest(run.id))
        self.store = run.store

    def config(self, images: str, output: str | Path, s3: S3Config | None = None, **others: Any) -> Config:
        given = {"backbone": BACKBONE, "input": str(self.folder / images), "output": str(output)} | others
        return Config.model_validate(given | ({"s3": s3} if s3 else {}))

    def copy(self, url: str, s3: S3Config | None) -> Store:
        """A copy of the result in an empty place."""
        store = open_store(url, s3)
        store.create()
        names = [name for folder in (layout.FEATURES, layout.RUNS) for name, _ in self.store.names(folder)]
        for name in (layout.MARKER, layout.LATEST, *names):
            store.put(name, self.store.get(name))
        return store


def vectors_of(store: Store, manifest: Manifest) -> pa.Table:
    """The vectors of a run, its images named by their folder and file."""
    names = sorted(file.name for file in manifest.files if file.name.startswith("vectors/"))
    table = pa.concat_tables(
        pq.read_table(pa.BufferReader(store.get(layout.run(manifest.run, name)))).replace_schema_metadata(None)
        for name in names
    )
    short = pa.array(["/".join(path.split("/")[-2:]) for path in table["path"].to_pylist()])
    return table.set_column(0, "path", short)


class Watch:
    """What is known of a result's published runs; `look` fails where one lacks a file, or has changed."""

    def __init__(self, store: Store, template: Template) -> None:
        self._store, self._template = store, template
        self._seen: dict[str, bytes] = {}
        self._images: dict[str, str] = {}
        """of each run that is published: its input's name"""
        self.look()

    def look(self) -> None:
        store = self._store
        features, merges = {name for name, _ in store.names(layout.FEATURES)}, read_merges(store)
        documents = {run: store.find(layout.manifest(run)) for run in store.folders(layout.RUNS)}
        for run, document in self._seen.items():
            assert documents.get(run) == document, f"the manifest of {run} has changed"
        manifests = {run: Manifest.read(document) for run, document in documents.items() if document is not None}
        self._images |= {run: Path(manifest.config.inputs[0]).name for run, manifest in manifests.items()}
        for run, manifest in manifests.items():
            for file in manifest.files:
                data = store.find(layout.run(run, file.name))
                assert data is not None, f"{run} lacks {file.name}"
                assert File.of(file.name, data, file.rows) == file, f"{file.name} of {run} has changed"
            assert store.find(layout.report(run)), f"{run} lacks its report"
            for part in set(manifest.feature_parts) - features:
                instead = with_merged({part}, merges) - {part}
                assert instead, f"{part} of {run} is gone"
                parts = {name for name in instead if layout.is_feature_part(name)}
                assert parts & features, f"{part} of {run} is gone, and what stands for it"
            if run not in self._seen:
                images, fitted_on = self._images[run], self._images[manifest.model.fitted_by]
                expected = self._template.vectors[images, fitted_on]
                assert vectors_of(store, manifest).equals(expected), f"{run} has other vectors"
                self._seen[run] = documents[run]
        assert latest_run(store) in self._seen, "the latest run is none that is published"


def play(template: Template, url: str, seed: str, s3: S3Config | None = None) -> Counter[str]:
    """One interleaving of three to five actors; says how often what was done, and what was refused.

    In most, whoever has the lease stands still at some moment, until it has lapsed and all others have ended.

    Raises AssertionError where a published run lacks a file or has changed, or an actor ended as it may not.
    """
    plain = template.copy(url, s3)
    old = next(row.run for row in list_runs(plain) if row.status == "published")
    told: Counter[str] = Counter()
    failed: list[str] = []

    def run(store: Store, images: str, model: str = "fit") -> None:
        own.store = store
        fruitpipe.run(template.config(images, url, s3, model=model))

    def read(store: Store) -> None:
        found = open_run(store)
        model = read_model(store, layout.model(found.id), BACKBONE)
        images = sorted((template.folder / "few").rglob("*.png"))[:5]
        assert {each.status for each in model.transform_images(images, threads=1)} == {"ok"}
        vectors_of(store, found.manifest)

    kinds: dict[str, Callable[[Store], object]] = {
        "run others": lambda store: run(store, "others"),
        "run more": lambda store: run(store, "more"),
        "reuse": lambda store: run(store, "more", "reuse"),
        "gc": collect,
        "publish": lambda store: publish(store, old),
        "compact": compact,
        "transform": read,
    }

    def actor(name: str) -> Callable[[], None]:
        kind, store = name.partition(", ")[2], turns.store(plain, name)

        def act() -> None:
            try:
                while not tried():
                    turns.rest(name)
                told[kind] += 1
            except Exception as error:  # noqa: BLE001 - whatever ends an actor as it may not, is told
                failed.append(f"{kind}: {error!r}")

        def tried() -> bool:
            try:
                kinds[kind](store)
            except FruitpipeError as error:
                if kind == "transform" or not any(word in str(error) for word in REFUSALS):
                    raise
                told["refused"] += 1
                return False
            return True

        return act

    watch = Watch(plain, template)

    def changed(operation: str, name: str) -> None:
        publishes = name.endswith((layout.LATEST, "manifest.json"))
        if not isinstance(plain, LocalStore) and not publishes and operation != "delete_all":
            return  # a look is a hundred requests
        try:
            watch.look()
        except Exception as error:  # noqa: BLE001 - a file that is gone, in whatever words
            failed.append(f"after {operation} of {name}: {error!r}")

    turns = Turns(seed, changed)
    names = [f"{number}, {turns.random.choice(list(kinds))}" for number in range(turns.random.randint(3, 5))]
    still = turns.random.randint(1, 120) if turns.random.random() < 0.7 else None
    turns.play({name: actor(name) for name in names}, still, lambda: plain.delete(layout.LEASE))
    told["stood still"] += turns.stood_still
    told["steps"] += turns.steps
    collect(plain)
    changed("gc", layout.LATEST)
    if plain.find(layout.LEASE) is not None:
        failed.append("the lease is still there")
    assert not failed, f"seed {seed}, {names}: {failed[0]}"
    return told
