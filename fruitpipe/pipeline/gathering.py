"""The facts of new feature parts, gathered into indexes, so that later plans open few objects.

Indexes grow as a log-structured merge tree does: a new one takes in those that are no larger, so that each row is
written again a few times only, and there are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fruitpipe.pipeline.known_features import KnownFeatures
from fruitpipe.result import facts_index
from fruitpipe.result.facts_index import FEWEST, LARGEST, Chosen
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import Store


def gather(known: KnownFeatures, store: Store, digest: str, scratch: Path, lease: Lease) -> None:
    """Write indexes of the parts that a plan has read themselves, if these are many, and delete needless ones.

    A crash at any moment leaves parts that no index tells of, or two that do, and the next call ends the work.

    Raises facts_index.Damaged where an index is, FruitpipeError where somebody else writes by now.
    """
    listed = dict(store.names(layout.features(digest)))
    rows = {name: count for name, count in known.unindexed.items() if name in listed}
    # Parts that were written again, with as many bytes.
    stale = [each for each in known.indexes if any(each.facts.parts.get(name) == listed[name] for name in rows)]
    store.delete_all([*known.needless, *(each.facts.name for each in stale)], lease.require_held)
    if len(rows) < FEWEST:
        return
    # What is read of others, is of parts that are as they were.
    others = [Chosen(each.facts, each.parts - rows.keys()) for each in known.indexes if each not in stale]
    for parts in chunks(rows):
        taken = taken_in(others, sum(rows[name] for name in parts))
        others = [each for each in others if each not in taken]
        held = chain(parts, *(sorted(each.parts) for each in taken))
        sizes = {name: listed[name] for name in held if name in listed}
        numbers = {name: number for number, name in enumerate(sizes)}
        fresh = known.facts_of({name: numbers[name] for name in parts})
        read = facts_index.read(store, taken, numbers)
        file = scratch / "facts.parquet"
        name = facts_index.write(file, sizes, chain(fresh, read))
        lease.require_held()
        store.upload(file, name)
        store.delete_all([each.facts.name for each in taken if each.facts.name != name], lease.require_held)


def chunks(rows: dict[str, int]) -> Iterator[list[str]]:
    """Names of parts, as many together as an index has rows. rows: of each part."""
    chunk: list[str] = []
    held = 0
    for name, count in rows.items():
        if held + count > LARGEST:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += count
    yield chunk


def taken_in(indexes: list[Chosen], rows: int) -> list[Chosen]:
    """Those of some indexes that a new one of so many rows takes in, the smallest first."""
    taken = []
    for each in sorted(indexes, key=lambda each: (each.facts.metadata.num_rows, each.facts.name)):
        more = each.facts.metadata.num_rows
        if more > rows or rows + more > LARGEST:
            break
        rows += more
        taken.append(each)
    return taken
