"""The main job, from a folder of images to published vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import reduce
from operator import add
from shlex import quote
from typing import Any, NamedTuple

import duckdb

from fruitpipe import source
from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.catalogs import check_tables, register
from fruitpipe.config import Config, Environment
from fruitpipe.errors import FruitpipeError, Interrupted, UserError, first_line, in_words
from fruitpipe.model.model import Model
from fruitpipe.pipeline import stages
from fruitpipe.pipeline.comparison import require_bound
from fruitpipe.pipeline.gathering import gather
from fruitpipe.pipeline.job import Job
from fruitpipe.pipeline.limits import require_few_labels, require_memory
from fruitpipe.pipeline.precedent import config_digest, precedents, same_as
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.pipeline.reuse import drift_of, model_to_reuse, require_match
from fruitpipe.pipeline.stage import STAGES, Context, Stage
from fruitpipe.redaction import values_without_secrets
from fruitpipe.result.manifest import BackboneFacts, Manifest, ModelFacts, Record, Summary, versions
from fruitpipe.result.runs import (
    Run,
    check_outside_results,
    check_place,
    latest_run,
    point_latest,
    put_lists,
    unchanged_runs,
)
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import Store, open_store

KEPT = "Computed features are kept."


def run(config: Config, reporter: Reporter | None = None, verbose: bool = False) -> Run:
    """Turn the images of `config.input` into published vectors in `config.output`.

    Features that exist are not computed again, so a run after a crash goes on where that one stood. Where a published
    run is of the same images and config, there is nothing to do, and that one is returned; an older one becomes the
    latest again.

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
    FruitpipeError: Spark, the disk or something unforeseen ended the run; says why.
    """
    if config.backbones:
        raise UserError("this config has several backbones: fruitpipe.run_several runs them.")
    job = job_of(config, reporter or Reporter())
    further = wanted_stages(config)
    with begun(job) as lease:
        with told(job), job.open(verbose):
            done = work(job, further, lease)
        finish(job, done)
        return done


def job_of(config: Config, reporter: Reporter) -> Job:
    """A run that has not begun. Raises UserError for a typo in any place before anything is made there."""
    return Job(config, open_places(config), reporter)


@contextmanager
def begun(job: Job) -> Iterator[Lease]:
    """A run with its place, which nobody else writes to. Raises UserError where there is none for it."""
    store = job.store
    store.create()
    check_place(store)
    # In a pod, nobody is there to run it again when the other one has ended.
    with Lease(store, f"run {job.id}", job.reporter.note, patient=Environment.read().in_pod) as lease:
        store.swap(layout.MARKER, None, json.dumps({"layout": layout.VERSION}).encode())
        if not store.swaps(layout.scratch()):
            job.warnings.append(
                f"{store.url} has no conditional writes: two runs that begin in one moment do not notice each other"
            )
        job.audience.began(job.begun)
        yield lease


@contextmanager
def told(job: Job) -> Iterator[None]:
    """What a run does; whatever ends it is told as a FruitpipeError, and kept in its result."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        job.give_up("interrupted", "interrupted")
        raise Interrupted("stopped. Finished parts are kept: the same command continues from them.") from None
    except FruitpipeError as error:
        job.give_up("failed", str(error))
        raise
    except Exception as error:
        failure = failure_of(error)
        job.give_up("failed", str(failure))
        raise failure from error


def finish(job: Job, done: Run) -> None:
    """Tell those who want to know of a run that has ended well, and clear away what only its tasks needed."""
    try:
        job.audience.published(job.begun, done)
        register(job.config.publish, done)
    finally:
        clear_work(job)


def clear_work(job: Job) -> None:
    try:
        job.store.delete_all([name for name, _ in job.store.names(layout.work(job.id))])
    except Exception as error:  # noqa: BLE001 - whatever is the matter, the run is published
        job.reporter.note(f"could not clear away {layout.work(job.id)}, which `gc` does: {in_words(error)}")


