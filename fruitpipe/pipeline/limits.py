"""What a run refuses before there is work, as it could not come to its end."""

from __future__ import annotations

from pydantic_core import to_json

from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model
from fruitpipe.result.manifest import Summary
from fruitpipe.storage import layout
from fruitpipe.units import size
from fruitpipe.workers.allowance import memory

MATRICES = 4
"""That a PCA holds at once, of as many rows and columns as features have numbers: the covariance, its eigenvectors, and
twice that in LAPACK's dsyevd."""
OF_LABELS = 0.9
"""Share of the longest manifest that labels may take."""
DEEPER = 4
"""Spaces before each label in a manifest, where it is two objects deeper than it is alone."""


def require_few_labels(summary: Summary) -> None:
    """Raise UserError where a manifest, which has all labels twice, would be longer than readers take."""
    written = 2 * (len(to_json(summary.labels, indent=2)) + DEEPER * len(summary.labels))
    if written > OF_LABELS * layout.most_bytes(layout.MANIFEST):
        raise UserError(
            f"{len(summary.labels)} labels are more than a result can tell of: set labels: none, or name fewer in a "
            "list of images."
        )


def require_memory(config: Config, backbone: ResolvedBackbone, reused: Model | None) -> None:
    """Raise UserError where the PCA would take more memory than there is, unless one that was fitted is reused."""
    dimension = backbone.facts.dimension
    needed, there = MATRICES * 8 * dimension**2, memory()
    if needed > there and reused is None and config.pca != "none":
        raise UserError(
            f"a PCA of features of {dimension} numbers takes about {size(needed)}, and there are {size(there)}: set "
            "pooling: avg, name another layer, or set pca: none."
        )
