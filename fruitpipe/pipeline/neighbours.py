"""The neighbours of a run's images: as a further stage of it, and of one that is published."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fruitpipe import streams
from fruitpipe.config import Config, Environment, SparkConfig
from fruitpipe.errors import Interrupted
from fruitpipe.numeric.neighbours import Metric
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.pipeline.stage import Context
from fruitpipe.result.manifest import Record
from fruitpipe.result.runs import open_run
from fruitpipe.scratch import leave_deleted_folder, private_folder
from fruitpipe.spark.choice import runner
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import Store
from fruitpipe.tasks.vector_part import Vectors
from fruitpipe.tasks.warm_up import WarmUp
from fruitpipe.vision.bad_image import OK

if TYPE_CHECKING:  # images would wait for all of it, in runs that want no neighbours, too
    from fruitpipe.findings.neighbours import Neighbours


class FindNeighbours:
    """The nearest images of each image."""

    def wanted(self, config: Config) -> bool:
        return config.neighbours is not None

    def run(self, context: Context) -> Record | None:
        from fruitpipe.findings import neighbours

        job, wanted = context.job, context.job.config.neighbours
        assert wanted is not None, "it is not run where it is not wanted"
        vectors = Vectors.among(job.store, job.id, context.vectors, context.model.pca.length)
        fitted_by = context.model.card.run
        found = neighbours.seek(job.runner, vectors, fitted_by, wanted.k, wanted.metric, poll=job.reporter.poll)
        facts = found.model_dump(mode="json", exclude={"parts", "run"})
        return Record(label="neighbours", title="Neighbours", note=note(found), **facts)


def note(found: Neighbours) -> str:
    taken = f"; {found.taken} lists of run {found.earlier} were taken over" if found.taken else ""
    k = min(found.k, found.images - 1)
    return f"the {k} nearest of each of {found.images} images by {found.metric}{taken}"


def find(
    store: Store, run_id: str, k: int, metric: Metric, config: SparkConfig, reporter: Reporter
) -> tuple[Neighbours, bool]:
    """Neighbours in a published run, and whether they were there already. Work that was begun is continued.

    Raises UserError where there is no such run or somebody is writing, Interrupted by Ctrl-C or SIGTERM, and
    FruitpipeError where Spark or a task fails.
    """
    from fruitpipe.findings import neighbours

    manifest = open_run(store, run_id).manifest
    if found := neighbours.find_neighbours(store, manifest, metric, k):
        return found, True
    streams.fill()
    leave_deleted_folder()
    environment = Environment.read()
    vectors = Vectors.among(store, manifest.run, manifest.files, manifest.model.components)

    def watch(images: int) -> None:
        reporter.advance(Counter({OK: images}), 0, 0)

    try:
        with (
            Lease(store, "fruitpipe neighbours", reporter.note) as lease,
            private_folder() as scratch,
            runner(config, environment, scratch, verbose=False, first=WarmUp(store, ())) as spark,
            reporter.stage("neighbours", len(vectors)),
        ):
            fitted_by = manifest.model.fitted_by
            found = neighbours.seek(spark, vectors, fitted_by, k, metric, watch, reporter.poll, lease.require_held)
    except KeyboardInterrupt:
        raise Interrupted("stopped. Finished parts are kept: the same command continues from them.") from None
    return found, False
