"""Have the tables that a config names hold the published run."""

from __future__ import annotations

import re
from shlex import quote
from typing import Protocol

from fruitpipe.config import PublishConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.extras import require
from fruitpipe.result.runs import Run
from fruitpipe.storage.store import Store

COLOURS = re.compile(r"\x1b\[[\d;]*m")
"""In which delta-rs writes, whoever reads it."""


class Table(Protocol):
    """A table of another format over the Parquet files of a run."""

    @property
    def name(self) -> str:
        """For messages."""

    def check(self) -> None:
        """Find out whether it can be written to, as far as that changes nothing."""

    def hold(self, run: Run) -> None:
        """Replace its files by those of a run in one commit, unless it has them already."""


def check_tables(publish: PublishConfig, store: Store) -> None:
    """Raise UserError where a table cannot be reached, before there is anything to register."""
    for table in open_tables(publish, store):
        try:
            table.check()
        except UserError as error:
            raise UserError(f"publish: {error}") from error
        except Exception as error:
            raise UserError(f"publish: cannot reach {table.name}: {said_of(error)}.") from error


def register(publish: PublishConfig, run: Run) -> None:
    """Register the vectors of a run in each table. Raises FruitpipeError where one does not take them."""
    for table in open_tables(publish, run.store):
        try:
            table.hold(run)
        except Exception as error:
            raise FruitpipeError(
                f"run {run.id} is published, but {table.name} does not hold it: {said_of(error)}. "
                f"`fruitpipe publish {quote(run.store.url)} {run.id}` with the same config tries again."
            ) from error


def open_tables(publish: PublishConfig, store: Store) -> list[Table]:
    """Raises UserError where a library is not installed."""
    tables: list[Table] = []
    if publish.iceberg:
        require("pyiceberg", "iceberg", "publish.iceberg needs")
        from fruitpipe.catalogs.iceberg import Iceberg

        tables.append(Iceberg(publish.iceberg))
    if publish.delta:
        require("deltalake", "delta", "publish.delta needs")
        from fruitpipe.catalogs.delta import Delta

        tables.append(Delta(store.url, publish.delta.storage))
    return tables


def said_of(error: Exception) -> str:
    """What a library says, as part of a line."""
    return " ".join(COLOURS.sub("", str(error)).split()).rstrip(".") or type(error).__name__
