"""The stage that measures the cost of the reduction by labels."""

from __future__ import annotations

from fruitpipe.config import Config
from fruitpipe.numeric import evaluation
from fruitpipe.numeric.evaluation import Accuracy, Evaluation
from fruitpipe.numeric.pca import Unreduced
from fruitpipe.pipeline.stage import Context
from fruitpipe.result.manifest import Record

TITLE = "Share of labels found, by number of components"


class EvaluateVectors:
    """Accuracies by labels with all features and with fewer and fewer components, on a sample."""

    def wanted(self, config: Config) -> bool:
        return config.evaluate

    def run(self, context: Context) -> Record | None:
        """None, with a warning, where the sample has too few images of each label."""
        fitted = context.model.pca
        features, labels = context.sample(evaluation.SAMPLE)
        if isinstance(fitted, Unreduced):
            found = evaluation.evaluate(features, features[:, :0], labels)
        else:
            found = evaluation.evaluate(fitted.standardise(features), fitted.transform(features), labels)
        if found is None:
            context.job.warnings.append(
                f"nothing was evaluated: fewer than two labels have {evaluation.FOLDS} of the {len(labels)} images "
                "of the sample"
            )
            return None
        return Record(
            label="accuracy",
            title=TITLE,
            note=note(found),
            columns=["components", "nearest neighbour", "logistic regression"],
            rows=[
                *(row(f"k = {each.dimension}", each) for each in found.reduced),
                row("features", found.full),
            ],
            **found.model_dump(),
        )


def row(name: str, accuracy: Accuracy) -> list[str]:
    return [name, f"{accuracy.nearest:.1%}", f"{accuracy.logistic:.1%}"]


def note(found: Evaluation) -> str:
    left_out = f", {found.left_out} rarer labels left out" if found.left_out else ""
    return (
        f"nearest neighbour, logistic regression; {found.images} images of {found.labels} labels{left_out}; "
        f"{found.chance:.1%} by naming the most frequent"
    )