def open_places(config: Config) -> Store:
    """The store of the output. Raises UserError for a typo in any place before anything is made there."""
    source.check_inputs(config.inputs, config.s3)
    source.check_apart(config.inputs, config.output)
    check_outside_results(config.output, config.s3)
    store = open_store(config.output, config.s3)
    check_tables(config.publish, store)
    return store


def work(job: Job, further: Mapping[str, Stage | None], lease: Lease) -> Run:
    """All stages in their order; the run, once it is published, or the one whose result it would only give again.

    Spark, which takes executors on a cluster, starts as soon as it is sure that there is something to do.
    """
    earlier = precedents(job.store, job.config)
    if not earlier:
        job.start()
    images_digest = listed(job, job.reporter)
    ahead = look_ahead(job, lease, images_digest, earlier)
    if isinstance(ahead, Run):
        return ahead
    with job.reporter.stage("start"):
        job.runner  # noqa: B018 - waits for it
    require_bound(job)
    stages.featurize([job], job.reporter)
    return carry_out(job, further, lease, ahead)


def listed(job: Job, reporter: Reporter) -> str:
    """List the images; their digest."""
    with reporter.stage("list"):
        job.plan.list_images(job.config)
        return job.plan.digest()


class Ahead(NamedTuple):
    """What is known before there is work."""

    images_digest: str
    summary: Summary


def look_ahead(job: Job, lease: Lease, images_digest: str, earlier: list[Manifest]) -> Ahead | Run:
    """What there is to do with the images that are listed, or the run whose result it would only give again.

    earlier: published runs of the same config.
    """
    earlier = [each for each in earlier if each.images_digest == images_digest]
    if not earlier:
        job.start()
    job.reused = model_to_reuse(job.config, job.store)
    job.wait_for_backbone()
    job.learn()
    with job.reporter.stage("plan"):
        require_match(job.config, job.reused, job.backbone)
        job.plan.add_features(job.store, job.backbone.features, job.backbone.twin)
        summary = job.plan.summary()
        if summary.passed_over:
            job.warnings.append(source.passed_over(summary.passed_over))
    if not summary.todo and (same := same_as(job.store, job.backbone, job.reused, earlier)):
        return instead(job, lease, same)
    require_few_labels(summary)
    require_memory(job.config, job.backbone, job.reused)
    return Ahead(images_digest, summary)


def carry_out(job: Job, further: Mapping[str, Stage | None], lease: Lease, ahead: Ahead) -> Run:
    """From features, which are there, to the published run."""
    job.warnings += filter(None, [job.runner.note])
    stages.look_for_thumbnails(job)
    counts = stages.count(job)
    pca, images = (job.reused.pca, 0) if job.reused else stages.fit(job)
    projected = stages.project(job, pca)
    errors = reduce(add, (part.errors for part in projected))
    model = job.reused or stages.make_model(job, pca, images, errors)
    vectors = [part.files[0] for part in projected]  # Parquet is the first sink
    records = records_of(further, Context(job, model, vectors))
    with job.reporter.stage("publish"):
        manifest = Manifest(
            layout=layout.VERSION,
            run=job.id,
            started=job.started,
            finished=datetime.now(UTC),
            config=job.config,
            config_digest=config_digest(job.config),
            backbone=backbone_facts(job.backbone),
            features_digest=job.backbone.features,
            images_digest=ahead.images_digest,
            revision=Environment.read().deployed,
            counts=counts,
            plan=ahead.summary,
            model=model_facts(model),
            drift=drift_of(model, errors) if job.reused else None,
            files=[*stages.commit(job, projected), *stages.write_rest(job, model)],
            feature_parts=[*job.plan.known.feature_parts(), *job.backbone.objects],
            timings={name: round(seconds, 3) for name, seconds in job.reporter.timings.items()},
            worker_memory=job.runner.worker_memory,
            versions=versions(),
            **notes(job),
            **records,
        )
    if job.config.explore:
        with going_on(job, "explore", f"`fruitpipe explore {quote(job.store.url)} {job.id}` makes the page"):
            from fruitpipe.explore.page import page_of  # a tenth of all imports, which images would wait for

            job.store.put(layout.explore(job.id), page_of(Run(job.store, manifest)))
        manifest = manifest.model_copy(update=notes(job))
    from fruitpipe.result.report import render  # with its templates, which need not be there at the start

    job.store.put(layout.report(job.id), render(manifest, stages.report_sample(projected)).encode())
    job.keep_log()
    document = put_lists(job.store, manifest)
    lease.require_held()
    job.published = True
    job.store.put(layout.manifest(job.id), document)
    lease.require_held()  # or this is not the latest
    point_latest(job.store, job.id)
    gather_facts(job, lease)
    return Run(job.store, manifest)


