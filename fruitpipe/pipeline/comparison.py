"""Features of a precision against those in float32, on a sample of images: a bound, and a further stage."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config import Config
from fruitpipe.engines import EngineSpec
from fruitpipe.errors import UserError
from fruitpipe.numeric import precision
from fruitpipe.pipeline.job import Job, share
from fruitpipe.pipeline.stage import Context
from fruitpipe.result.manifest import Record
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import SAMPLED, FeaturizeSample
from fruitpipe.vision.bad_image import OK


class ComparePrecisions:
    """Features of a sample in both precisions, side by side."""

    def wanted(self, config: Config) -> bool:
        return config.precision != "float32"

    def run(self, context: Context) -> Record | None:
        """None where there is nothing to compare with, or no image of the sample has features in both."""
        job, name = context.job, context.job.config.precision
        found = job.compared or compare(job)
        if found is None:
            return None
        facts = found.model_dump()
        facts[name] = facts.pop("rounded")
        return Record(label=name, title=f"Features in {name} against float32", note=str(found), **facts)


def require_bound(job: Job) -> None:
    """Raise UserError where the precision changes features of some images by more than the config allows."""
    bound = job.config.least_cosine
    if bound is None:
        return
    with job.reporter.stage("compare"):
        job.compared = compare(job)
    if job.compared and job.compared.worst_cosine < bound:
        lowest = f"{job.compared.worst_cosine:.3f}"
        raise UserError(
            f"precision: {job.config.precision} changes features of these images too much: their cosine to those in "
            f"float32 is {lowest} at worst of {job.compared.images}, below min_cosine ({bound:g}). Leave precision "
            "out, or, if that is good enough, set min_cosine lower, too."
        )


def compare(job: Job) -> precision.Comparison | None:
    """None where there is nothing to compare with, or no image of the sample has features in both."""
    if job.backbone.exact is None:
        return None
    sample = job.plan.sample(precision.SAMPLE, "path, etag, label")
    images = tuple(Image(path, etag) for path, etag, _ in sample)
    exact_engine = share(job.runner, job.backbone.exact, job.store, job.id)
    # In this order: after other stages, workers have the run's engine already.
    rounded, good = featurize_sample(job, images, job.engine_key, job.engine)
    exact, sound = featurize_sample(job, images, f"{job.backbone.features} in float32", exact_engine)
    ok = good & sound
    if not ok.any():
        return None
    options = None if job.config.pca == "none" else job.config.pca
    labels = [label for (_, _, label), each in zip(sample, ok, strict=True) if each]
    return precision.compare(exact[ok], rounded[ok], labels, options)


def featurize_sample(
    job: Job, images: tuple[Image, ...], key: str, engine: Callable[[], EngineSpec]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Features of some images, shape (n, d), and which of them have one, (n,)."""
    task = FeaturizeSample(images, key, job.config.image, job.reader)
    tasks = math.ceil(len(images) / SAMPLED)
    found = job.runner.map(lambda number: task(number, engine), tasks, poll=job.reporter.poll)
    statuses = np.array([status for part, _ in found for status in part])
    return np.concatenate([features for _, features in found]), statuses == OK
