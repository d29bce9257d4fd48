"""The stages that every run has: featurize, count, fit, project, and what is made and committed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

import yaml

from fruitpipe.engines.package import TEXT
from fruitpipe.errors import FruitpipeError, TooManyFailures
from fruitpipe.model.model import Card, Model
from fruitpipe.numeric import pca
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.pipeline.heritage import Heritage, heritage_of
from fruitpipe.pipeline.job import Job
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.result.manifest import Counts
from fruitpipe.source import require_places
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.tasks import reduce
from fruitpipe.tasks.feature_part import have_thumbnails, largest_feature_part
from fruitpipe.tasks.featurize import Done, Featurize, Wanted
from fruitpipe.tasks.taking_over import TakeOver
from fruitpipe.vision.bad_image import OK

SAMPLE = 2000
"""Images in the report's picture."""


def featurize(jobs: Sequence[Job], reporter: Reporter) -> int:
    """Compute the features that are missing, each image once for all; afterwards the plans know them.

    Returns how many images there were.

    jobs: open beside one another; of the same limits of images.
    """
    first, *others = jobs
    todo = first.shares(layout.TODO)
    plans = (job.plan for job in others)
    sizes = first.plan.write_todo(todo, first.runner.slots, *plans)
    if not sizes:
        return 0
    for job in jobs:
        if said := job.idle_gpus:
            job.reporter.note(said)
            job.warnings.append(said)
    task = Featurize(todo, tuple(wanted_by(job) for job in jobs), first.reader, largest_feature_part(sum(sizes)))
    engines = [job.engine for job in jobs]

    def watch(parts: list[Done]) -> None:
        for done in parts:
            reporter.advance(done.statuses, done.statuses.total() - done.statuses[OK], done.bytes)

    with reporter.stage("featurize", sum(sizes)):
        done = first.runner.map(lambda number: task(number, engines), len(sizes), watch, reporter.poll)
    for number, job in enumerate(jobs):
        if parts := [each.parts[number] for each in chain.from_iterable(done) if number in each.parts]:
            job.plan.add_parts(job.store, parts)
    return sum(sizes)


def wanted_by(job: Job) -> Wanted:
    """The features that a result is to have."""
    return Wanted(job.store, job.backbone.features, job.engine_key, job.config.image, job.config.thumbnails)


def look_for_thumbnails(job: Job) -> None:
    """Warn of images that have none, though they are wanted: their features were known already."""
    side = job.config.thumbnails
    if side is None:
        return
    parts = job.plan.known.feature_parts()
    if missing := job.plan.known.count_in(sorted({*parts} - {*have_thumbnails(job.store, parts, side)})):
        images = "1 image has" if missing == 1 else f"{missing} images have"
        job.warnings.append(f"{images} no thumbnails, as features are not made again for them")


ADVICE = {
    "rejected": "fix the backbone",
    "missing": "correct their paths or names",
    "forbidden": "get the rights to read them",
    "unreadable": "run again",
    "changed": "run again",
    "too_large": "raise the limit that it names",
    "too_slow": "raise image.max_seconds, and set failures.retry to all",
}
"""By the commonest status of the images that failed."""


def count(job: Job) -> Counts:
    """Count by status and label.

    Raises TooManyFailures, or UserError where nothing could be read from a bucket, leaving `failures.parquet` behind.
    """
    plan, limit = job.plan, job.config.failures.max_rate
    by_status = plan.count_by("status")
    ok = by_status.get(OK, 0)
    counts = Counts(
        images=plan.images,
        ok=ok,
        failed=plan.images - ok,
        by_status=by_status,
        by_label=plan.count_by("label", f"status = '{OK}'"),
    )
    job.warnings += [f"{name} could not be read and was computed again" for name in plan.known.broken]
    if counts.are_within(limit):
        return counts
    failures = job.store.location(layout.run(job.id, write_failures(job).name))
    require_places(by_status, plan.first_failed(), job.reader)
    reasons = ", ".join(f"{n} {status}" for status, n in by_status.items() if status != OK)
    beyond = f"more than failures.max_rate ({limit:g})" if ok else "all of them"
    commonest = max((n, status) for status, n in by_status.items() if status != OK)[1]
    advice = f"{ADVICE.get(commonest, 'fix the images')}{' or raise failures.max_rate' if ok else ''}"
    raise TooManyFailures(
        f"{counts.failed} of {counts.images} images failed ({reasons}), {beyond}: nothing was published. Features "
        f"are kept. Most common error: {plan.commonest_error(commonest)}. See {failures}, then {advice}."
    )


def fit(job: Job) -> tuple[pca.Pca | pca.Unreduced, int]:
    """Scaler and PCA of the features, where there is to be one, and the number of images that they were fitted on."""
    options = job.config.pca
    if options == "none":
        return pca.Unreduced(job.backbone.facts.dimension), 0
    with job.reporter.stage("fit"):
        each = partial(job.runner.map, poll=job.reporter.poll)
        moments = reduce.fit_moments(job.store, job.id, job.parts, each)
        with one_thread():
            fitted = pca.fit(moments, options.components, options.variance, options.scale)
    if options.variance is None and (options.components or 0) > fitted.length:
        job.warnings.append(
            f"pca.components is {options.components}, but {moments.count} images have only {fitted.length} "
            "independent components"
        )
    return fitted, moments.count


