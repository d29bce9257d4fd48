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

from fruitpipe import source
from fruitpipe.config import WORDS, Config, Environment, ImageConfig
from fruitpipe.engines import Extractor
from fruitpipe.errors import FruitpipeError, Interrupted, NoWeights, UserError
from fruitpipe.model.model import Model, load_model
from fruitpipe.numeric.pca import Pca
from fruitpipe.pipeline import vocabulary
from fruitpipe.pipeline.backbone import Prepared, prepare, prepare_words
from fruitpipe.pipeline.plan import Plan
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.pipeline.stages import Stages
from fruitpipe.result.manifest import BackboneFacts, Drift, Manifest, ModelFacts, Outcome, Summary, versions
from fruitpipe.result.report import render
from fruitpipe.result.runs import Run, model_path, point_latest
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import Store, open_store
from fruitpipe.tasks.reduce import Projected
from fruitpipe.tasks.warm_up import WarmUp

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
    source.check_apart(config.inputs, config.output)
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
    source.check_apart(config.inputs, config.output)
    store = open_store(config.output, config.s3)
    with planning(config) as the_plan:
        add_images(the_plan, config)
        the_plan.add_features(store, known_features(config, store, the_plan) or "unknown")
        return the_plan.summary()


def known_features(config: Config, store: Store, the_plan: Plan) -> str | None:
    """Digest of the features that a run would take; None where there can be none yet."""
    reused = model_to_reuse(config, store)
    try:
        if config.backbone not in WORDS:
            prepared = prepare(config, Environment.read())
        elif reused and reused.extractor.kind == "words":
            prepared = prepare_words(config, reused.extractor.data)
        elif found := vocabulary.find(store, vocabulary.name_of(config, the_plan.sample(config.words.images))):
            prepared = prepare_words(config, found)
        else:
            return None
    except NoWeights:  # `run` will say so
        return None
    check_reuse(config, reused, prepared)
    return prepared.features


def model_to_reuse(config: Config, store: Store) -> Model | None:
    if config.model == "fit":
        return None
    return load_model(model_path(store, config.reuse), config.s3)


def check_reuse(config: Config, model: Model | None, prepared: Prepared) -> None:
    """Raises UserError where a model does not fit a config."""
    if model is None:
        return
    if model.card.features != prepared.features:
        there = settings(model.card.backbone, model.extractor, model.card.image)
        here = settings(config.backbone, prepared.extractor, config.image)
        others = [f"{name}={value}" for name, value in there.items() if value != here.get(name)]
        raise UserError(
            f"the model to reuse ({config.reuse}) takes features with "
            f"{', '.join(others) or 'another layer, pooling or weights'}: choose the same, or model: fit."
        )
    if config.pca == "none" and isinstance(model.pca, Pca):
        raise UserError(f"the model to reuse ({config.reuse}) has a PCA: leave pca: none out, or say model: fit.")


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
    vocabulary: list[str] = field(default_factory=list)
    """object of the words, where there are any"""

    def run(self, lease: Lease) -> Run:
        """List and plan while Spark starts and the backbone is converted; then the stages."""
        from fruitpipe.spark.cluster import cluster  # only here: who applies a model needs no Spark

        config, environment = self.config, Environment.read()
        first = WarmUp(self.store, source.opened(config.inputs, config.s3))
        with (
            tempfile.TemporaryDirectory(prefix="fruitpipe-") as folder,
            background(cluster(config.spark, environment, Path(folder, "spark.log"), self.verbose, first)) as starting,
            background(self.prepare(environment)) as preparing,
            planning(self.config, Path(folder)) as the_plan,
        ):
            with self.reporter.stage("list"):
                add_images(the_plan, self.config)
            reused = model_to_reuse(self.config, self.store)
            words = self.words(the_plan, reused)
            with self.reporter.stage("plan"):
                prepared = words or preparing.result()
                assert prepared is not None, "all but words are prepared while images are listed"
                check_reuse(self.config, reused, prepared)
                the_plan.add_features(self.store, prepared.features)
                summary = the_plan.summary()
            with self.reporter.stage("start"):
                spark = starting.result()
            stages = Stages(
                self.config, self.store, self.reporter, self.id, Path(folder), the_plan, spark, prepared, self.warnings
            )
            stages.featurize()
            comparison = stages.compare()
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
                    backbone=backbone_facts(prepared),
                    features_digest=prepared.features,
                    counts=counts,
                    plan=summary,
                    model=model_facts(model),
                    drift=drift,
                    comparison=comparison,
                    evaluation=evaluation,
                    files=[*stages.join(projected), *stages.write_rest(model)],
                    feature_parts=[*the_plan.feature_parts(), *self.vocabulary],
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
    def prepare(self, environment: Environment) -> Iterator[Prepared | None]:
        """Any backbone but words, which need images."""
        yield None if self.config.backbone in WORDS else prepare(self.config, environment)

    def words(self, the_plan: Plan, reused: Model | None) -> Prepared | None:
        """A bag of words, if the config wants one: those of the model to reuse, or learnt, now or by an earlier run."""
        if self.config.backbone not in WORDS:
            return None
        if reused and reused.extractor.kind == "words":
            return prepare_words(self.config, reused.extractor.data)
        with self.reporter.stage("words"):
            sample = the_plan.sample(self.config.words.images)
            name, data = vocabulary.find_or_learn(self.config, self.store, sample)
            self.vocabulary.append(name)
            return prepare_words(self.config, data)

    def give_up(self, status: Literal["failed", "interrupted"], reason: str) -> None:
        """Leave a note of why the run ended, for `fruitpipe runs`."""
        outcome = Outcome(run=self.id, status=status, reason=reason, started=self.started, finished=datetime.now(UTC))
        try:
            self.store.put(layout.outcome(self.id), outcome.model_dump_json(indent=2).encode())
        except (OSError, FruitpipeError) as error:
            self.reporter.note(f"could not write why the run ended to {self.store.url}: {error}")


