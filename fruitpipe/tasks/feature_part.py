"""A feature part: one Parquet file of some images' facts and features. How large it is, how it is written, and what is
read of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError
from fruitpipe.storage import layout
from fruitpipe.storage.side_by_side import in_advance
from fruitpipe.storage.store import Store
from fruitpipe.vision.bad_image import OK, STATUSES

PLACED = layout.FACTS.append(pa.field("part", pa.string())).append(pa.field("row", pa.int32()))
"""Facts, and where they lie: the part's name and the row in it."""
SMALLEST_PART, USUAL_PART, LARGEST_PART = 32, 512, 4096
"""Rows of a part: at least, while there are so many; at most, of up to half a million images; and of however many."""
LARGEST_TASK = 1024
"""Images of a task at most that makes several parts. With an executor all of its task is lost, what is written too, and
until its end nobody hears of it."""
AHEAD = 4
"""Parts fetched before their turn: a request to a bucket is mostly waiting."""


def largest_feature_part(count: int) -> int:
    """Rows of a feature part at most, of so many images in all."""
    return min(max(count // 1000, USUAL_PART), LARGEST_PART)


def largest_task(count: int, several: bool) -> int:
    """Images of a task at most, of so many in all; several: whether it makes several parts, where these are small."""
    part = largest_feature_part(count)
    return max(LARGEST_TASK // part, 1) * part if several else part


def task_sizes(count: int, slots: int, largest: int) -> list[int]:
    """Images of each task: a share of what is left, so that tasks shrink and all slots end at nearly one time.

    Each slot's first is as small as any: soon after the start there are features, and figures of progress.
    Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers, 1987), with half a slot's share
    as in factoring (Hummel, Schonberg and Flynn, Communications of the ACM, 1992): slots differ in speed.
    """
    sizes: list[int] = []
    while count:
        share = math.ceil(count / (2 * slots)) if len(sizes) >= slots else SMALLEST_PART
        size = min(max(share, SMALLEST_PART), largest, count)
        sizes.append(size)
        count -= size
    return sizes


def part_sizes(count: int, largest: int) -> list[int]:
    """Rows of each part of a task's images: as few parts as there may be, of one size but for a row."""
    parts = math.ceil(count / largest)
    return [count // parts + (number < count % parts) for number in range(parts)]


def part_name(digest: str, facts: pa.Table) -> str:
    """Name of the part that holds these facts; digest: of the features.

    It tells contents and statuses, too: an image that is tried again, or has changed under its etag, makes another
    part, and none is ever written again with other features.
    """
    columns = (facts[name].fill_null("").to_pylist() for name in ("path", "etag", "content", "status"))
    return layout.feature_part(digest, zip(*columns, strict=True))


def to_parquet(facts: pa.Table, features: NDArray[np.float32]) -> memoryview:
    """Serialise a feature part: facts with the schema layout.FACTS, and features of shape (n, d), float32.

    The column `feature` is binary, d little-endian float32: ten times the speed of a list in Parquet. It is null where
    the status is not `ok`.
    """
    count, dimension = features.shape
    failed = np.array([status != OK for status in facts["status"].to_pylist()], bool)
    validity = pa.py_buffer(np.packbits(~failed, bitorder="little")) if failed.any() else None
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * dimension), count, [validity, pa.py_buffer(features)])
    table = facts.append_column(pa.field("feature", column.type), column)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=["status", "error", "width", "height"],
        row_group_size=LARGEST_PART,  # one, so that all facts lie beside one another and are read with one request
        write_page_checksum=True,
    )
    return memoryview(sink.getvalue())


def are_statuses(column: pa.ChunkedArray) -> bool:
    """Whether all are statuses of images: what a part says is of whoever wrote it."""
    return set(STATUSES).issuperset(column.unique().to_pylist())


def read_facts(store: Store, name: str) -> pa.Table | None:
    """The rows of a part without their features, as PLACED; None where it is damaged or none of ours."""
    try:
        with store.open(name) as file, pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True) as part:
            if part.metadata.num_rows > LARGEST_PART:
                return None
            facts = part.read(layout.FACTS.names).cast(layout.FACTS)
    except layout.UNREADABLE:
        return None
    if not are_statuses(facts["status"]):
        return None
    rows = pa.array(range(len(facts)), pa.int32())
    return facts.append_column("part", pa.repeat(name, len(facts))).append_column("row", rows).cast(PLACED)


def read_features(store: Store, parts: pa.ChunkedArray, rows: pa.ChunkedArray) -> NDArray[np.float32]:
    """Features that lie in these rows of these parts, in this order, shape (n, d), n >= 1.

    parts: names, each of which is read once, wherever its rows come in the order.
    rows: of each part, int32.

    Beside the result, one part is held unpacked, and AHEAD as they are stored.

    Raises FruitpipeError where a part is damaged.
    """
    encoded = parts.combine_chunks().dictionary_encode()
    names, part, row = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), rows.to_numpy()
    order = np.argsort(part, kind="stable")  # names are numbered as they come, so this has them all, one after another
    places = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
    found: NDArray[np.float32] | None = None
    for (name, data), chosen in zip(in_advance(store.get, names, AHEAD), places, strict=True):
        try:
            features = unpack(data.result(), row[chosen])
        except layout.UNREADABLE as error:
            raise damaged_part(store, name) from error
        if found is None:
            found = np.empty((len(row), features.shape[1]), np.float32)
        if features.shape[1] != found.shape[1]:
            raise damaged_part(store, name)
        found[chosen] = features
    assert found is not None, "there are rows"
    return found


def have_thumbnails(store: Store, parts: Iterable[str], side: int) -> list[str]:
    """Those of some parts whose images have thumbnails of this side, pixels."""
    found = {layout.of_thumbnails(name) for name, _ in store.names(layout.FEATURES)}
    return [part for part in parts if (part, side) in found]


def unpack(data: bytes, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Features in these rows of a part, shape (n, d). Raises one of layout.UNREADABLE where it is damaged."""
    part = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    if part.metadata.num_rows > LARGEST_PART:
        raise ValueError("it has too many rows")
    # One column keeps one thread busy; handing a small part to others costs half as much again.
    column = part.read(["feature"], use_threads=False)["feature"].combine_chunks()
    if not 0 <= rows.min() <= rows.max() < len(column):  # an index of facts may say anything
        raise ValueError("it has other rows")
    _, values = column.buffers()
    width = column.type.byte_width
    features = np.frombuffer(values, np.float32, len(column) * width // 4).reshape(len(column), -1)
    chosen: NDArray[np.float32] = features[rows]
    return chosen


def damaged_part(store: Store, name: str) -> FruitpipeError:
    return FruitpipeError(f"{store.location(name)} is damaged: delete it and run again.")