def gather_facts(job: Job, lease: Lease) -> None:
    """Have later plans read less; a failure is noted, as all else is done."""
    if job.config.verify_content:  # whose plans read parts themselves
        return
    try:
        gather(job.plan.known, job.store, job.backbone.features, job.scratch, lease)
    except Exception as error:  # noqa: BLE001 - whatever is the matter, the run is published
        said = in_words(error)
        job.reporter.note(f"could not gather facts of features for the next plan, which will take longer: {said}")


def instead(job: Job, lease: Lease, same: Manifest) -> Run:
    """The run whose result this one would only give again: the latest, if need be again, and say so."""
    if latest_run(job.store) == same.run:
        reason = f"nothing to do: run {same.run} already covers these images with this config"
    else:
        lease.require_held()
        point_latest(job.store, same.run)
        reason = f"run {same.run}, which already covers these images with this config, is published again"
    gather_facts(job, lease)
    before = unchanged_runs(job.store)
    job.leave("unchanged", reason)
    job.store.delete_all(map(layout.outcome, before))  # a schedule of every minute would fill the list
    return Run(job.store, same, reason)


def wanted_stages(config: Config) -> dict[str, Stage | None]:
    """Further stages by name; None for those that the config does not want.

    Raises UserError where one that another package brings cannot be used.
    """
    found: dict[str, Stage | None] = {}
    for name in STAGES.names():
        if name in Manifest.model_fields:
            raise UserError(f"a stage may not be called {name}, which is a key of every manifest: rename it.")
        stage = STAGES.get(name)()
        found[name] = stage if stage.wanted(config) else None
    return found


def records_of(further: Mapping[str, Stage | None], context: Context) -> dict[str, Record | None]:
    """What each further stage has found, by its name; None for those that are not wanted. It may say anything."""
    records: dict[str, Record | None] = {}
    for name, stage in further.items():
        records[name] = None
        if stage:
            with going_on(context.job, name, "the same command tries it again"):
                found = stage.run(context)
                records[name] = found and Record.model_validate(values_without_secrets(found.model_dump(mode="json")))
    return records


@contextmanager
def going_on(job: Job, stage: str, advice: str) -> Iterator[None]:
    """A further stage, whose failure is noted: there are vectors, which need it no more."""
    with job.reporter.stage(stage):
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever is the matter, it is not the vectors
            said = in_words(error)
            further = "" if isinstance(error, UserError) else f"; {advice}"  # which says itself what to do
            job.unfinished.append(stage)
            job.warnings.append(f"{stage} failed, but the vectors are whole{further}. The cause: {said.rstrip('.')}")


def notes(job: Job) -> dict[str, Any]:
    """What the run has to tell by now, as keys of a manifest."""
    return {"warnings": values_without_secrets(job.warnings), "unfinished": list(job.unfinished)}


def backbone_facts(backbone: ResolvedBackbone) -> BackboneFacts:
    facts = backbone.facts.model_dump(exclude={"weights"})
    return BackboneFacts(**facts, digest=backbone.facts.digest, engine=backbone.engine.kind)


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


def failure_of(error: Exception) -> FruitpipeError:
    """Another package's error that ended a run."""
    if isinstance(error, duckdb.Error):
        said = f"the plan's database failed: {first_line(error).rstrip('.')}."
    else:
        said = in_words(error)
    return FruitpipeError(f"{said} {KEPT}")
