"""What no published run of a result needs, and its removal."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from fruitpipe.objects import Forbidden
from fruitpipe.result import facts_index
from fruitpipe.result.compaction import read_merges, with_merged
from fruitpipe.result.runs import find_manifest, latest_run, require_result, run_ids
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.storage.store import Store, Upload


class Needless(NamedTuple):
    """An object that no published run needs."""

    name: str
    bytes: int


class Garbage(NamedTuple):
    """What a result holds besides what its published runs need."""

    objects: list[Needless]
    """unfinished and failed runs and neighbours, work files, temporary files, and features that no run uses"""
    uploads: list[Upload]
    """that began and never ended, of objects that fruitpipe would have made"""
    others: list[str]
    """names below its folders, and of uploads, that fruitpipe does not give, and links: left alone"""
    notes: list[str]
    """what could not be found out"""


def find_garbage(store: Store) -> Garbage:
    """What `collect` would delete. Raises UserError where there is no result, or what a run needs cannot be told."""
    require_result(store)
    # In this order, and the latest in any case: a run that is published meanwhile, or that a store lists late, is not
    # taken for one that was never published.
    found = [each for folder in layout.FOLDERS for each in store.entries(folder)]
    listed = {name.split("/")[1] for name, _ in found if name.startswith(f"{layout.RUNS}/")}
    runs = {*filter(layout.is_run, listed), *run_ids(store), *filter(None, [latest_run(store)])}
    published, used = set(), set()
    for run_id, manifest in side_by_side(partial(find_manifest, store), sorted(runs)):  # which may be long
        if manifest:
            published.add(run_id)
            used.update(manifest.feature_parts)
    used = with_merged(used, read_merges(store))

    names = {name for name, _ in found}
    sizes = {name: size for name, size in found if name in used and size is not None}
    used |= facts_index.useful(store, names, sizes)

    def is_needed(name: str) -> bool:
        folder, _, rest = name.partition("/")
        if folder == layout.FEATURES:
            part, _ = layout.of_thumbnails(name) or (name, 0)
            return part in used
        run_id = rest.partition("/")[0]
        if (record := layout.neighbours_of(name)) and record not in names:
            return False
        return run_id in published and not name.startswith(f"{layout.work(run_id)}/")

    objects: list[Needless] = []
    others: list[str] = []
    notes: list[str] = []
    uploads: list[Upload] = []
    for name, size in found:
        if size is None or not layout.is_ours(name):
            others.append(name)
        elif layout.is_partial(name) or not is_needed(name):
            objects.append(Needless(name, size))
    try:
        for upload in store.uploads():
            if layout.is_ours(upload.name):
                uploads.append(upload)
            else:
                others.append(upload.name)
    except Forbidden as error:
        notes.append(str(error))
    return Garbage(sorted(objects), uploads, sorted(others), notes)


def collect(store: Store) -> Garbage:
    """Delete the garbage and say what it was.

    Raises UserError as `find_garbage` does, or where somebody is writing, FruitpipeError where the lease was lost.
    """
    require_result(store)  # before a lease leaves its mark in somebody else's folder
    with Lease(store, "fruitpipe gc") as lease:
        found = find_garbage(store)
        # A run that took over may be publishing what was garbage.
        store.delete_all((each.name for each in found.objects), lease.require_held)
        for upload in found.uploads:
            lease.require_held()
            store.abort(upload)
    return found
