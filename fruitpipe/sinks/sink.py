"""The protocol of a sink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

import pyarrow as pa

from fruitpipe.config import PARQUET, SINKS
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store


class Sink(Protocol):
    """Receives the vectors of one run, part by part in tasks, and publishes them on the driver.

    Made on the driver as Sink(store, run, one_file): the result, the run's id, and whether the config asks for one file
    instead of parts. Goes to tasks as a pickle. Others than fruitpipe's own are found by entry points of the group
    `fruitpipe.sinks`, whose names are what `formats` may name.

    No reader may see a row twice, whatever happens: until `commit`, nothing that was written is for readers, and a
    run that dies after it has no manifest, so that readers either go by manifests, or the next commit takes the place
    of the last one. What a dead run has left is cleared away by `gc` where its name is of `layout.sink` or
    `layout.work`.
    """

    def write(self, number: int, table: pa.Table) -> File:
        """Take part `number`, from 0: columns path, label and vector, in order of the paths; see `to_table`.

        Called in a task, which may die amid it and be run again, here or on another machine: a part that comes again
        takes the place of the first.
        """

    def commit(self, parts: Sequence[File], scratch: Path) -> list[File]:
        """Make all parts visible at once; return the files that the manifest is to list, named by `layout.sink`.

        Called on the driver, when all parts are written and before there is a manifest.

        parts: what `write` has returned, in order of their numbers.
        scratch: an empty folder on the driver's disk, which goes away afterwards.
        """

    def abort(self) -> None:
        """Drop what was written: this run will not be published. May come at any time, with or without a commit."""


def open_sinks(formats: Iterable[str], store: Store, run: str, one_file: bool) -> tuple[Sink, ...]:
    """The sinks of a run: Parquet's, and those of further formats. Raises UserError where one cannot be imported."""
    names = dict.fromkeys([PARQUET, *formats])
    return tuple(cast(Sink, SINKS.get(name)(store, run, one_file)) for name in names)
