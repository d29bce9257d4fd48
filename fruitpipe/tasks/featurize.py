"""Parts of the features: fetch, decode, infer, write. Runs in a Spark task, or anywhere else; imports no Spark.

Several backbones see an image that is fetched once, and decoded once for each scale that they want.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.config import ImageConfig
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.source import Reader, digest
from fruitpipe.source.fetching import AHEAD, Data, Image, fetch
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.engine_file import EngineFile
from fruitpipe.tasks.feature_part import part_name, part_sizes, to_parquet
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import OK, BadImage
from fruitpipe.vision.decode import Look, Picture
from fruitpipe.vision.decoder import decode_for_all
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
    """What a featurizing task has made of some images."""

    parts: dict[int, str]
    """objects of the features, by the number of what they are for"""
    statuses: Counter[str]
    """images by status: of one that is not `ok` everywhere, the first other one"""
    bytes: int
    """read"""


class Wanted(NamedTuple):
    """Features that a result is to have."""

    store: Store
    digest: str
    """of the features: see `features_digest`"""
    engine: str
    """key of the engine in its process"""
    image: ImageConfig
    thumbnails: int | None = None
    """their side, pixels; None where none are made"""


@dataclass(frozen=True)
class Featurize:
    """The task: share `number` of what is to do becomes feature parts for each result that misses its images.

    The first images of the next part are fetched while the last ones of this are computed, and this part is written
    while the next is computed.
    """

    todo: Shares
    wanted: tuple[Wanted, ...]
    """with the same limits of images"""
    reader: Reader
    largest: int
    """most rows of a part"""

    def __call__(self, number: int, specs: Sequence[Callable[[], EngineSpec]]) -> list[Done]:
        """Of each part that it makes; specs: the engine of each that is wanted."""
        rows = self.todo.read(number)
        images = [Image(*row) for row in zip(*(rows[name].to_pylist() for name in Image._fields), strict=True)]
        missing = rows["missing"][0].as_py()
        chosen = {which: each for which, each in enumerate(self.wanted) if missing >> which & 1}
        load = load_engines({each.engine: spec for each, spec in zip(self.wanted, specs, strict=True)})
        engines = {which: load(each.engine) for which, each in chosen.items()}
        fetched = fetch_for(engines.values(), images, self.reader)
        found = []
        with ThreadPoolExecutor(1) as behind:
            written = behind.submit(write, ())
            for some in in_parts(images, self.largest):
                done, made = self._part(some, engines, fetched)
                written.result()  # so that no more than two parts are held
                written = behind.submit(write, made)
                found.append(done)
            written.result()
        return found

    def _part(
        self, images: list[Image], engines: Mapping[int, Engine], fetched: Iterator[Data | BadImage]
    ) -> tuple[Done, list[Made]]:
        """What some images become."""
        wanted = {which: self.wanted[which] for which in engines}
        views = [
            View(engines[which], each.image, Sheet(len(images), each.thumbnails) if each.thumbnails else None)
            for which, each in wanted.items()
        ]
        found = featurized(images, views, fetched)
        parts: dict[int, str] = {}
        made: list[Made] = []
        for (which, each), view, (facts, features) in zip(wanted.items(), views, found, strict=True):
            table = facts.to_table()
            parts[which] = part_name(each.digest, table)
            made.append(Made(each.store, parts[which], table, features, view.sheet))
        statuses = zip(*(facts.status for facts, _ in found), strict=True)
        worst = (next((status for status in several if status != OK), OK) for several in statuses)
        return Done(parts, Counter(worst), found[0][0].bytes), made


class Made(NamedTuple):
    """A feature part that is to be written."""

    store: Store
    name: str
    facts: pa.Table
    features: NDArray[np.float32]
    sheet: Sheet | None
    """of its thumbnails, if they are wanted"""


def write(parts: Iterable[Made]) -> None:
    """Write parts, one after the other, each after its thumbnails, so that a part which is there has them."""
    for part in parts:
        if part.sheet:
            part.store.put(layout.thumbnails(part.name, part.sheet.side), part.sheet.encoded())
        part.store.put(part.name, to_parquet(part.facts, part.features))


def in_parts(images: list[Image], largest: int) -> Iterator[list[Image]]:
    """The images of each part of a task."""
    left = iter(images)
    for size in part_sizes(len(images), largest):
        yield list(islice(left, size))


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
        engines = load_engines({self.key: spec})
        facts, features = featurize(images, engines(self.key), self.image, self.reader)
        return facts.status, features


_engines: dict[tuple[str, str], Engine] = {}
"""By key and device."""


def load_engines(specs: Mapping[str, Callable[[], EngineSpec]]) -> Callable[[str], Engine]:
    """This process' engines on the task's device by their keys, started when they are asked for; others than these are
    dropped.

    Tasks share a process one after the other, never at once.
    """
    for key, device in list(_engines):
        if key not in specs:
            del _engines[key, device]
            EngineFile.known.clear()  # which may hold its file: others of these are fetched once more

    def engine(key: str) -> Engine:
        wanted = specs[key]()
        if (key, wanted.device) not in _engines:
            _engines[key, wanted.device] = wanted.start()
        return _engines[key, wanted.device]

    return engine


class View(NamedTuple):
    """An engine, and how it sees images."""

    engine: Engine
    rules: ImageConfig
    sheet: Sheet | None = None
    """takes a thumbnail of each image that could be decoded, if they are wanted"""

    @property
    def look(self) -> Look:
        return Look(self.engine.side, self.rules)


def featurize(
    images: list[Image], engine: Engine, rules: ImageConfig, reader: Reader, sheet: Sheet | None = None
) -> tuple[Facts, NDArray[np.float32]]:
    """Facts about images, and their features of shape (n, d), float32; zeros where the status is not `ok`.

    sheet: takes a thumbnail of each that could be decoded, if they are wanted.
    """
    (found,) = featurize_for(images, [View(engine, rules, sheet)], reader)
    return found


def featurize_for(
    images: list[Image], views: Sequence[View], reader: Reader
) -> list[tuple[Facts, NDArray[np.float32]]]:
    """What `featurize` gives for each of some views, whose limits are the same."""
    return featurized(images, views, fetch_for((view.engine for view in views), images, reader))


def fetch_for(engines: Iterable[Engine], images: list[Image], reader: Reader) -> Iterator[Data | BadImage]:
    """The bytes of each image, enough of them ahead for batches of all engines."""
    return fetch(images, reader, max(AHEAD, 2 * max(engine.batch for engine in engines)))


def featurized(
    images: list[Image], views: Sequence[View], fetched: Iterator[Data | BadImage]
) -> list[tuple[Facts, NDArray[np.float32]]]:
    """As `featurize_for`, of images whose bytes are the next that `fetched` gives; it may go on after them."""
    made = [(Facts(), np.zeros((len(images), view.engine.dimension), np.float32)) for view in views]
    looks = list(dict.fromkeys(view.look for view in views))
    own = [looks.index(view.look) for view in views]
    batch = max(view.engine.batch for view in views)
    most = min(batch, len(images))
    # One for all groups: memory that is new to a process costs as much as to copy a picture.
    room = [np.empty((most, look.side, look.side, channels(look.rules)), np.uint8) for look in looks]
    for start in range(0, len(images), batch):
        group = images[start : start + batch]
        pixels = [each[: len(group)] for each in room]
        seen: list[list[Seen | BadImage]] = [[] for _ in looks]
        read: list[Read] = []
        for number, data in enumerate(islice(fetched, len(group))):  # the bytes of one at a time
            read.append(Read.of(data))
            pictures = pictures_of(data, looks)
            for rows, outcomes, picture in zip(pixels, seen, pictures, strict=True):
                outcomes.append(place(rows[number], picture))
            for view, look in zip(views, own, strict=True):
                if view.sheet and isinstance(picture := pictures[look], Picture):
                    view.sheet.place(start + number, thumbnail(picture, view.sheet.side, view.rules))
        for view, look, (facts, features) in zip(views, own, made, strict=True):
            outcomes = []
            for first in range(0, len(group), view.engine.batch):
                some = slice(first, first + view.engine.batch)
                outcomes += inferred(view.engine, pixels[look][some], seen[look][some], features[start:][some])
            for image, each, outcome in zip(group, read, outcomes, strict=True):
                facts.add(image, each, outcome)
    return made


def channels(rules: ImageConfig) -> int:
    """Of pixels in memory."""
    return 1 if rules.grey else 3


def pictures_of(data: Data | BadImage, looks: Sequence[Look]) -> list[Picture | BadImage]:
    """The picture of an image's bytes for each look, or why there is none."""
    return [data for _ in looks] if isinstance(data, BadImage) else decode_for_all(data, looks)


def place(row: NDArray[np.uint8], picture: Picture | BadImage) -> Seen | BadImage:
    """Write a picture to `row`, shape (side, side, channels); return its size, or why there is none."""
    if isinstance(picture, BadImage):
        return picture
    row[...] = picture.pixels[..., : row.shape[-1]]
    return Seen(picture.width, picture.height)


def inferred(
    engine: Engine, pixels: NDArray[np.uint8], seen: Sequence[Seen | BadImage], out: NDArray[np.float32]
) -> list[Seen | BadImage]:
    """Write the features of the images that were decoded to `out`; `seen` with a BadImage where there is none."""
    outcomes = [*seen]
    good = [number for number, each in enumerate(seen) if isinstance(each, Seen)]
    if not good:
        return outcomes
    batch = pixels if len(good) == len(pixels) else pixels[good]
    features = np.zeros((len(good), engine.dimension), np.float32)
    bad = engine.run(np.broadcast_to(batch, (*batch.shape[:3], 3)), features)
    for row in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        bad.setdefault(row, BadImage("rejected", "the backbone gives a feature that is not finite"))
    for row, error in bad.items():
        features[row] = 0
        outcomes[good[row]] = error
    out[good] = features
    return outcomes
