"""The stages of a run that work on images: featurize, count, fit, project. Each hands Spark its tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruitpipe import source
from fruitpipe.config import Config
from fruitpipe.engines import Extractor
from fruitpipe.errors import TooManyFailures
from fruitpipe.model.model import Card, Model
from fruitpipe.numeric import evaluation, pca
from fruitpipe.numeric import precision as comparison
from fruitpipe.numeric.evaluation import Evaluation
from fruitpipe.numeric.precision import Comparison
from fruitpipe.pipeline.backbone import Prepared
from fruitpipe.pipeline.plan import Plan
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.result.manifest import Counts
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store
from fruitpipe.tasks import reduce
from fruitpipe.tasks.featurize import GROUP, Done, Featurize, Image, Look
from fruitpipe.vision.decode import OK

if TYPE_CHECKING:
    from fruitpipe.spark.cluster import Cluster

SAMPLE = 2000
"""Images in the report's picture."""


@dataclass
class Stages:
    """What the stages of one run share."""

    config: Config
    store: Store
    reporter: Reporter
    id: str
    scratch: Path
    plan: Plan
    spark: Cluster
    prepared: Prepared
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def shared(self) -> Callable[[], Extractor]:
        """What makes features, sent to every executor once."""
        return share(self.spark, self.prepared.extractor)

    def featurize(self) -> None:
        """Compute the features that are missing; afterwards the plan knows all."""
        todo = self.scratch / layout.TODO
        sizes = self.plan.write_todo(todo, self.spark.slots)
        if not sizes:
            return
        name = layout.work(self.id, layout.TODO)
        self.store.upload(todo, name)
        config, prepared = self.config, self.prepared
        opened = source.opened(config.inputs, config.s3)
        task = Featurize(self.store, name, prepared.features, config.image, config.s3, opened)
        shared = self.shared

        def watch(done: Done) -> None:
            self.reporter.advance(done.statuses, done.statuses.total() - done.statuses[OK], done.bytes)

        with self.reporter.stage("featurize", sum(sizes)):
            self.spark.map(lambda number: task(number, shared), len(sizes), watch, self.reporter.poll)
        self.plan.add_features(self.store, prepared.features)

    def compare(self) -> Comparison | None:
        """Look at some images in float32 too, where the features are of less precision."""
        config, features = self.config, self.prepared.features
        extractor = self.prepared.extractor._replace(kind="openvino")
        if config.precision == "float32":
            return None
        sample = self.plan.sample(comparison.SAMPLE, "path, etag, label")
        images = tuple(Image(path, etag) for path, etag, _ in sample)
        with self.reporter.stage("compare"):
            # In this order: workers have the run's engine from the stage before.
            rounded, good = self.look(images, features, self.shared)
            exact, sound = self.look(images, f"{features} in float32", share(self.spark, extractor))
            ok = good & sound
            if not ok.any():
                return None
            options = None if config.pca == "none" else config.pca
            labels = [label for (_, _, label), each in zip(sample, ok, strict=True) if each]
            return comparison.compare(exact[ok], rounded[ok], labels, options)

    def look(
        self, images: tuple[Image, ...], key: str, extractor: Callable[[], Extractor]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features of some images, shape (n, d), and which of them have one, (n,)."""
        config = self.config
        task = Look(images, key, config.image, config.s3, source.opened(config.inputs, config.s3))
        tasks = -(-len(images) // GROUP)
        found = self.spark.map(lambda number: task(number, extractor), tasks, poll=self.reporter.poll)
        statuses = np.array([status for part, _ in found for status in part])
        return np.concatenate([features for _, features in found]), statuses == OK

    def count(self) -> Counts:
        """Count by status and label. Raises TooManyFailures, leaving `failures.parquet` behind."""
        by_status = self.plan.count_by("status")
        ok = by_status.get(OK, 0)
        counts = Counts(
            images=self.plan.images,
            ok=ok,
            failed=self.plan.images - ok,
            by_status=by_status,
            by_label=self.plan.count_by("label", f"status = '{OK}'"),
        )
        self.warnings += [f"{name} could not be read and was computed again" for name in self.plan.broken]
        if ok and counts.failed <= self.config.failures.max_rate * counts.images:
            return counts
        failures = layout.failures(self.id)
        self.store.put(failures, to_parquet(self.plan.failures()))
        reasons = ", ".join(f"{n} {status}" for status, n in by_status.items() if status != OK)
        limit = f"more than failures.max_rate ({self.config.failures.max_rate:g})" if ok else "all of them"
        raise TooManyFailures(
            f"{counts.failed} of {counts.images} images failed ({reasons}), {limit}: nothing was published. Features "
            f"are kept. The commonest: {self.plan.commonest_error()}. See {self.store.location(failures)}, then mend "
            f"the {'backbone' if 'rejected' in by_status else 'images'} or raise failures.max_rate."
        )

    def index(self) -> int:
        """Write where the features of each vector part lie; return how many parts there are."""
        index = self.scratch / layout.INDEX
        sizes = self.plan.write_index(index)
        self.store.upload(index, layout.work(self.id, layout.INDEX))
        return len(sizes)

    def fit(self, parts: int) -> Model:
        """Fit scaler and PCA, where there is to be one. Reconstruction errors are known only when the vectors are."""
        if self.config.pca == "none":
            return self.model_of(pca.Unreduced(self.prepared.backbone.dimension), images=0)
        options = self.config.pca
        with self.reporter.stage("fit"):
            self.spark.map(reduce.Fit(self.store, self.id), parts, poll=self.reporter.poll)
            moments = reduce.merge(self.store, self.id, parts)
            with threadpool_limits(1):  # more give other bits, and wait for each other where cores are busy
                fitted = pca.fit(moments, options.components, options.variance, options.scale)
        if options.variance is None and (options.components or 0) > fitted.length:
            self.warnings.append(
                f"pca.components is {options.components}, but {moments.count} images have only "
                f"{fitted.length} independent components"
            )
        return self.model_of(fitted, images=moments.count)

    def model_of(self, fitted: pca.Pca | pca.Unreduced, images: int) -> Model:
        portable = self.prepared.portable
        card = Card(
            run=self.id,
            backbone=self.prepared.backbone.name,
            features=self.prepared.features,
            image=self.config.image,
            images=images,
            reconstruction_error=0.0,
            reconstruction_error_p99=0.0,
            extractor=portable.digest,
            engine=portable.kind,
            unreduced=fitted.length if isinstance(fitted, pca.Unreduced) else None,
        )
        return Model(card, fitted, portable)

    def project(self, parts: int, model: Model) -> list[reduce.Projected]:
        """Write the vectors."""
        metadata = {
            "fruitpipe.run": self.id,
            "fruitpipe.model": model.card.run,
            "fruitpipe.components": str(model.pca.length),
            "fruitpipe.backbone": model.card.backbone,
        }
        formats = ("parquet", *dict.fromkeys(self.config.formats))
        evaluated = evaluation.SAMPLE // parts if self.config.evaluate else 0
        task = reduce.Project(self.store, self.id, formats, metadata, SAMPLE // parts, evaluated)
        shared = self.spark.share(model.pca)
        with self.reporter.stage("project"):
            projected = self.spark.map(lambda number: task(number, shared), parts, poll=self.reporter.poll)
        if blank := sum(part.blank for part in projected):
            images = "1 image has" if blank == 1 else f"{blank} images have"
            self.warnings.append(f"{images} a feature of zeros: {self.prepared.backbone.name} found nothing there")
        return projected

    def join(self, projected: list[reduce.Projected]) -> list[File]:
        """The files of the vectors; where one of a format is asked for, its parts are put together first."""
        if not self.config.one_file:
            return [file for part in projected for file in part.files]
        parquet, *others = zip(*(part.files for part in projected), strict=True)
        formats = zip(dict.fromkeys(self.config.formats), others, strict=True)
        whole = [reduce.join(self.store, self.id, parts, name, self.scratch / name) for name, parts in formats]
        return [*parquet, *whole]

    def evaluate(self, parts: int, fitted: pca.Pca | pca.Unreduced) -> Evaluation | None:
        """Judge the vectors by labels, where that is asked for and can be done."""
        if not self.config.evaluate:
            return None
        with self.reporter.stage("evaluate"):
            features, labels = reduce.evaluated(self.store, self.id, parts)
            if isinstance(fitted, pca.Unreduced):
                found = evaluation.evaluate(features, features[:, :0], labels)
            else:
                found = evaluation.evaluate(fitted.standardise(features), fitted.transform(features), labels)
        if found is None:
            self.warnings.append(
                f"nothing was evaluated: fewer than two labels have {evaluation.FOLDS} of the {len(labels)} images "
                "of the sample"
            )
        return found

    def write_rest(self, model: Model) -> list[File]:
        """Write the model, the failures and the config."""
        failures = self.plan.failures()
        objects: dict[str, bytes | memoryview] = {
            layout.model(self.id, name): data for name, data in model.files().items()
        }
        objects[layout.failures(self.id)] = to_parquet(failures)
        objects[layout.config(self.id)] = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False).encode()
        files = []
        for name, data in objects.items():
            self.store.put(name, data)
            rows = len(failures) if name == layout.failures(self.id) else None
            files.append(File.of(layout.within(self.id, name), data, rows))
        return files


def share(spark: Cluster, extractor: Extractor) -> Callable[[], Extractor]:
    """Send an extractor to tasks, by the name of its file where they see it: 500 MB take 4 s through the JVM."""
    return spark.share(extractor if spark.local else extractor.packed())


def to_parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())
