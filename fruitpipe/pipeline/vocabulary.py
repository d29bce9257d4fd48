"""Learn the visual words of a run from a bounded sample of its images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fruitpipe.config import Config, ImageConfig
from fruitpipe.errors import UserError
from fruitpipe.source import Reader
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.featurize import GROUP, Data, Image, fetch, look
from fruitpipe.vision.decode import BadImage, Picture, features_digest

if TYPE_CHECKING:  # OpenCV is for those who ask for words
    from fruitpipe.engines.visual_words import Detector, Vocabulary

DESCRIPTORS, PER_WORD, MOST = 20_000, 50, 100_000
"""that are clustered; for large vocabularies as many for each word; never more: 102 MB of ORB's bits"""
ROUNDS = 10
BATCH = 1024
"""Descriptors whose distances to all words are in memory at once."""
SEED = 0
Sample = Sequence[tuple[str, ...]]
"""Paths and etags of images."""


def name_of(config: Config, sample: Sample) -> str:
    """The object of words that are learnt from a sample: another one for other images, rules or settings."""
    settings = [config.backbone, config.words.model_dump(), features_digest("", config.image), sample]
    return layout.vocabulary(hashlib.sha256(json.dumps(settings).encode()).hexdigest())


def find(store: Store, name: str) -> bytes | None:
    """The words that an earlier run has learnt; None where there are none of this name, or damaged ones."""
    from fruitpipe.engines.visual_words import Vocabulary

    data = store.find(name)
    with suppress(ValueError, KeyError, EOFError, BadZipFile):
        if data and Vocabulary.from_bytes(data):
            return data
    return None


def find_or_learn(config: Config, store: Store, sample: Sample, reader: Reader) -> tuple[str, bytes]:
    """The words of a sample and their name, kept for other runs. Raises UserError as `learn` does."""
    name = name_of(config, sample)
    if found := find(store, name):
        return name, found
    from fruitpipe.engines.visual_words import Detector

    detector = Detector(cast(Any, config.backbone), config.words.side, config.words.keypoints)
    data = learn(sample, detector, config.words.size, config.image, reader).to_bytes()
    store.put(name, data)
    return name, data


def learn(images: Sample, detector: Detector, size: int, rules: ImageConfig, reader: Reader) -> Vocabulary:
    """Cluster the descriptors of images into `size` words; bad images are passed over.

    The clusters are k-means' on descriptors as points. ORB's are bits, and k-means on their bytes would take 127 and
    128 for neighbours, though no bit of theirs agrees. On bits, squared distances are Hamming's, and a centre keeps for
    each bit how often it is set, where the binary centre of k-majority keeps the more frequent value. Nearest
    neighbours on 500 photographs of 25 fruits, 48 words, four seeds: 0.82 by bits, 0.79 by k-majority, 0.78 by bytes.

    Raises UserError where fewer descriptors are found than words are wanted.
    """
    from fruitpipe.engines.visual_words import Vocabulary

    most = min(max(DESCRIPTORS, PER_WORD * size), MOST)
    each = max(2 * most // max(len(images), 1), 1)
    blank = np.zeros((detector.side, detector.side, 3), np.uint8)

    def describe(data: Data | BadImage) -> NDArray[Any]:
        _, seen = look(data, detector.side, rules)
        found = detector.describe(detector.open(), seen.pixels if isinstance(seen, Picture) else blank)
        return found[:: -(-len(found) // each) or 1]

    fetched = fetch([Image(path, etag) for path, etag in images], reader)
    parts: list[NDArray[Any]] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while group := list(islice(fetched, GROUP)):
            parts += pool.map(describe, group)
    found = np.concatenate(parts)
    if len(found) < size:
        raise UserError(
            f"{len(images)} images have too few keypoints for {size} words: set words.size lower, or words.side, "
            "words.keypoints or words.images higher."
        )
    random = np.random.default_rng(SEED)
    points = detector.points(found[np.sort(random.permutation(len(found))[:most])])
    with threadpool_limits(1):  # sums of one order, so that the same images give the same words
        return Vocabulary(detector, cluster(points, points[random.permutation(len(points))[:size]]))


def cluster(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lloyd's k-means, a few rounds from these centres; one that is nearest to no point stays where it is.

    For 48 words it does no worse than scikit-learn's MiniBatchKMeans: nearest neighbours on 500 photographs of 25
    fruits are right for 0.83 (0.81), on 2,316 of 120 for 0.59 (0.57). Importing scikit-learn takes ten times as long.
    """
    from fruitpipe.engines.visual_words import nearest

    for _ in range(ROUNDS):
        sums, counts = np.zeros_like(centres), np.zeros(len(centres), np.float32)
        for batch in np.split(points, range(BATCH, len(points), BATCH)):
            members = (nearest(batch, centres)[:, np.newaxis] == np.arange(len(centres))).astype(np.float32)
            sums += members.T @ batch
            counts += members.sum(axis=0)
        centres = np.where(counts[:, np.newaxis] > 0, sums / np.maximum(counts, 1)[:, np.newaxis], centres)
    return centres
