"""What the PCA loses of each image, for the page of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fruitpipe.explore.facts import FAR, Facts, Measure, levels
from fruitpipe.findings.curation import in_medians
from fruitpipe.findings.reconstruction import reconstruction_errors
from fruitpipe.result.runs import Run

MOST = 1 << 28
"""Numbers of all vectors together, which are held for it: 1 GiB."""


def measure_loss(facts: Facts, run: Run) -> Facts:
    """The same facts, with reconstruction errors, where the features of all images are still there.

    Raises FruitpipeError where a part is missing or damaged.
    """
    vectors = run.vector_parts
    if len(vectors) * run.manifest.model.components > MOST:
        return facts
    errors = in_medians(*reconstruction_errors(run, vectors))
    if not np.isfinite(errors).all():
        return facts
    measure = Measure("reconstruction error", levels(errors, FAR), FAR, "times the usual")
    return replace(facts, measures=[*facts.measures, measure])
