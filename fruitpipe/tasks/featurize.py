"""One part of the features: fetch, decode, infer, write. Runs in a Spark task, or anywhere else; imports no Spark."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.config import ImageConfig
from fruitpipe.engines import Engine, Extractor
from fruitpipe.source import Reader, digest
from fruitpipe.source.reader import threads_for
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import to_parquet
from fruitpipe.vision.decode import OK, BadImage, Picture, decode

Data = bytes | memoryview
GROUP = 16
"""Images decoded before the network runs on them: in turn, each would drive the other's data from the processor's
caches, which costs 3 to 5 %."""
AHEAD, AHEAD_BYTES = 2 * GROUP, 64 << 20
"""Images fetched before their turn, and the bytes from which they are fewer."""


class Image(NamedTuple):
    """An image to featurize."""

    path: str
    etag: str = ""
    size: int = 0
    """bytes, where they are known"""


@dataclass
class Facts:
    """Columns of a feature part while it grows; `feature` comes apart."""

    path: list[str] = field(default_factory=list)
    etag: list[str] = field(default_factory=list)
    content: list[str | None] = field(default_factory=list)
    width: list[int | None] = field(default_factory=list)
    height: list[int | None] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    error: list[str | None] = field(default_factory=list)
    bytes: int = 0
    """read; no column"""

    def add(self, path: str, etag: str, content: str | None, seen: Picture | BadImage) -> None:
        self.path.append(path)
        self.etag.append(etag)
        self.content.append(content)
        self.width.append(seen.width if isinstance(seen, Picture) else None)
        self.height.append(seen.height if isinstance(seen, Picture) else None)
        self.status.append(OK if isinstance(seen, Picture) else seen.status)
        self.error.append(None if isinstance(seen, Picture) else str(seen))

    def to_table(self) -> pa.Table:
        """As layout.FACTS has them."""
        return pa.table([getattr(self, name) for name in layout.FACTS.names], schema=layout.FACTS)


class Done(NamedTuple):
    """What a task has done."""

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

    def __call__(self, number: int, extractor: Callable[[], Extractor]) -> Done:
        with self.store.open(self.todo) as file:
            rows = pq.ParquetFile(file).read_row_group(number)
        images = [Image(*row) for row in zip(*(rows[name].to_pylist() for name in Image._fields), strict=True)]
        engine = load_engine(self.digest, extractor)
        facts, features = featurize(images, engine, self.image, self.reader)
        name = layout.feature_part(self.digest, ((image.path, image.etag) for image in images))
        self.store.put(name, to_parquet(facts.to_table(), features))
        return Done(name, Counter(facts.status), facts.bytes)


@dataclass(frozen=True)
class FeaturizeSample:
    """The task: features of some images for the driver, GROUP at a time."""

    images: tuple[Image, ...]
    key: str
    """of the engine in its process"""
    image: ImageConfig
    reader: Reader

    def __call__(self, number: int, extractor: Callable[[], Extractor]) -> tuple[list[str], NDArray[np.float32]]:
        """Statuses and features, shape (n, d)."""
        images = list(self.images[number * GROUP : (number + 1) * GROUP])
        engine = load_engine(self.key, extractor)
        facts, features = featurize(images, engine, self.image, self.reader)
        return facts.status, features


_engines: dict[str, Engine] = {}


def load_engine(key: str, extractor: Callable[[], Extractor]) -> Engine:
    """This process' engine. Tasks share a process one after the other, never at once."""
    if key not in _engines:
        _engines.clear()
        _engines[key] = extractor().start()
    return _engines[key]


def featurize(
    images: list[Image], engine: Engine, rules: ImageConfig, reader: Reader
) -> tuple[Facts, NDArray[np.float32]]:
    """Facts of images and their features, shape (n, d), zeros where the status is not `ok`."""
    facts = Facts()
    features = np.zeros((len(images), engine.dimension), np.float32)
    fetched = zip(features, images, fetch(images, reader), strict=True)
    while group := list(islice(fetched, GROUP)):
        looks = [look(data, engine.side, rules) for _, _, data in group]
        for (feature, image, data), (content, seen) in zip(group, looks, strict=True):
            facts.bytes += 0 if isinstance(data, BadImage) else len(data)
            facts.add(image.path, image.etag, content, run(engine, seen, feature))
    return facts, features


def run(engine: Engine, seen: Picture | BadImage, feature: NDArray[np.float32]) -> Picture | BadImage:
    """Write a picture's feature; return the picture, or why there is no feature."""
    if isinstance(seen, Picture):
        try:
            engine.run(seen.pixels, feature)
        except BadImage as error:
            seen = error
        if isinstance(seen, Picture) and not np.isfinite(feature).all():
            seen = BadImage("rejected", "the backbone gives a feature that is not finite")
        if isinstance(seen, BadImage):
            feature[...] = 0
    return seen


def look(data: Data | BadImage, side: int, rules: ImageConfig) -> tuple[str | None, Picture | BadImage]:
    """Digest of an image's bytes, where they were had, and the picture or why there is none."""
    if isinstance(data, BadImage):
        return None, data
    try:
        return digest(data), decode(data, side, rules)
    except BadImage as error:
        return digest(data), error


def fetch(images: list[Image], reader: Reader) -> Iterator[Data | BadImage]:
    """The bytes of each image, or why not, in order, a few ahead of their use."""
    with ThreadPoolExecutor(max((threads_for(image.path) for image in images), default=1)) as pool:
        ahead: deque[tuple[int, Future[Data | BadImage]]] = deque()
        held = 0
        for image in images:
            ahead.append((image.size, pool.submit(read_or_error, reader, image)))
            held += image.size
            while len(ahead) > AHEAD or (held > AHEAD_BYTES and len(ahead) > 1):
                size, first = ahead.popleft()
                held -= size
                yield first.result()
        while ahead:
            yield ahead.popleft()[1].result()


def read_or_error(reader: Reader, image: Image) -> Data | BadImage:
    try:
        return reader.read(image.path, image.etag)
    except BadImage as error:
        return error
