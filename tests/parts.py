"""Build listings and feature parts by hand, and damage them."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruitpipe.source import LISTING
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import part_name, to_parquet
from fruitpipe.vision.bad_image import OK


class Image(NamedTuple):
    """A row of a listing, and what a feature part says of it."""

    path: str
    etag: str = "1"
    status: str = OK
    content: str | None = None
    label: str | None = "x"


def listing(images: Iterable[Image]) -> list[pa.RecordBatch]:
    rows = [
        {"path": each.path, "etag": each.etag, "content": each.content, "size": 10, "label": each.label}
        for each in images
    ]
    return pa.Table.from_pylist(rows, LISTING).to_batches()


def put_part(
    store: Store,
    digest: str,
    images: Sequence[Image],
    features: NDArray[np.float32] | None = None,
    name: str | None = None,
) -> str:
    """Write a feature part as a task does; return its name, which may be given."""
    rows = []
    for each in images:
        seen = {"width": 4, "height": 3} if each.status == OK else {"error": "as the test has it"}
        rows.append({"path": each.path, "etag": each.etag, "content": each.content, "status": each.status, **seen})
    if features is None:
        features = np.zeros((len(images), 3), np.float32)
    facts = pa.Table.from_pylist(rows, layout.FACTS)
    name = name or part_name(digest, facts)
    store.put(name, to_parquet(facts, features))
    return name


def footers(data: bytes) -> Iterator[bytes]:
    """A Parquet file with another letter in its footer, here and there: Arrow's schema is in letters."""
    length, generator = int.from_bytes(data[-8:-4], "little"), random.Random(0)
    for place in range(len(data) - length - 8, len(data), 3):
        yield data[:place] + generator.choice(string.ascii_letters).encode() + data[place + 1 :]
