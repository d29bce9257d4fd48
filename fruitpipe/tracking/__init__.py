"""Who is told of a run: MLflow and OpenLineage, by their own libraries."""

from fruitpipe.tracking.audience import Audience

__all__ = ["Audience"]
