"""Compaction: small feature parts of a result that grew in increments are merged into larger ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pydantic import BaseModel

from fruitpipe.errors import FruitpipeError
from fruitpipe.result import facts_index
from fruitpipe.storage import layout
from fruitpipe.storage.document import damaged, find_document
from fruitpipe.storage.file import File, named
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import (
    LARGEST_PART,
    PLACED,
    damaged_part,
    part_name,
    read_facts,
    read_features,
    to_parquet,
)
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.thumbnails import Sheet, cells

SMALL = LARGEST_PART // 2
"""Parts with fewer rows are merged. Merged ones have as many or more, so that a second time there is nothing to do."""
BATCH = 8 * LARGEST_PART
"""Rows that are put in order together."""


class Merge(BaseModel):
    """The record of a merge: written when the new parts are there and before the old ones go.

    Manifests are never written again. What a published run needs of the old parts, it needs of the new ones.
    """

    parts: list[Annotated[File, named(layout.is_feature_part)]]
    """the new parts, named as objects of the result"""
    replaced: list[Annotated[str, layout.checked(layout.is_feature_part)]]
    """names of the old ones"""


class Part(NamedTuple):
    """A small feature part and its place in the order of merging."""

    first: str
    """path of its first image, as far as its file says it"""
    name: str
    rows: int
    sides: tuple[int, ...] = ()
    """of the thumbnails that its images have: parts with others are not merged with it"""


def compact(store: Store) -> list[Merge]:
    """Merge small feature parts and say which became which. Vectors of later runs stay what they are, to the bit.

    A crash at any moment loses nothing: the next call goes on.

    Raises UserError where somebody is writing, FruitpipeError where a part is damaged.
    """
    done = []
    with Lease(store, "fruitpipe gc --compact") as lease:
        objects = by_part(name for name, _ in store.names(layout.FEATURES))
        for each in read_merges(store):
            left = [name for name in each.replaced if name in objects]  # by a crash
            if left and are_intact(store, each.parts):
                store.delete_all(with_thumbnails(held_elsewhere(store, left, each.parts), objects), lease.require_held)
        for folder in store.folders(layout.FEATURES):
            parts = small_parts(store, folder)
            for sides in sorted({part.sides for part in parts}):
                for batch in batches(part for part in parts if part.sides == sides):
                    made = merge_batch(store, folder, batch, lease.require_held)
                    store.delete_all(with_thumbnails(made.replaced, objects), lease.require_held)
                    done.append(made)
        listed = dict(store.names(layout.FEATURES))
        needless = set(filter(layout.is_facts_index, listed)) - facts_index.useful(store, listed, listed)
        store.delete_all(sorted(needless), lease.require_held)
    return done


def by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of objects, by the feature part that each is or whose thumbnails it has."""
    found: dict[str, list[str]] = {}
    for name in names:
        part, _ = layout.of_thumbnails(name) or (name, 0)
        found.setdefault(part, []).append(name)
    return found


def with_thumbnails(parts: Iterable[str], objects: dict[str, list[str]]) -> list[str]:
    """Those of some parts that are there, and their thumbnails, sorted. objects: as `by_part` has them."""
    return sorted(name for part in parts for name in objects.get(part, ()))


def read_merges(store: Store) -> list[Merge]:
    """The merges that there have been, as far as their parts may be needed. Raises UserError where one is damaged."""
    names = [name for name, _ in store.names(layout.FEATURES) if layout.is_merge(name)]
    return [merge for _, merge in side_by_side(partial(read_merge, store), names) if merge]


def read_merge(store: Store, name: str) -> Merge | None:
    """The merge that a record tells of; None where it is gone since."""
    merge = find_document(store, name, Merge)
    if merge and (not merge.replaced or layout.merge_record(merge.replaced) != name):
        raise damaged(store, name, "it tells of other parts than its name says")
    return merge


def with_merged(names: Iterable[str], merges: Iterable[Merge]) -> set[str]:
    """Names of feature parts, and of all that stands for them since: merged parts, and the records that say so."""
    found, before = set(names), -1
    while len(found) > before:  # merged parts may have been merged again
        before = len(found)
        for each in merges:
            if not found.isdisjoint(each.replaced):
                found |= {layout.merge_record(each.replaced), *(part.name for part in each.parts)}
    return found


def small_parts(store: Store, folder: str) -> list[Part]:
    """The small parts of a folder below `features`, ordered by their first images."""
    names = [name for name, _ in store.names(f"{layout.FEATURES}/{folder}")]
    sides: dict[str, list[int]] = {}
    for part, side in filter(None, map(layout.of_thumbnails, names)):
        sides.setdefault(part, []).append(side)
    parts = side_by_side(partial(part_of, store), filter(layout.is_feature_part, names))
    return sorted(part._replace(sides=tuple(sorted(sides.get(name, ())))) for name, part in parts if part.rows < SMALL)


