"""Images of a run that are most like others: of the run, or new ones through its model. No Spark, no TensorFlow."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from fruitpipe.config import ImageConfig, S3Config, absolute_path, is_remote
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model, read_model
from fruitpipe.numeric.neighbours import NOWHERE, Block, Metric, Nearest, blocks_of, prepared
from fruitpipe.numeric.one_thread import one_thread
from fruitpipe.result.pages import pages
from fruitpipe.result.runs import Run
from fruitpipe.sinks import vectors_of
from fruitpipe.source import Reader
from fruitpipe.storage import layout
from fruitpipe.tasks.vector_part import Vectors, indices
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decoder import decode_within_limits

SIDE = 112
"""Pixels of a picture in the page."""


@dataclass(frozen=True)
class Match:
    """An image of the run."""

    path: str
    label: str | None
    distance: float


@dataclass(frozen=True)
class Similar:
    """What is most like an image."""

    image: str
    of_run: bool
    """whether it is one of the run, which is no match of itself"""
    matches: list[Match]
    """nearest first"""


@dataclass(frozen=True)
class Described:
    """What is most like a text."""

    text: str
    matches: list[Match]
    """nearest first"""


def find_similar(
    run: Run, images: Sequence[str], k: int, metric: Metric, s3: S3Config | None = None, backbone: str | None = None
) -> list[Similar]:
    """The k images of a run that are most like each of some images, by comparison with all of them.

    images: paths as the run has them, or of other images.
    backbone: as `load_model` has it.

    Raises UserError where an image cannot be read or a vector is too long to be compared, FruitpipeError where the run
    is damaged.
    """
    vectors = run.vector_parts
    positions = places_of(vectors, images)
    queries = np.zeros((len(images), run.manifest.model.components), np.float32)
    new = positions == NOWHERE
    if new.any():
        queries[new] = transformed(run, [images[number] for number in np.flatnonzero(new).tolist()], s3, backbone)
    if not new.all():
        queries[~new] = vectors_of(vectors.rows_at(positions[~new], ["vector"]))
    with one_thread():
        nearest = Nearest(prepared(queries, metric), positions, k, metric)
        nearest.add(blocks_in(vectors, metric))
    found = matches_of(vectors.rows_at(nearest.found, ["path", "label"]), nearest.positions, nearest.distances)
    return [
        Similar(image, position != NOWHERE, matches)
        for image, position, matches in zip(images, positions.tolist(), found, strict=True)
    ]


class Gallery:
    """A run in memory, all of whose vectors can be searched again and again, by many threads at once."""

    def __init__(self, run: Run, metric: Metric) -> None:
        """Raises UserError where a vector is too long to be compared, FruitpipeError where the run is damaged."""
        vectors = run.vector_parts
        self.run, self.metric, self.count = run, metric, len(vectors)
        self._blocks = list(blocks_in(vectors, metric))
        self._images = pa.concat_tables(vectors.each(["path", "label"])).combine_chunks()

    @property
    def about(self) -> dict[str, Any]:
        return {"run": self.run.id, "images": self.count, "metric": self.metric}

    def require_of(self, model: Model) -> None:
        """Raise UserError where another model than this gave the vectors."""
        facts = self.run.manifest.model
        if (facts.fitted_by, facts.components) != (model.card.run, model.pca.length):
            raise UserError(
                f"run {self.run.id} has vectors of the model that run {facts.fitted_by} fitted, and this is that of "
                f"run {model.card.run}: take {self.run.path('model')}."
            )

    def nearest(self, vector: NDArray[np.float32], k: int) -> list[Match]:
        """The k images whose vectors are nearest to one, (d,), as `find_similar` finds them.

        Raises UserError where it is too long to be compared.
        """
        with one_thread():
            nearest = Nearest(prepared(vector[None], self.metric), np.array([NOWHERE]), k, self.metric)
            nearest.add(self._blocks)
        (found,) = matches_of(self._images.take(indices(nearest.found)), nearest.positions, nearest.distances)
        return found


def blocks_in(vectors: Vectors, metric: Metric) -> Iterator[Block]:
    for part in range(len(vectors.files)):
        yield from blocks_of(prepared(vectors.vectors(part), metric), vectors.positions(part))


def places_of(vectors: Vectors, images: Sequence[str]) -> NDArray[np.int64]:
    """Positions of images in a run, (n,), also by another way to write the path of a file; NOWHERE for new ones."""
    full = [image if is_remote(image) else str(absolute_path(image)) for image in images]
    wanted, found = {*images, *full}, dict[str, int]()
    for part, start in enumerate(vectors.starts[:-1].tolist()):
        paths = vectors.paths(part).to_pylist()
        found |= {path: start + row for row, path in enumerate(paths) if path in wanted}
    places = [found.get(image, found.get(other, NOWHERE)) for image, other in zip(images, full, strict=True)]
    return np.array(places, np.int64)


def transformed(run: Run, images: list[str], s3: S3Config | None, backbone: str | None) -> NDArray[np.float32]:
    """Vectors of new images, (n, k). Raises UserError where one has none."""
    model = read_model(run.store, layout.model(run.id), backbone)
    found = []
    for each in model.transform_images(images, s3=s3):
        if each.vector is None:
            raise UserError(
                f"{each.path} is no image of run {run.id}, and cannot be compared: {each.status}, "
                f"{(each.error or '').rstrip('.')}."
            )
        found.append(each.vector)
    return np.stack(found)


def matches_of(images: pa.Table, positions: NDArray[np.int64], distances: NDArray[np.float32]) -> list[list[Match]]:
    """What was found for each query, by positions and distances, (q, k). images: path and label of all, in their
    order."""
    rows = iter(images.to_pylist())
    return [
        [Match(**next(rows), distance=distance) for distance in each[there != NOWHERE].tolist()]
        for there, each in zip(positions, distances, strict=True)
    ]


def page(run: Run, found: Sequence[Similar | Described], metric: Metric, s3: S3Config | None = None) -> str:
    """A page that shows what was found, with pictures of the images that can be read. It needs nothing else."""
    reader = Reader(s3 or S3Config(), run.manifest.config.image.max_bytes)
    paths = {match.path for each in found for match in each.matches}
    paths |= {each.image for each in found if isinstance(each, Similar)}
    pictures = {path: picture(path, reader) for path in paths}
    template = pages("fruitpipe.findings").get_template("similar.html")
    return template.render(run=run.id, found=found, metric=metric, pictures=pictures, side=SIDE)


def picture(path: str, reader: Reader) -> str | None:
    """An image as a small WebP, base64; None where it cannot be read."""
    try:
        rules = ImageConfig(resize="pad", max_bytes=reader.max_bytes)
        pixels = decode_within_limits(reader.read(path), SIDE, rules).pixels
    except (BadImage, UserError):
        return None
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=80)
    return b64encode(sink.getvalue()).decode()
