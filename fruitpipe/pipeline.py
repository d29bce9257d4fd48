"""The main job, from a folder of images to published vectors."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fruitpipe import layout, pca, reduce, source
from fruitpipe.backbones import Backbone, by_name, flatbuffer
from fruitpipe.config import Config, Environment
from fruitpipe.errors import FruitpipeError, Interrupted, TooManyFailures, UserError
from fruitpipe.featurize import Featurize, PartStats, features_digest
from fruitpipe.images import EXTENSIONS, OK
from fruitpipe.lease import Lease
from fruitpipe.manifest import BackboneFacts, Counts, Drift, File, Manifest, ModelFacts, Outcome, versions
from fruitpipe.model import Card, Model, load_model
from fruitpipe.plan import Plan, Summary
from fruitpipe.progress import Reporter
from fruitpipe.report import render
from fruitpipe.runs import Run, model_path, point_latest
from fruitpipe.store import Store

if TYPE_CHECKING:
    from fruitpipe.spark import Cluster

Entered = TypeVar("Entered")
SAMPLE = 2000
"""Images in the report's picture."""


def run(config: Config, reporter: Reporter | None = None, verbose: bool = False) -> Run:
    """Turn the images of `config.input` into published vectors in `config.output`.

    Features that exist are not computed again, so a run after a crash goes on where that one stood.

    Parameters
    ----------
    config: see `fruitpipe.config.load`.
    reporter: told how the run goes; None for silence.
    verbose: leave Spark's own messages on standard error.

    Raises
    ------
    UserError: the input, the config or the machine is not as it must be; says what to do.
    TooManyFailures: more images failed than `failures.max_rate`; nothing was published.
    Interrupted: by Ctrl-C or SIGTERM.
    FruitpipeError: Spark or the disk gave up; says why.
    """
    store = Store(config.output)
    store.prepare()
    job = Job(config, store, reporter or Reporter(), verbose)
    with Lease(store, f"run {job.id}") as lease:
        store.swap(layout.MARKER, None, json.dumps({"layout": layout.VERSION}).encode())
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
    store = Store(config.output)
    with planning(config) as the_plan:
        add_images(the_plan, config)
        backbone = by_name(config.backbone, Environment.read().keras_home)
        # Without its weights on this machine there can be no features of a backbone.
        digest = features_digest(backbone.digest, config.image) if backbone else "unknown"
        the_plan.add_features(store, digest)
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
    listing = source.list_images(config.input, config.labels, config.verify_content)
    the_plan.add_images(listing, source.LISTING)
    if not the_plan.images:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"no images in {config.input}: looked for {kinds} there and in all folders below.")


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


class Converted(NamedTuple):
    """A backbone, ready to run."""

    backbone: Backbone
    flatbuffer: bytes
    features: str
    """digest of the features that it gives under this config"""