def part_of(store: Store, name: str) -> Part:
    """Raises FruitpipeError where the part is damaged."""
    try:
        with store.open(name) as file, pq.ParquetFile(file, page_checksum_verification=True) as part:
            rows = part.metadata.num_rows
            # Not the statistics of the file: where these are damaged, pyarrow ends the process.
            first = pc.min(part.read(["path"])["path"]).as_py() if rows < SMALL else None
            return Part(str(first or ""), name, rows)
    except layout.UNREADABLE as error:
        raise damaged_part(store, name) from error


def batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts that are merged with one another, at most BATCH rows of them."""
    batch: list[Part] = []
    for part in parts:
        if sum(each.rows for each in batch) + part.rows > BATCH:
            yield batch
            batch = []
        batch.append(part)
    if len(batch) > 1:
        yield batch


def merge_batch(store: Store, folder: str, batch: list[Part], before: Callable[[], None]) -> Merge:
    """Write the rows of some parts, ordered by path, as parts of nearly one size, and then the record of it.

    before: called before that, by which the old parts may go.
    """
    rows = rows_of(store, batch)
    count = math.ceil(len(rows) / LARGEST_PART)
    parts = []
    for number in range(count):
        start, end = (len(rows) * each // count for each in (number, number + 1))
        facts = rows[start:end]
        data = to_parquet(facts.select(layout.FACTS.names), read_features(store, facts["part"], facts["row"]))
        name = part_name(folder, facts)
        for side in batch[0].sides:
            store.put(layout.thumbnails(name, side), merge_thumbnails(store, batch, facts, side))
        store.put(name, data)
        parts.append(File.of(name, data, len(facts)))
    if not are_intact(store, parts):
        raise FruitpipeError(
            f"{store.url} does not hold what was just written there: check its disk or server. Nothing is lost."
        )
    made = Merge(parts=parts, replaced=sorted({part.name for part in batch} - {part.name for part in parts}))
    before()
    store.put(layout.merge_record(made.replaced), made.model_dump_json().encode())
    return made


def merge_thumbnails(store: Store, batch: list[Part], facts: pa.Table, side: int) -> bytes:
    """Thumbnails of the images of a new part, whose facts say in which old ones they are.

    Raises FruitpipeError where some are damaged.
    """
    sheet, part = Sheet(len(facts), side), np.array(facts["part"].to_pylist())
    for old in batch:
        places, name = np.flatnonzero(part == old.name), layout.thumbnails(old.name, side)
        if not len(places):
            continue
        try:
            found = cells(store.get(name), old.rows, side)
        except BadImage as error:
            raise damaged_part(store, name) from error
        for place, row in zip(places.tolist(), facts["row"].take(places).to_pylist(), strict=True):
            sheet.place(place, Image.fromarray(found[row]))
    return sheet.encoded()


def rows_of(store: Store, batch: list[Part]) -> pa.Table:
    """The rows of some parts, as PLACED, ordered by path; of those that say the same, the first.

    There are such where a merge was interrupted and a run published meanwhile.

    Raises FruitpipeError where a part is damaged.
    """
    tables = []
    for name, facts in side_by_side(partial(read_facts, store), [part.name for part in batch]):
        if facts is None:
            raise damaged_part(store, name)
        tables.append(facts)
    rows = pa.concat_tables(tables).group_by(layout.FACTS.names, use_threads=False)
    distinct = rows.aggregate([("part", "first"), ("row", "first")]).rename_columns(PLACED.names).cast(PLACED)
    return distinct.sort_by([("path", "ascending"), ("etag", "ascending"), ("part", "ascending"), ("row", "ascending")])


def held_elsewhere(store: Store, left: Iterable[str], merged: Iterable[File]) -> list[str]:
    """Those parts that hold nothing but what merged ones do; or nothing that can be read.

    Names did not always tell all of what parts hold: a run may have written one again, with other rows.
    """
    there = set(chain.from_iterable(rows_in(read_facts(store, part.name)) for part in merged))
    return [name for name in left if rows_in(read_facts(store, name)) <= there]


def rows_in(facts: pa.Table | None) -> set[tuple[Any, ...]]:
    """The rows of a part, without their places; none of a damaged one."""
    return set(zip(*(facts[name].to_pylist() for name in layout.FACTS.names), strict=True)) if facts else set()


def are_intact(store: Store, parts: Iterable[File]) -> bool:
    """Whether parts are there as they were written."""
    return all(
        (data := store.find(part.name)) is not None and File.of(part.name, data, part.rows) == part for part in parts
    )
