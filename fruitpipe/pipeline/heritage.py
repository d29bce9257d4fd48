"""Heritage: vector parts of an earlier run by the same model, which a run takes over as they are.

A part is taken over if nothing about its images has changed. So a run with a few new images costs what those do, and
each run is whole in its own folder: a part is a further name of the same file, or a copy that the store makes itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from fruitpipe.model.model import PCA, Model
from fruitpipe.pipeline.earlier_parts import EarlierParts
from fruitpipe.pipeline.job import Job
from fruitpipe.pipeline.precedent import digest_in_model, recent_manifests
from fruitpipe.result.manifest import Manifest, versions
from fruitpipe.storage.file import File
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.tasks.reduce import largest_part, most_images
from fruitpipe.tasks.shares import Shares
from fruitpipe.tasks.taking_over import Members, read_members
from fruitpipe.tasks.vector_part import Vectors

MOST_SMALL = 16
"""Parts of less than half the usual size that are taken over. Of more, all are made anew, together: increments of years
are few parts, and each makes as many vectors anew as MOST_SMALL of them have, at most, shared among MOST_SMALL."""
ARITHMETIC = ("fruitpipe", "numpy")
"""Packages whose other versions may give other last bits."""


@dataclass(frozen=True)
class Heritage:
    """Parts of a run that another run takes over, one at least."""

    run: str
    """the earlier one"""
    files: tuple[File, ...]
    """as its manifest has them"""
    earlier: EarlierParts
    """in the plan of the run that takes them over"""
    numbers: tuple[int, ...]
    """of the parts there"""
    dimension: int
    """of a feature"""

    def write_further(self, shares: Shares) -> list[int]:
        """Write an index of the images that are in none of the parts; return the sizes of the parts that they make."""
        return self.earlier.write_further(shares, self.dimension, self.numbers)

    def write_again(self, shares: Shares, damaged: Sequence[int]) -> None:
        """Write an index of some of the parts after all."""
        rows = [self.files[number].rows or 0 for number in damaged]
        self.earlier.write_again(shares, [self.numbers[number] for number in damaged], rows)


def heritage_of(job: Job, model: Model) -> Heritage | None:
    """What a run has of the latest run by the same model, else the newest, whose files are those of a run of now."""
    manifest = next((each for each in recent_manifests(job.store) if is_by(each, model, job)), None)
    if manifest is None:
        return None
    vectors = Vectors.among(job.store, manifest.run, manifest.files, manifest.model.components)
    dimension = job.backbone.facts.dimension
    files: list[File] = []
    digests: list[str] = []

    def paths() -> Iterator[pa.ChunkedArray]:
        for file, found in members_of(vectors, largest_part(dimension)):
            files.append(file)
            digests.append(found.images)
            yield found.paths

    earlier = EarlierParts(job.plan, paths())
    now = earlier.digests([file.rows or 0 for file in files])
    same = [number for number, (before, after) in enumerate(zip(digests, now, strict=True)) if before == after]
    usual = most_images(job.plan.featurized, dimension)
    small = {number for number in same if 2 * (files[number].rows or 0) < usual}
    kept = tuple(number for number in same if len(small) <= MOST_SMALL or number not in small)
    if not kept:
        return None
    return Heritage(manifest.run, tuple(files[number] for number in kept), earlier, kept, dimension)


def is_by(manifest: Manifest, model: Model, job: Job) -> bool:
    """Whether a run was by the same model, arithmetic and features as a run of now."""
    if (manifest.model.fitted_by, manifest.features_digest) != (model.card.run, job.backbone.features):
        return False
    arrays, ours = model.arrays, versions()
    digest = None if arrays is None else hashlib.sha256(arrays).hexdigest()
    same = all(manifest.versions.get(name) == ours.get(name) for name in ARITHMETIC)
    return same and manifest.model.components == model.pca.length and digest_in_model(manifest, PCA) == digest


def members_of(vectors: Vectors, most: int) -> Iterator[tuple[File, Members]]:
    """The parts of a run that can be read and have at most so many images."""
    read = partial(read_members, vectors.store, vectors.run)
    files = (file for file in vectors.files if (file.rows or 0) <= most)
    for file, found in side_by_side(read, files):
        if found:
            yield file, found
