"""One part of the features: fetch, decode, infer, write. Runs in a Spark task, or anywhere else; imports no Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.config import ImageConfig
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.source import Reader, digest
from fruitpipe.source.fetching import AHEAD, Data, Image, fetch
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import to_parquet
from fruitpipe.vision.bad_image import OK, BadImage
from fruitpipe.vision.decode import Picture
from fruitpipe.vision.decoder import decode_within_limits
from fruitpipe.vision.thumbnails import Sheet, thumbnail

SAMPLED = 16
"""Images of a task of `FeaturizeSample`."""


class Read(NamedTuple):
    """What is kept of the bytes of an image."""

    content: str | None
    """digest; None where they could not be had"""
    bytes: int

    @classmethod
    def of(cls, data: Data | BadImage) -> Read:
        return cls(None, 0) if isinstance(data, BadImage) else cls(digest(data), len(data))


class Seen(NamedTuple):
    """Size of an image as seen, after its EXIF orientation, pixels."""

    width: int
    height: int


@dataclass
class Facts:
    """Columns of a growing feature part, all but `feature`."""

    path: list[str] = field(default_factory=list)
    etag: list[str] = field(default_factory=list)
    content: list[str | None] = field(default_factory=list)
    width: list[int | None] = field(default_factory=list)
    height: list[int | None] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    error: list[str | None] = field(default_factory=list)
    bytes: int = 0
    """read; no column"""

    def add(self, image: Image, read: Read, seen: Seen | BadImage) -> None:
        """A row for an image, what was read of it, and what was seen."""
        self.path.append(image.path)
        self.etag.append(image.etag)
        self.content.append(read.content)
        self.width.append(None if isinstance(seen, BadImage) else seen.width)
        self.height.append(None if isinstance(seen, BadImage) else seen.height)
        self.status.append(seen.status if isinstance(seen, BadImage) else OK)
        self.error.append(str(seen) if isinstance(seen, BadImage) else None)
        self.bytes += read.bytes

    def to_table(self) -> pa.Table:
        """As layout.FACTS has them."""
        return pa.table([getattr(self, name) for name in layout.FACTS.names], schema=layout.FACTS)


class Done(NamedTuple):
    """Result of a featurizing task."""

    part: str
    """object of the features"""
    statuses: Counter[str]
    """images by status"""
    bytes: int
    """read"""


@dataclass(frozen=True)
class Featurize:
    """The task: row group `number` of a todo file becomes one feature part."""

    store: Store
    todo: str
    digest: str
    """of the features: see `features_digest`"""
    image: ImageConfig
    reader: Reader
    thumbnails: int | None = None
    """their side, pixels; None where none are made"""

    def __call__(self, number: int, spec: Callable[[], EngineSpec]) -> Done:
        with self.store.open(self.todo) as file:
            rows = pq.ParquetFile(file).read_row_group(number)
        images = [Image(*row) for row in zip(*(rows[name].to_pylist() for name in Image._fields), strict=True)]
        engine = load_engine(self.digest, spec)
        sheet = Sheet(len(images), self.thumbnails) if self.thumbnails else None
        facts, features = featurize(images, engine, self.image, self.reader, sheet)
        name = layout.feature_part(self.digest, ((image.path, image.etag) for image in images))
        if sheet:  # before the part, so that a part which is there has its thumbnails
            self.store.put(layout.thumbnails(name, sheet.side), sheet.encoded())
        self.store.put(name, to_parquet(facts.to_table(), features))
        return Done(name, Counter(facts.status), facts.bytes)


@dataclass(frozen=True)
class FeaturizeSample:
    """The task: features of some images for the driver, SAMPLED at a time."""

    images: tuple[Image, ...]
    key: str
    """of the engine in its process"""
    image: ImageConfig
    reader: Reader

    def __call__(self, number: int, spec: Callable[[], EngineSpec]) -> tuple[list[str], NDArray[np.float32]]:
        """Statuses and features, shape (n, d)."""
        images = list(self.images[number * SAMPLED : (number + 1) * SAMPLED])
        engine = load_engine(self.key, spec)
        facts, features = featurize(images, engine, self.image, self.reader)
        return facts.status, features


_engines: dict[str, dict[str, Engine]] = {}
"""By key and device."""


def load_engine(key: str, spec: Callable[[], EngineSpec]) -> Engine:
    """This process' engine on the task's device. Tasks share a process one after the other, never at once."""
    if key not in _engines:
        _engines.clear()
    engines, wanted = _engines.setdefault(key, {}), spec()
    if wanted.device not in engines:
        engines[wanted.device] = wanted.start()
    return engines[wanted.device]


def featurize(
    images: list[Image], engine: Engine, rules: ImageConfig, reader: Reader, sheet: Sheet | None = None
) -> tuple[Facts, NDArray[np.float32]]:
    """Facts about images, and their features of shape (n, d), float32; zeros where the status is not `ok`.

    sheet: takes a thumbnail of each that could be decoded, if they are wanted.
    """
    facts = Facts()
    features = np.zeros((len(images), engine.dimension), np.float32)
    fetched = fetch(images, reader, max(AHEAD, 2 * engine.batch))
    for start in range(0, len(images), engine.batch):
        group = images[start : start + engine.batch]
        pixels = np.empty((len(group), engine.side, engine.side, 1 if rules.grey else 3), np.uint8)
        read: list[Read] = []
        seen: list[Seen | BadImage] = []
        for number, (row, data) in enumerate(zip(pixels, fetched, strict=False), start):  # the bytes of one at a time
            read.append(Read.of(data))
            seen.append(decode_into(row, data, rules, sheet, number))
        infer(engine, pixels, seen, features[start : start + len(group)])
        for image, each, outcome in zip(group, read, seen, strict=True):
            facts.add(image, each, outcome)
    return facts, features


def decode_into(
    row: NDArray[np.uint8], data: Data | BadImage, rules: ImageConfig, sheet: Sheet | None = None, cell: int = 0
) -> Seen | BadImage:
    """Decode an image to `row`, shape (side, side, channels); return its size, or why there is no picture.

    sheet, cell: where its thumbnail goes, if it is wanted.
    """
    picture = decoded(data, len(row), rules)
    if isinstance(picture, BadImage):
        return picture
    row[...] = picture.pixels[..., : row.shape[-1]]
    if sheet:
        sheet.place(cell, thumbnail(picture, sheet.side, rules))
    return Seen(picture.width, picture.height)


def decoded(data: Data | BadImage, side: int, rules: ImageConfig) -> Picture | BadImage:
    """The picture of an image's bytes, or why there is none."""
    if isinstance(data, BadImage):
        return data
    try:
        return decode_within_limits(data, side, rules)
    except BadImage as error:
        return error


def infer(engine: Engine, pixels: NDArray[np.uint8], seen: list[Seen | BadImage], out: NDArray[np.float32]) -> None:
    """Write the features of the images that were decoded to `out`; put a BadImage in `seen` where there is none."""
    good = [number for number, each in enumerate(seen) if isinstance(each, Seen)]
    if not good:
        return
    batch = pixels if len(good) == len(pixels) else pixels[good]
    features = np.zeros((len(good), engine.dimension), np.float32)
    bad = engine.run(np.broadcast_to(batch, (*batch.shape[:3], 3)), features)
    for row in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        bad.setdefault(row, BadImage("rejected", "the backbone gives a feature that is not finite"))
    for row, error in bad.items():
        features[row] = 0
        seen[good[row]] = error
    out[good] = features