def project(job: Job, fitted: pca.Pca | pca.Unreduced) -> list[reduce.Projected]:
    """Write the vectors; those of an earlier run are taken over where it has them already."""
    metadata = {
        "fruitpipe.run": job.id,
        "fruitpipe.model": job.reused.card.run if job.reused else job.id,
        "fruitpipe.components": str(fitted.length),
        "fruitpipe.backbone": job.backbone.facts.name,
    }
    shared = job.runner.share(fitted)
    with job.reporter.stage("project"):
        heritage = heritage_of(job, job.reused) if job.reused else None
        if heritage:
            projected = project_further(job, heritage, metadata, shared)
        else:
            task = reduce.Project(job.store, job.id, job.sinks, metadata, max(SAMPLE // job.parts, 1))
            projected = job.runner.map(lambda number: task(number, shared), job.parts, poll=job.reporter.poll)
    if blank := sum(part.blank for part in projected):
        images = "1 image has" if blank == 1 else f"{blank} images have"
        job.warnings.append(f"{images} a feature of zeros: {job.backbone.facts.name} found nothing there")
    return projected


def project_further(
    job: Job, heritage: Heritage, metadata: dict[str, str], shared: Callable[[], pca.Pca | pca.Unreduced]
) -> list[reduce.Projected]:
    """Take parts over, and project the images that are in none of them."""
    kept, files = len(heritage.files), heritage.files
    sizes = heritage.write_further(job.shares(layout.FURTHER))
    parts = kept + len(sizes)
    sample = max(SAMPLE // parts, 1)
    assert job.reused, "only its vectors are taken over"
    take = TakeOver(job.store, job.id, heritage.run, files, job.reused.pca.length, job.sinks, metadata, sample)
    numbers = tuple(range(kept, parts))
    further = reduce.Project(job.store, job.id, job.sinks, metadata, sample, layout.FURTHER, numbers)

    def each(number: int) -> reduce.Projected | None:
        return take(number) if number < kept else further(number - kept, shared)

    found = job.runner.map(each, parts, poll=job.reporter.poll)
    if damaged := tuple(number for number, part in enumerate(found) if part is None):
        job.warnings += [f"{job.store.location(layout.run(heritage.run, files[number].name))} is damaged, and was not "
                         "taken over" for number in damaged]  # fmt: skip
        heritage.write_again(job.shares(layout.AGAIN), damaged)
        again = replace(further, index=layout.AGAIN, numbers=damaged)
        made = job.runner.map(lambda number: again(number, shared), len(damaged), poll=job.reporter.poll)
        for number, part in zip(damaged, made, strict=True):
            found[number] = part
    return [part for part in found if part]


def report_sample(projected: Sequence[reduce.Projected]) -> list[tuple[str, str, float, float]]:
    """The images in the report's picture, SAMPLE at most, also where there are more parts."""
    rows = [row for part in projected for row in part.sample]
    return [rows[number] for number in reduce.spread(len(rows), SAMPLE).tolist()]


def make_model(job: Job, fitted: pca.Pca | pca.Unreduced, images: int, errors: Distribution) -> Model:
    """The model of this run.

    images: that it was fitted on.
    errors: reconstruction errors of this run's images.
    """
    portable, text = job.backbone.portable, job.backbone.text
    card = Card(
        run=job.id,
        backbone=job.backbone.facts.name,
        features=job.backbone.features,
        image=job.config.image,
        images=images,
        reconstruction_error=errors.mean,
        reconstruction_error_p99=errors.quantile(0.99),
        extractor=portable.digest,
        engine=portable.kind,
        text=File.at(TEXT, text).sha256 if text else None,
        unreduced=fitted.length if isinstance(fitted, pca.Unreduced) else None,
    )
    return Model(card, fitted, portable, text=text.read_bytes if text else None)


def commit(job: Job, projected: list[reduce.Projected]) -> list[File]:
    """Commit all sinks; return the files that they made. Raises FruitpipeError where one has a name of another form."""
    files = []
    for number, sink in enumerate(job.sinks):
        scratch = job.scratch / f"sink-{number}"
        scratch.mkdir()
        made = sink.commit([part.files[number] for part in projected], scratch)
        for file in made:
            if not layout.is_run_file(file.name):
                raise FruitpipeError(f"{type(sink).__name__} made {file.name!r}: layout.sink gives no such name.")
        files += made
    return files


def write_rest(job: Job, model: Model) -> list[File]:
    """Write the model, the failures and the config."""
    objects: dict[str, bytes | memoryview] = {layout.model(job.id, name): data for name, data in model.files().items()}
    objects[layout.config(job.id)] = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False).encode()

    def write(name: str) -> File:
        job.store.put(name, objects[name])
        return File.of(layout.within(job.id, name), objects[name])

    with ThreadPoolExecutor(len(objects)) as pool:  # where one fails, nobody writes any more after this
        files = pool.map(write, objects)
        return [write_failures(job), *files]


def write_failures(job: Job) -> File:
    """Write the images that have no feature; they may be millions."""
    scratch, name = job.scratch / "failures.parquet", layout.failures(job.id)
    file = File.at(layout.within(job.id, name), scratch, job.plan.write_failures(scratch))
    job.store.upload(scratch, name)
    return file
