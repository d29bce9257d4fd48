"""Bags of visual words, which are learnt from a bounded sample of a run's images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import WORKER, Learning, Listed, Sample
from fruitpipe.config import Config, Environment, WordsConfig
from fruitpipe.errors import NotLearnt, UserError
from fruitpipe.numeric.one_thread import one_thread

if TYPE_CHECKING:  # OpenCV is for those who ask for words
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines import EngineSpec
    from fruitpipe.engines.visual_words import Detector, Vocabulary

DESCRIPTORS, PER_WORD, MOST = 20_000, 50, 100_000
"""that are clustered; for large vocabularies as many for each word; never more: 102 MB of ORB's bits"""
ROUNDS = 10
BATCH = 1024
"""Descriptors whose distances to all words are in memory at once."""
SEED = 0


class VisualWords:
    """Detectors, each with a vocabulary of its own."""

    names = ("orb", "sift")
    pattern: ClassVar[None] = None
    keys = frozenset({"words"})
    # Detectors make images grey themselves, but only after all three channels were resized. What decoding at a smaller
    # scale means to their corners has not been measured.
    defaults: ClassVar[Mapping[str, Any]] = {"image": {"grey": True, "decode": "exact"}}
    learns = True

    def listed(self, name: str, environment: Environment) -> Listed:
        words = WordsConfig()
        return Listed(name, words.size, words.side, None, None)

    def worker_memory(self, config: Config) -> int:
        return WORKER

    def resolve(self, config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
        """The words of the model to reuse, of an earlier run on the same images, or words that are learnt now.

        Raises UserError where too few descriptors are found, or the model's words are none.
        """
        from fruitpipe.engines import EngineSpec

        if learning is None:
            raise NotLearnt(f"{config.backbone} needs none, {config.words.size} words are learnt from images")
        if learning.reused and learning.reused.kind == "words":
            try:
                return counting(config, learning.reused)
            except ValueError as error:
                raise UserError(f"the words of the model to reuse are damaged: {error}. Take another.") from error
        name, data = find_or_learn(config, learning)
        return counting(config, EngineSpec("words", data), (name,))


def counting(config: Config, engine: EngineSpec, objects: tuple[str, ...] = ()) -> ResolvedBackbone:
    """A bag of the words of a vocabulary. Raises ValueError where the artefact is none."""
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines.visual_words import Vocabulary

    vocabulary = Vocabulary.from_bytes(engine.data)
    size, width = vocabulary.words.shape
    backbone = Backbone(
        name=config.backbone,
        input_size=vocabulary.detector.side,
        layer="words",
        pooling="count",
        weights=engine.digest,
        dimension=size,
        parameters=size * width,
    )
    return ResolvedBackbone.of(config, backbone, engine, objects=objects)


def find_or_learn(config: Config, learning: Learning) -> tuple[str, bytes]:
    """Name and bytes of the words of a sample of the run's images; those that are learnt are kept for other runs."""
    from fruitpipe.engines.visual_words import Detector

    sample = learning.sample(config.words.images)
    name = name_of(config, sample)
    if found := find(learning, name):
        return name, found
    detector = Detector(cast(Any, config.backbone), config.words.side, config.words.keypoints)
    data = learn(learning, sample, detector, config.words.size).to_bytes()
    learning.keep(name, data)
    return name, data


def name_of(config: Config, sample: Sample) -> str:
    """The object of words that are learnt from a sample: another one for other images, rules or settings."""
    from fruitpipe.storage import layout
    from fruitpipe.vision.decode import features_digest

    settings = [config.backbone, config.words.model_dump(), features_digest("", config.image), sample]
    return layout.vocabulary(hashlib.sha256(json.dumps(settings).encode()).hexdigest())


def find(learning: Learning, name: str) -> bytes | None:
    """The words that an earlier run has learnt; None where there are none of this name, or damaged ones."""
    from fruitpipe.engines.visual_words import Vocabulary

    data = learning.find(name)
    with suppress(ValueError):
        if data and Vocabulary.from_bytes(data):
            return data
    return None


def learn(learning: Learning, sample: Sample, detector: Detector, size: int) -> Vocabulary:
    """Cluster the descriptors of images into `size` words; bad images are passed over.

    The clusters are k-means' on descriptors as points. ORB's are bits, and k-means on their bytes would take 127 and
    128 for neighbours, though no bit of theirs agrees. On bits, squared distances are Hamming's, and a centre keeps for
    each bit how often it is set, where the binary centre of k-majority keeps the more frequent value. Nearest
    neighbours on 500 photographs of 25 fruits, 48 words, four seeds: 0.82 by bits, 0.79 by k-majority, 0.78 by bytes.

    Raises UserError where fewer descriptors are found than words are wanted.
    """
    from fruitpipe.engines.visual_words import Vocabulary

    most = min(max(DESCRIPTORS, PER_WORD * size), MOST)
    each = max(2 * most // max(len(sample), 1), 1)

    def describe(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        found = detector.describe(detector.open(), pixels)
        return found[:: -(-len(found) // each) or 1]

    described = learning.map(describe, sample, detector.side)
    if (count := sum(map(len, described))) < size:
        raise UserError(
            f"{len(sample)} images have too few keypoints for {size} words: set words.size lower, or words.side, "
            "words.keypoints or words.images higher."
        )
    random = np.random.default_rng(SEED)
    points = detector.points(np.concatenate(described)[np.sort(random.permutation(count)[:most])])
    with one_thread():
        return Vocabulary(detector, cluster(points, points[random.permutation(len(points))[:size]]))


def cluster(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lloyd's k-means, a few rounds from these centres; one that is nearest to no point stays where it is.

    For 48 words it does no worse than scikit-learn's MiniBatchKMeans: nearest neighbours on 500 photographs of 25
    fruits are right for 0.83 (0.81), on 2,316 of 120 for 0.59 (0.57). Importing scikit-learn takes ten times as long.
    """
    from fruitpipe.engines.visual_words import nearest_words

    for _ in range(ROUNDS):
        sums, counts = np.zeros_like(centres), np.zeros(len(centres), np.float32)
        for batch in np.split(points, range(BATCH, len(points), BATCH)):
            members = (nearest_words(batch, centres)[:, np.newaxis] == np.arange(len(centres))).astype(np.float32)
            sums += members.T @ batch
            counts += members.sum(axis=0)
        centres = np.where(counts[:, np.newaxis] > 0, sums / np.maximum(counts, 1)[:, np.newaxis], centres)
    return centres
