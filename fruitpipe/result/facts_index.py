"""Indexes of facts: what many feature parts say of their images in few objects, so that a plan need not open them all.

An index is a copy and nothing else. It is put whole and never changed. It holds for a part as long as that has the size
which it had; what no index holds for is read from the parts, so that an index may be damaged, late or gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.storage import layout
from fruitpipe.storage.side_by_side import in_advance, side_by_side
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import LARGEST_PART, are_statuses

NUMBERED = layout.FACTS.append(pa.field("part", pa.int32(), nullable=False)).append(
    pa.field("row", pa.int32(), nullable=False)
)
"""Facts, and where they lie: the part by a number, and the row in it."""
LARGEST = 1 << 22
"""Rows of an index, at most."""
ROW_GROUP = 1 << 17
FEWEST = 32
"""Parts without an index for which it is worth to write one."""
AHEAD = 4
"""Row groups read before their turn."""
PARTS = b"fruitpipe.parts"
"""Key of a file's metadata: digests and sizes of the parts that it holds, in order of their numbers."""


class FactsIndex(NamedTuple):
    """An index, as far as its footer tells."""

    name: str
    parts: dict[str, int]
    """names of the parts that it holds, in order of their numbers, and their sizes in bytes"""
    metadata: pq.FileMetaData


class Chosen(NamedTuple):
    """An index that is of use, and for which parts."""

    facts: FactsIndex
    parts: set[str]


def write(path: Path, parts: Mapping[str, int], batches: Iterable[pa.RecordBatch]) -> str:
    """Write an index to a local file; returns the name under which it belongs into the result.

    parts: names and sizes of all that it holds, of one folder, in order of their numbers.
    batches: of NUMBERED.
    """
    with pq.ParquetWriter(
        path,
        NUMBERED,
        compression="zstd",
        compression_level=1,
        use_dictionary=["status", "error", "width", "height", "part"],
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for batch in batches:
            writer.write_batch(batch, ROW_GROUP)
        listed = " ".join(f"{layout.rows_digest(name)} {size}" for name, size in parts.items())
        writer.add_key_value_metadata({PARTS.decode(): listed})
    return layout.facts_index(parts)


def find(store: Store, names: Iterable[str]) -> tuple[list[FactsIndex], list[str]]:
    """Those of some indexes that can be read, and the names of those that cannot. One that is gone is neither."""
    opened = list(side_by_side(partial(_open, store), names))
    found = [index for _, index in opened if isinstance(index, FactsIndex)]
    return found, [name for name, index in opened if index == "damaged"]


def _open(store: Store, name: str) -> FactsIndex | str:
    try:
        with store.open(name) as file, pq.ParquetFile(file) as opened:
            metadata = opened.metadata
        words = metadata.metadata[PARTS].decode("ascii").split()
        folder = name.split("/")[1]
        digests, sizes = words[::2], [int(word) for word in words[1::2]]
        parts = dict(zip((layout.part(folder, digest) for digest in digests), sizes, strict=True))
        for part in parts:
            layout.require(layout.is_feature_part, part)
        if layout.facts_index(parts) != name or metadata.num_rows > LARGEST:
            return "damaged"
    except FileNotFoundError:
        return "gone"
    except (*layout.UNREADABLE, LookupError, TypeError):  # or what it has read leads to
        return "damaged"
    return FactsIndex(name, parts, metadata)


def choose(indexes: Iterable[FactsIndex], live: Mapping[str, int]) -> list[Chosen]:
    """Indexes by which to read parts, the largest first; no part by two of them.

    One that would help with fewer than half of the parts that it holds is not chosen.

    live: names and sizes of the parts that there are.
    """
    found: list[Chosen] = []
    taken: set[str] = set()
    holding = [(index, {name for name, size in index.parts.items() if live.get(name) == size}) for index in indexes]
    for index, parts in sorted(holding, key=lambda each: (-len(each[1]), each[0].name)):
        left = parts - taken
        if 2 * len(left) >= len(index.parts):
            found.append(Chosen(index, left))
            taken |= left
    return found


def useful(store: Store, names: Iterable[str], live: Mapping[str, int]) -> set[str]:
    """The names of those of some objects that are indexes and of use for parts of these names and sizes."""
    indexes, _ = find(store, filter(layout.is_facts_index, names))
    return {each.facts.name for each in choose(indexes, live)}


def read(store: Store, chosen: Iterable[Chosen], numbers: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """What indexes say of the parts that they were chosen for, as batches of NUMBERED.

    numbers: to give the parts; rows of a part without one are left out.

    Raises Damaged.
    """

    def groups() -> Iterator[tuple[FactsIndex, int, NDArray[np.int32]]]:
        for index, parts in chosen:
            given = np.array([numbers.get(name, -1) if name in parts else -1 for name in index.parts], np.int32)
            yield from ((index, group, given) for group in range(index.metadata.num_row_groups))

    for _, table in in_advance(lambda group: _read_group(store, *group), groups(), AHEAD):
        yield from table.result().to_batches()


class Damaged(Exception):
    """An index that can be read no further; its name is the only argument."""


def _read_group(store: Store, index: FactsIndex, group: int, numbers: NDArray[np.int32]) -> pa.Table:
    """A row group, without the rows of parts whose number is -1."""
    try:
        with (
            store.open(index.name) as file,
            pq.ParquetFile(file, metadata=index.metadata, pre_buffer=True, page_checksum_verification=True) as opened,
        ):
            table = opened.read_row_group(group, NUMBERED.names, use_threads=False).cast(NUMBERED)
        part, row = (table[name].to_numpy() for name in ("part", "row"))
        if not are_statuses(table["status"]):
            raise Damaged(index.name)
        if len(table) and (min(part.min(), row.min()) < 0 or part.max() >= len(numbers) or row.max() >= LARGEST_PART):
            raise Damaged(index.name)
    except layout.UNREADABLE as error:  # or it is gone since
        raise Damaged(index.name) from error
    renumbered = numbers[part]
    table = table.set_column(NUMBERED.get_field_index("part"), NUMBERED.field("part"), pa.array(renumbered))
    return table if (renumbered >= 0).all() else table.filter(pc.greater_equal(table["part"], 0))
