"""The stage that compares features of reduced precision with float32 on a sample of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config import Config
from fruitpipe.engines import EngineSpec
from fruitpipe.numeric import precision
from fruitpipe.pipeline.job import Job, share
from fruitpipe.pipeline.stage import Context
from fruitpipe.result.manifest import Record
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import SAMPLED, FeaturizeSample
from fruitpipe.vision.bad_image import OK

TITLE = "Features in bf16 against float32"


class ComparePrecisions:
    """Features of a sample in both precisions, side by side."""

    def wanted(self, config: Config) -> bool:
        return config.precision != "float32"

    def run(self, context: Context) -> Record | None:
        """None where there is nothing to compare with, or no image of the sample has features in both."""
        job = context.job
        if job.backbone.exact is None:
            return None
        sample = job.plan.sample(precision.SAMPLE, "path, etag, label")
        images = tuple(Image(path, etag) for path, etag, _ in sample)
        exact_engine = share(job.spark, job.backbone.exact)
        # In this order: workers have the run's engine from the stages before.
        rounded, good = featurize_sample(job, images, job.engine_key, job.engine)
        exact, sound = featurize_sample(job, images, f"{job.backbone.features} in float32", exact_engine)
        ok = good & sound
        if not ok.any():
            return None
        options = None if job.config.pca == "none" else job.config.pca
        labels = [label for (_, _, label), each in zip(sample, ok, strict=True) if each]
        found = precision.compare(exact[ok], rounded[ok], labels, options)
        return Record(label="bf16", title=TITLE, note=str(found), **found.model_dump())


def featurize_sample(
    job: Job, images: tuple[Image, ...], key: str, engine: Callable[[], EngineSpec]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Features of some images, shape (n, d), and which of them have one, (n,)."""
    task = FeaturizeSample(images, key, job.config.image, job.reader)
    tasks = -(-len(images) // SAMPLED)
    found = job.spark.map(lambda number: task(number, engine), tasks, poll=job.reporter.poll)
    statuses = np.array([status for part, _ in found for status in part])
    return np.concatenate([features for _, features in found]), statuses == OK
