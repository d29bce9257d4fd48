"""One part of the features: fetch, decode, infer, write. Runs in a Spark task, or anywhere else; imports no Spark."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe import layout, source
from fruitpipe.config import ImageConfig
from fruitpipe.engine import Engine
from fruitpipe.images import DECODE_RULES, OK, BadImage, Picture, decode
from fruitpipe.store import Store

GROUP = 16
"""Images decoded before the network runs on them: in turn, each would drive the other's data from the processor's
caches, which costs 3 to 5 %."""
AHEAD = 2 * GROUP
"""Images fetched before their turn."""


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

    def add(self, path: str, etag: str, content: str | None, seen: Picture | BadImage) -> None:
        self.path.append(path)
        self.etag.append(etag)
        self.content.append(content)
        self.width.append(seen.width if isinstance(seen, Picture) else None)
        self.height.append(seen.height if isinstance(seen, Picture) else None)
        self.status.append(OK if isinstance(seen, Picture) else seen.status)
        self.error.append(None if isinstance(seen, Picture) else str(seen))


@dataclass(frozen=True)
class Featurize:
    """The task: row group `number` of a todo file becomes one feature part; returns how many have each status."""

    output: str
    todo: str
    digest: str
    """of the features: see `features_digest`"""
    flatbuffer_digest: str
    image: ImageConfig

    def __call__(self, number: int, flatbuffer: Callable[[], bytes]) -> Counter[str]:
        store = Store(self.output)
        with store.open(self.todo) as file:
            rows = pq.ParquetFile(file).read_row_group(number)
        paths, etags = rows["path"].to_pylist(), rows["etag"].to_pylist()
        engine = load_engine(self.flatbuffer_digest, flatbuffer)
        facts, features = featurize(paths, etags, engine, self.image)
        store.put(layout.feature_part(self.digest, zip(paths, etags, strict=True)), to_parquet(facts, features))
        return Counter(facts.status)


def features_digest(backbone_digest: str, image: ImageConfig) -> str:
    """Identity of features: the network, and all that decides which pixels it sees."""
    rules = f"{backbone_digest}|decode {DECODE_RULES}|{image.resample}"
    return hashlib.sha256(rules.encode()).hexdigest()


_engines: dict[str, Engine] = {}


def load_engine(digest: str, flatbuffer: Callable[[], bytes]) -> Engine:
    """This process' engine for a flatbuffer. Tasks share a process one after the other, never at once."""
    if digest not in _engines:
        _engines.clear()
        _engines[digest] = Engine(flatbuffer())
    return _engines[digest]


def featurize(
    paths: list[str], etags: list[str], engine: Engine, rules: ImageConfig
) -> tuple[Facts, NDArray[np.float32]]:
    """Facts of images and their features, shape (n, d), zeros where the status is not `ok`."""
    facts = Facts()
    features = np.zeros((len(paths), engine.dimension), np.float32)
    images = zip(features, paths, etags, fetch(paths, rules.max_bytes), strict=True)
    while group := list(islice(images, GROUP)):
        looks = [look(data, engine.side, rules) for _, _, _, data in group]
        for (feature, path, etag, _), (content, seen) in zip(group, looks, strict=True):
            if isinstance(seen, Picture):
                engine.run(seen.pixels, feature)
            facts.add(path, etag, content, seen)
    return facts, features


def look(data: bytes | BadImage, side: int, rules: ImageConfig) -> tuple[str | None, Picture | BadImage]:
    """Digest of an image's bytes, where they were had, and the picture or why there is none."""
    if isinstance(data, BadImage):
        return None, data
    try:
        return source.digest(data), decode(data, side, rules)
    except BadImage as error:
        return source.digest(data), error


def fetch(paths: Iterable[str], max_bytes: int) -> Iterator[bytes | BadImage]:
    """The bytes of each image, or why not, in order, a few ahead of their use."""
    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[bytes | BadImage]] = deque()
        for path in paths:
            ahead.append(pool.submit(read_or_error, path, max_bytes))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_or_error(path: str, max_bytes: int) -> bytes | BadImage:
    try:
        return source.read_image(path, max_bytes)
    except BadImage as error:
        return error


def to_parquet(facts: Facts, features: NDArray[np.float32]) -> memoryview:
    """A feature part. `feature` is binary, d little-endian float32: ten times the speed of a list in Parquet."""
    count, dimension = features.shape
    failed = np.array([status != OK for status in facts.status], bool)
    validity = pa.py_buffer(np.packbits(~failed, bitorder="little")) if failed.any() else None
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * dimension), count, [validity, pa.py_buffer(features)])
    columns = [pa.array(getattr(facts, name), layout.FACTS.field(name).type) for name in layout.FACTS.names]
    table = pa.table([*columns, column], schema=layout.FACTS.append(pa.field("feature", column.type)))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=["status", "error", "width", "height"],
        row_group_size=512,
        write_page_checksum=True,
    )
    return memoryview(sink.getvalue())
