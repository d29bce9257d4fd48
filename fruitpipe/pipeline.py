"""The main job, from a folder of images to published vectors."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fruitpipe import layout, source
from fruitpipe.backbones import flatbuffer
from fruitpipe.config import Config, Environment
from fruitpipe.errors import FruitpipeError, Interrupted, NoWeights, UserError
from fruitpipe.featurize import WarmUp, features_digest
from fruitpipe.lease import Lease
from fruitpipe.manifest import BackboneFacts, Drift, Manifest, ModelFacts, Outcome, Summary, versions
from fruitpipe.model import Model, load_model
from fruitpipe.plan import Plan
from fruitpipe.progress import Reporter
from fruitpipe.reduce import Projected
from fruitpipe.report import render
from fruitpipe.runs import Run, model_path, point_latest
from fruitpipe.stages import Converted, Stages
from fruitpipe.store import Store, open_store

Entered = TypeVar("Entered")


def run(config: Config, reporter: Reporter | None = None, verbose: bool = False) -> Run:
    """Turn the images of `config.input` into published vectors in `config.output`.

    Features that exist are not computed again, so a run after a crash goes on where that one stood.

    Parameters
    ----------
    config: see `fruitpipe.load_config`.
    reporter: told how the run goes; None for silence.
    verbose: leave Spark's own messages on standard error.

    Raises
    ------
    UserError: the input, the config or the machine is not as it must be; says what to do.
    TooManyFailures: more images failed than `failures.max_rate`; nothing was published.
    Interrupted: by Ctrl-C or SIGTERM.
    FruitpipeError: Spark or the disk gave up; says why.
    """
    source.check(config.inputs, config.s3)  # before anything is made: a typo should leave no trace
    store = open_store(config.output, config.s3)
    store.prepare()
    job = Job(config, store, reporter or Reporter(), verbose)
    with Lease(store, f"run {job.id}") as lease:
        store.swap(layout.MARKER, None, json.dumps({"layout": layout.VERSION}).encode())
        if not store.swaps(layout.scratch()):
            job.warnings.append(
                f"{store.url} has no conditional writes: two runs that begin in one moment do not notice each other"
            )
        try:
            return job.run(lease)
        except KeyboardInterrupt:
            job.give_up("interrupted", "interrupted")
            raise Interrupted("stopped. Finished parts are kept: the same command continues from them.") from None
        except FruitpipeError as error:
            job.give_up("failed", str(error))
            raise


def plan(config: Config) -> Summary:
    """What a run would do, without doing any of it. Raises UserError as `run` does."""
    source.check(config.inputs, config.s3)
    store = open_store(config.output, config.s3)
    with planning(config) as the_plan:
        add_images(the_plan, config)
        try:
            backbone, _ = flatbuffer(config.network, Environment.read())
            the_plan.add_features(store, features_digest(backbone.digest, config.image))
        except NoWeights:  # then there are no features of it here: `run` will say so
            the_plan.add_features(store, "unknown")
        return the_plan.summary()


@contextmanager
def planning(config: Config, scratch: Path | None = None) -> Iterator[Plan]:
    with tempfile.TemporaryDirectory(prefix="fruitpipe-", dir=scratch) as folder:
        the_plan = Plan(Path(folder), config.verify_content, config.failures.retry)
        try:
            yield the_plan
        finally:
            the_plan.close()


def add_images(the_plan: Plan, config: Config) -> None:
    """List the input into a plan. Raises UserError where there are no images."""
    listing = source.list_images(config.inputs, config.labels, config.verify_content, config.image.max_bytes, config.s3)
    the_plan.add_images(listing, source.LISTING, distinct=source.is_distinct(config.inputs))
    if not the_plan.images:
        raise source.no_images(config.inputs)


@contextmanager
def background(manager: AbstractContextManager[Entered]) -> Iterator[Future[Entered]]:
    """Enter a context on another thread, and leave it on this one."""
    with ThreadPoolExecutor(1) as pool:
        entering = pool.submit(manager.__enter__)
        try:
            yield entering
        finally:
            if entering.exception() is None:
                manager.__exit__(None, None, None)


@dataclass
class Job:
    """One run, from its lease to its manifest."""

    config: Config
    store: Store
    reporter: Reporter
    verbose: bool
    id: str = field(default_factory=layout.new_run_id)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    warnings: list[str] = field(default_factory=list)

    def run(self, lease: Lease) -> Run:
        """List and plan while Spark starts and the backbone is converted; then the stages."""
        from fruitpipe.spark import cluster  # only here: who applies a model needs no Spark

        config, environment = self.config, Environment.read()
        first = WarmUp(self.store, source.opened(config.inputs, config.s3))
        with (
            tempfile.TemporaryDirectory(prefix="fruitpipe-") as folder,
            background(cluster(config.spark, environment, Path(folder, "spark.log"), self.verbose, first)) as starting,
            background(self.convert(environment)) as converting,
            planning(self.config, Path(folder)) as the_plan,
        ):
            with self.reporter.stage("list"):
                add_images(the_plan, self.config)
            with self.reporter.stage("plan"):
                converted = converting.result()
                reused = self.model_to_reuse(converted)
                the_plan.add_features(self.store, converted.features)
                summary = the_plan.summary()
            with self.reporter.stage("start"):
                spark = starting.result()
            stages = Stages(
                self.config, self.store, self.reporter, self.id, Path(folder), the_plan, spark, converted, self.warnings
            )
            stages.featurize()
            counts = stages.count()
            parts = stages.index()
            model = reused or stages.fit(parts)
            projected = stages.project(parts, model)
            evaluation = stages.evaluate(parts, model.pca)
            with self.reporter.stage("publish"):
                model, drift = judge(model, projected, reused is not None)
                manifest = Manifest(
                    layout=layout.VERSION,
                    run=self.id,
                    started=self.started,
                    finished=datetime.now(UTC),
                    config=self.config,
                    config_digest=hashlib.sha256(self.config.model_dump_json().encode()).hexdigest(),
                    backbone=BackboneFacts.of(converted.backbone),
                    features_digest=converted.features,
                    counts=counts,
                    plan=summary,
                    model=ModelFacts.of(model),
                    drift=drift,
                    evaluation=evaluation,
                    files=[*(file for part in projected for file in part.files), *stages.write_rest(model)],
                    feature_parts=the_plan.feature_parts(),
                    timings={name: round(seconds, 3) for name, seconds in self.reporter.timings.items()},
                    worker_memory=spark.worker_memory,
                    warnings=stages.warnings,
                    versions=versions(),
                )
                sample = [row for part in projected for row in part.sample]
                self.store.put(layout.report(self.id), render(manifest, sample).encode())
                lease.check()
                self.store.put(layout.manifest(self.id), manifest.model_dump_json(indent=2).encode())
                point_latest(self.store, self.id)
        for name, _ in list(self.store.names(layout.work(self.id))):
            self.store.delete(name)
        return Run(self.store, manifest)

    @contextmanager
    def convert(self, environment: Environment) -> Iterator[Converted]:
        backbone, path = flatbuffer(self.config.network, environment)
        yield Converted(backbone, path.read_bytes(), features_digest(backbone.digest, self.config.image))

    def model_to_reuse(self, converted: Converted) -> Model | None:
        if self.config.model == "fit":
            return None
        model = load_model(model_path(self.store, self.config.reuse), self.config.s3)
        if model.card.features != converted.features:
            raise UserError(
                f"the model to reuse ({self.config.reuse}) takes features of {model.card.backbone} with "
                f"{model.card.image.resample} resampling: choose the same, or model: fit."
            )
        return model

    def give_up(self, status: Literal["failed", "interrupted"], reason: str) -> None:
        """Leave a note of why the run ended, for `fruitpipe runs`."""
        outcome = Outcome(run=self.id, status=status, reason=reason, started=self.started, finished=datetime.now(UTC))
        try:
            self.store.put(layout.outcome(self.id), outcome.model_dump_json(indent=2).encode())
        except (OSError, FruitpipeError) as error:
            self.reporter.note(f"could not write why the run ended to {self.store.url}: {error}")


def judge(model: Model, projected: list[Projected], reused: bool) -> tuple[Model, Drift | None]:
    """Reconstruction errors: into the card of a model that was fitted now, against the card of a reused one."""
    errors = np.concatenate([part.errors for part in projected])
    mean = float(errors.mean(dtype=np.float64))
    if not reused:
        p99 = float(np.quantile(errors, 0.99))
        card = model.card.model_copy(update={"reconstruction_error": mean, "reconstruction_error_p99": p99})
        return replace(model, card=card), None
    # With all components kept, errors are rounding noise, and so is their percentile.
    beyond = errors > max(model.card.reconstruction_error_p99, 1e-6)
    return model, Drift(
        reconstruction_error=mean,
        fit_reconstruction_error=model.card.reconstruction_error,
        beyond_p99=float(beyond.mean()),
    )