def backbone_facts(prepared: Prepared) -> BackboneFacts:
    backbone = prepared.backbone
    facts = backbone.model_dump(exclude={"weights"})
    return BackboneFacts(**facts, digest=backbone.digest, engine=prepared.extractor.kind)


def model_facts(model: Model) -> ModelFacts:
    return ModelFacts(
        fitted_by=model.card.run,
        images=model.card.images,
        components=model.pca.length,
        explained=model.pca.explained,
        explained_variance=model.pca.explained_variance.tolist(),
        explained_variance_ratio=model.pca.explained_variance_ratio.tolist(),
        reconstruction_error=model.card.reconstruction_error,
        reconstruction_error_p99=model.card.reconstruction_error_p99,
    )


def settings(backbone: str, extractor: Extractor, image: ImageConfig) -> dict[str, str | bool]:
    """By key, what decides how features come to be and has a name that people know."""
    found: dict[str, str | bool] = {"backbone": backbone}
    found["precision"] = "bf16" if extractor.kind == "openvino_bf16" else "float32"
    if extractor.kind == "python":
        found["version"] = json.loads(extractor.data)["version"]
    return found | {f"image.{name}": value for name, value in image.steps.items()}


def judge(model: Model, projected: list[Projected], reused: bool) -> tuple[Model, Drift | None]:
    """Reconstruction errors: into the card of a model that was fitted now, against the card of a reused one.

    A model without a PCA loses nothing, so nothing can drift.
    """
    errors = np.concatenate([part.errors for part in projected])
    mean = float(errors.mean(dtype=np.float64))
    if not reused:
        p99 = float(np.quantile(errors, 0.99))
        card = model.card.model_copy(update={"reconstruction_error": mean, "reconstruction_error_p99": p99})
        return replace(model, card=card), None
    if model.card.unreduced:
        return model, None
    # With all components kept, errors are rounding noise, and so is their percentile.
    beyond = errors > max(model.card.reconstruction_error_p99, 1e-6)
    return model, Drift(
        reconstruction_error=mean,
        fit_reconstruction_error=model.card.reconstruction_error,
        beyond_p99=float(beyond.mean()),
    )