@dataclass
class Job:
    """One run on its way."""

    config: Config
    store: Store
    reporter: Reporter
    verbose: bool
    id: str = field(default_factory=layout.new_run_id)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    warnings: list[str] = field(default_factory=list)

    def run(self, lease: Lease) -> Run:
        """All stages. Spark starts and the backbone is converted while the images are listed."""
        from fruitpipe.spark import cluster  # only here: who applies a model needs no Spark

        environment = Environment.read()
        with (
            tempfile.TemporaryDirectory(prefix="fruitpipe-") as folder,
            background(cluster(self.config.spark, environment, Path(folder, "spark.log"), self.verbose)) as starting,
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
            self.featurize(spark, the_plan, Path(folder), converted)
            counts = self.count(the_plan)
            index = Path(folder, layout.INDEX)
            sizes = the_plan.write_index(index)
            self.store.upload(index, layout.work(self.id, layout.INDEX))
            model = reused or self.fit(spark, len(sizes), converted)
            projected = self.project(spark, len(sizes), model)
            with self.reporter.stage("publish"):
                model, drift = self.judge(model, projected, reused is not None)
                files = [File(**asdict(file)) for part in projected for file in part.files]
                files += self.write_rest(the_plan, model)
                manifest = self.manifest(
                    summary, counts, converted, model, drift, files, the_plan.feature_parts(), spark.worker_memory
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
        backbone, path = flatbuffer(self.config.backbone, environment)
        yield Converted(backbone, path.read_bytes(), features_digest(backbone.digest, self.config.image))

    def model_to_reuse(self, converted: Converted) -> Model | None:
        if self.config.model == "fit":
            return None
        model = load_model(model_path(self.store, self.config.reuse))
        if model.card.features != converted.features:
            raise UserError(
                f"the model to reuse ({self.config.reuse}) takes features of {model.card.backbone} with "
                f"{model.card.image.resample} resampling: choose the same, or model: fit."
            )
        return model

    def featurize(self, spark: Cluster, the_plan: Plan, scratch: Path, converted: Converted) -> None:
        """Compute the features that are missing; afterwards the plan knows all."""
        todo = scratch / layout.TODO
        sizes = the_plan.write_todo(todo, spark.slots)
        if not sizes:
            return
        self.store.upload(todo, layout.work(self.id, layout.TODO))
        task = Featurize(
            self.config.output,
            layout.work(self.id, layout.TODO),
            converted.features,
            converted.backbone.digest,
            self.config.image,
        )
        shared = spark.share(converted.flatbuffer)

        def watch(part: PartStats) -> None:
            images = part.statuses.total()
            self.reporter.advance(images, images - part.statuses[OK])

        with self.reporter.stage("featurize", sum(sizes)):
            spark.map(lambda number: task(number, shared), len(sizes), watch, self.reporter.poll)
        the_plan.add_features(self.store, converted.features)

    def count(self, the_plan: Plan) -> Counts:
        """Count by status and label. Raises TooManyFailures, leaving `failures.parquet` behind."""
        by_status = the_plan.count_by("status")
        ok = by_status.get(OK, 0)
        counts = Counts(
            images=the_plan.images,
            ok=ok,
            failed=the_plan.images - ok,
            by_status=by_status,
            by_label=the_plan.count_by("label", f"status = '{OK}'"),
        )
        self.warnings += [f"{name} could not be read and was computed again" for name in the_plan.broken]
        rate = counts.failed / counts.images
        if rate <= self.config.failures.max_rate and ok:
            return counts
        failures = layout.failures(self.id)
        self.store.put(failures, to_parquet(the_plan.failures()))
        reasons = ", ".join(f"{n} {status}" for status, n in by_status.items() if status != OK)
        limit = f"more than failures.max_rate ({self.config.failures.max_rate:g})" if ok else "all of them"
        raise TooManyFailures(
            f"{counts.failed} of {counts.images} images failed ({reasons}), {limit}: nothing was published. Features "
            f"are kept. See {self.store.location(failures)}, then mend the images or raise failures.max_rate."
        )

    def fit(self, spark: Cluster, parts: int, converted: Converted) -> Model:
        with self.reporter.stage("fit"):
            spark.map(reduce.Fit(self.config.output, self.id), parts, poll=self.reporter.poll)
            moments = reduce.merge(self.store, self.id, parts)
            options = self.config.pca
            fitted = pca.fit(moments, options.components, options.variance, options.scale)
        if options.components and options.components > len(fitted.components) and options.variance is None:
            self.warnings.append(
                f"pca.components is {options.components}, but {moments.count} images have only "
                f"{len(fitted.components)} independent components"
            )
        card = Card(
            run=self.id,
            backbone=converted.backbone.name,
            features=converted.features,
            image=self.config.image,
            images=moments.count,
            reconstruction_error=0.0,
            reconstruction_error_p99=0.0,
        )
        return Model(card, fitted, converted.flatbuffer)

    def project(self, spark: Cluster, parts: int, model: Model) -> list[reduce.Projected]:
        metadata = {
            "fruitpipe.run": self.id,
            "fruitpipe.model": model.card.run,
            "fruitpipe.components": str(len(model.pca.components)),
            "fruitpipe.backbone": model.card.backbone,
        }
        task = reduce.Project(self.config.output, self.id, ("parquet", *self.config.formats), metadata, SAMPLE // parts)
        shared = spark.share(model.pca)
        with self.reporter.stage("project"):
            return spark.map(lambda number: task(number, shared), parts, poll=self.reporter.poll)

    def judge(self, model: Model, projected: list[reduce.Projected], reused: bool) -> tuple[Model, Drift | None]:
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

    def write_rest(self, the_plan: Plan, model: Model) -> list[File]:
        """Write the model, the failures and the config."""
        failures = the_plan.failures()
        objects: dict[str, bytes | memoryview] = {
            layout.model(self.id, name): data for name, data in model.files().items()
        }
        objects[layout.failures(self.id)] = to_parquet(failures)
        objects[layout.config(self.id)] = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False).encode()
        files = []
        for name, data in objects.items():
            self.store.put(name, data)
            files.append(
                File(
                    name=layout.within(self.id, name),
                    rows=len(failures) if name == layout.failures(self.id) else None,
                    bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
        return files

    def manifest(
        self,
        summary: Summary,
        counts: Counts,
        converted: Converted,
        model: Model,
        drift: Drift | None,
        files: list[File],
        feature_parts: list[str],
        worker_memory: int,
    ) -> Manifest:
        seconds = self.reporter.timings.get("featurize")
        config = self.config.model_dump_json()
        ratios = model.pca.explained_variance_ratio
        kept = len(model.pca.components)
        return Manifest(
            layout=layout.VERSION,
            run=self.id,
            started=self.started,
            finished=datetime.now(UTC),
            config=self.config,
            config_digest=hashlib.sha256(config.encode()).hexdigest(),
            backbone=BackboneFacts(
                name=converted.backbone.name,
                layer=converted.backbone.layer,
                input_size=converted.backbone.input_size,
                dimension=len(model.pca.mean),
                digest=converted.backbone.digest,
            ),
            features_digest=converted.features,
            counts=counts,
            plan=summary,
            model=ModelFacts(
                fitted_by=model.card.run,
                images=model.card.images,
                components=kept,
                explained=float(ratios[:kept].sum()),
                explained_variance=model.pca.explained_variance.tolist(),
                explained_variance_ratio=ratios.tolist(),
                reconstruction_error=model.card.reconstruction_error,
                reconstruction_error_p99=model.card.reconstruction_error_p99,
            ),
            drift=drift,
            files=files,
            feature_parts=feature_parts,
            timings={name: round(value, 3) for name, value in self.reporter.timings.items()},
            images_per_second=round(summary.todo / seconds, 1) if seconds else None,
            worker_memory=worker_memory,
            warnings=self.warnings,
            versions=versions(),
        )

    def give_up(self, status: Literal["failed", "interrupted"], reason: str) -> None:
        """Leave a note of why the run ended, for `fruitpipe runs`."""
        outcome = Outcome(run=self.id, status=status, reason=reason, started=self.started, finished=datetime.now(UTC))
        try:
            self.store.put(layout.outcome(self.id), outcome.model_dump_json(indent=2).encode())
        except OSError as error:
            self.reporter.note(f"could not write why the run ended to {self.store.url}: {error.strerror}")


def to_parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())
