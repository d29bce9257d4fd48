"""The protocol of further stages, which run once there are vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config import Config
from fruitpipe.model.model import Model
from fruitpipe.pipeline.job import Job
from fruitpipe.plugins import Registry
from fruitpipe.result.manifest import Record
from fruitpipe.storage.file import File
from fruitpipe.tasks import reduce


@dataclass(frozen=True)
class Context:
    """What a stage gets: the run, its model, and access to features."""

    job: Job
    model: Model
    vectors: list[File]
    """the parts of vectors, as the manifest will have them"""

    def sample(self, most: int) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """Features, shape (n, d), and labels, (n,), of at most `most` images, evenly spaced. most: 1 or more."""
        job = self.job
        parts = reduce.spread(job.parts, most).tolist()
        task = reduce.Sample(job.store, job.id, most // len(parts))
        found = job.runner.map(lambda number: task(parts[number]), len(parts), poll=job.reporter.poll)
        features, labels = zip(*found, strict=True)
        return np.concatenate(features), np.array([label for part in labels for label in part], np.str_)


class Stage(Protocol):
    """A further stage. Made without arguments, on the driver.

    Others than these are found by entry points of the group `fruitpipe.stages`, whose names are those of the records.
    """

    def wanted(self, config: Config) -> bool:
        """Whether a run of this config has this stage."""

    def run(self, context: Context) -> Record | None:
        """Do the work; return None where there is nothing to report.

        Whatever it raises becomes a note of the run, which goes on: it has its vectors.
        """


STAGES: Registry[type[Stage]] = Registry(
    "fruitpipe.stages",
    {
        "comparison": "fruitpipe.pipeline.comparison:ComparePrecisions",
        "evaluation": "fruitpipe.pipeline.evaluation:EvaluateVectors",
        "neighbours": "fruitpipe.pipeline.neighbours:FindNeighbours",
    },
)
