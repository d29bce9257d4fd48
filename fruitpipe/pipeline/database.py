"""A database on the driver's disk: DuckDB, with tables of Arrow in and out, in memory that its rows do not fit into."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fruitpipe.errors import FruitpipeError, first_line
from fruitpipe.tasks.feature_part import LARGEST_PART
from fruitpipe.tasks.shares import Shares
from fruitpipe.workers.allowance import memory
from fruitpipe.workers.failures import full_disk

MEMORY, MEMORY_OF_ROW = 600_000_000, 10
"""Bytes that it may take, and those for a row of its largest table where that is more: of a join on disk, one part of
some dozens is held. Twenty million rows need 120 MB at least (`benchmarks/planning.py`)."""
KEY = "md5_number(path) AS key"
"""By which tables are joined instead of paths: what is held is short."""

MORE_DISK = "make room for temporary files, or name another place for them by TMPDIR, on Kubernetes by driver.scratch"
MORE_MEMORY = (
    f"plan fewer images at once or, if they are more than {MEMORY // MEMORY_OF_ROW // 1_000_000} million, give this "
    "machine more memory, on Kubernetes by driver.memoryOverhead"
)
"""For fewer, it takes MEMORY however much there is."""


class Database:
    """Tables in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.schema = "main"
        """of the tables that are made"""
        self._scratch = scratch
        settings: dict[str, Any] = {"memory_limit": f"{MEMORY}B", "temp_directory": str(scratch / "spill")}
        self._connection = duckdb.connect(str(scratch / "plan.duckdb"), config=settings)
        self.execute("SET enable_external_access = false")  # no statement reads or writes a file of its own
        # It would go to standard output, among our JSON. In a notebook without ipywidgets it is off, and cannot be set.
        if self.row("SELECT current_setting('enable_progress_bar')")[0]:
            self.execute("SET enable_progress_bar = false")

    def close(self) -> None:
        self._connection.close()

    def beside(self, name: str) -> Database:
        """The same tables and others beside them; it is closed before this one. name: of letters and figures."""
        other = copy.copy(self)
        other.schema, other._connection = f"of_{name}", self._connection.cursor()
        other.execute(f"CREATE SCHEMA {other.schema}; SET search_path = '{other.schema},main'")
        return other

    def expect(self, rows: int) -> None:
        """Take the memory that its largest table needs, of so many rows, up to half of what there is for all."""
        wanted = min(MEMORY_OF_ROW * rows, memory() // 2)
        self.execute(f"SET memory_limit = '{max(MEMORY, wanted)}B'")

    @contextmanager
    def right_side_held(self) -> Iterator[None]:
        """Joins hold the right one of two tables and stream the other, as they are written, for a while.

        Of the whole database: not while another thread asks it.
        """
        self.execute("SET disabled_optimizers = 'build_side_probe_side'")
        try:
            yield
        finally:
            self.execute("RESET disabled_optimizers")

    def execute(self, statements: str) -> None:
        """Raises FruitpipeError where memory or disk does not suffice, as `row`, `rows` and `stream` do."""
        with in_our_words():
            self._connection.execute(statements)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows, of which there are few."""
        with in_our_words():
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The only row."""
        (row,) = self.rows(query, *values)
        return row

    def batches(self, query: str) -> pa.RecordBatchReader:
        """Rows, however many there are. They raise FruitpipeError as `execute` does."""
        with in_our_words():
            reader = self._connection.sql(query).to_arrow_reader(LARGEST_PART)

        def told() -> Iterator[pa.RecordBatch]:
            with in_our_words():
                yield from reader

        return pa.RecordBatchReader.from_batches(reader.schema, told())

    def write(self, query: str, sizes: Sequence[int], shares: Shares) -> None:
        """Put rows, in their order, as shares of these sizes."""
        shares.write(self.batches(query), sizes, self._scratch)

    @contextmanager
    def table(self, name: str, table: pa.Table) -> Iterator[None]:
        """A small table, for a while."""
        self._connection.register(name, table)
        try:
            yield
        finally:
            self._connection.unregister(name)

    def stream(self, statement: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Execute a statement that takes batches for its table `stream`."""
        failure: list[BaseException] = []

        def guarded() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except BaseException as error:  # Ctrl-C, too
                failure.append(error)
                raise

        self._connection.register("stream", pa.RecordBatchReader.from_batches(schema, guarded()))
        try:
            with in_our_words():
                self._connection.execute(statement)
        except duckdb.Error as error:
            # DuckDB wraps what a stream raises; whoever listed the images knows better what to say.
            raise failure[0] if failure else error from None
        finally:
            self._connection.unregister("stream")


@contextmanager
def in_our_words() -> Iterator[None]:
    """Tell of memory or disk that does not suffice, and of Ctrl-C as Python does."""
    try:
        yield
    except RuntimeError as error:
        if "Query interrupted" in str(error):
            raise KeyboardInterrupt from error
        raise
    except (duckdb.OperationalError, OSError) as error:  # as OSError, where Arrow was reading already
        said = first_line(error).rstrip(".")
        if "failed to offload" in said or full_disk(said):
            raise FruitpipeError(f"the plan needs more disk space ({said}): {MORE_DISK}.") from error
        if "Out of Memory Error" in said:
            raise FruitpipeError(f"the plan needs more memory ({said}): {MORE_MEMORY}.") from error
        raise
