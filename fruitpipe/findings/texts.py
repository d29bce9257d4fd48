"""What texts say of a run's images, through the text tower of its model: which are like them, which label fits best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.errors import UserError
from fruitpipe.findings.similar import Described, matches_of
from fruitpipe.numeric import curation
from fruitpipe.numeric.neighbours import NOWHERE, Metric, shown
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.result.runs import Run


def find_described(run: Run, texts: Sequence[str], k: int, metric: Metric) -> list[Described]:
    """The k images of a run that are most like each of some texts, by comparison with all of them.

    Distances are those of text and image in the space of the features, of length 1, as far as the reduced vectors tell
    them: see `fruitpipe.numeric.pca.Pca.products`.

    Raises UserError where the run's model has no text tower, FruitpipeError where the run is damaged.
    """
    vectors, cosines = run.vector_parts, run.model.cosines(texts)
    distances = np.full((len(texts), k), np.inf, np.float32)
    positions = np.full((len(texts), k), NOWHERE, np.int64)
    for part in range(len(vectors.files)):
        with one_thread():
            squares = np.maximum(2 - 2 * cosines.of(vectors.vectors(part)).T, 0)
        further = np.broadcast_to(vectors.positions(part), squares.shape)
        distance = np.concatenate([distances, shown(squares, metric)], axis=1)
        position = np.concatenate([positions, further], axis=1)
        order = np.lexsort((position, distance))[:, :k]
        distances, positions = (np.take_along_axis(each, order, axis=1) for each in (distance, position))
    images = vectors.rows_at(positions[positions != NOWHERE], ["path", "label"])
    found = matches_of(images, positions, distances)
    return [Described(text, matches) for text, matches in zip(texts, found, strict=True)]


@dataclass(frozen=True)
class ZeroShot:
    """The label that fits each image best, of some that nobody has learnt."""

    labels: tuple[str, ...]
    """to choose from"""
    chosen: pa.Array
    """(n,), of these"""
    confidence: NDArray[np.float32]
    """(n,): the softmax of the scaled cosines where the network has a scale, else by how much the cosine is larger than
    the next"""
    agrees: pa.Array
    """(n,): whether an image's own label is the chosen one, whatever their capitals; null where it is none of these"""

    @property
    def checked(self) -> int:
        """Images whose own label is one of these."""
        return len(self.agrees) - int(self.agrees.null_count)

    @property
    def disagrees(self) -> NDArray[np.bool_]:
        """(n,): of those, the ones that another label fits better."""
        return ~np.asarray(self.agrees.fill_null(True))


def zero_shot(run: Run, labels: Sequence[str], own: pa.Array) -> ZeroShot:
    """Choose a label for each image of a run.

    own: labels of the images, in the order of the run's vectors.

    Raises UserError where labels are no choice, or the run's model has no text tower; FruitpipeError where the run is
    damaged.
    """
    numbers = {label.casefold(): number for number, label in enumerate(labels)}
    if len(labels) < 2 or len(numbers) < len(labels) or "" in numbers:
        raise UserError(f"labels: {','.join(labels)} is no choice: give two or more, each once, as in apple,banana.")
    model, vectors = run.model, run.vector_parts
    cosines = model.cosines(model.encoder.prompts(labels))
    with one_thread():
        parts = [cosines.of(vectors.vectors(part)) for part in range(len(vectors.files))]
    best, confidence = curation.best_of(np.concatenate(parts), model.encoder.told.logit_scale)
    encoded = own.dictionary_encode()
    meant = np.array([numbers.get(label.casefold(), -1) for label in encoded.dictionary.to_pylist()] + [-1])
    codes = meant[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    agrees = pa.array(codes == best, mask=codes < 0)
    return ZeroShot(tuple(labels), pa.array(labels).take(pa.array(best)), confidence.astype(np.float32), agrees)
