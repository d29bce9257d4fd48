"""The plan's database."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from fruitpipe.pipeline.database import Database

LONG = "SELECT sum(one.range * other.range % 7) FROM range(100_000) one, range(100_000) other"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path)
    yield made
    assert made.row("SELECT 1") == (1,), "it can be asked again"
    made.close()


@pytest.mark.parametrize(
    "statement",
    ["COPY (SELECT 1) TO '{}'", "CREATE TABLE t AS FROM read_csv('{}')", "ATTACH '{}' AS other", "INSTALL httpfs"],
)
def test_no_statement_reaches_a_file(statement: str, database: Database, tmp_path: Path) -> None:
    """What a foreign result says becomes part of none; if it ever did, it would go no further."""
    (file := tmp_path / "theirs").write_text("1\n")
    with pytest.raises(duckdb.PermissionException):
        database.execute(statement.format(file))
    assert file.read_text() == "1\n"


def test_ctrl_c_amid_a_query_is_ctrl_c(database: Database) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        database.execute(f"CREATE TABLE numbers AS {LONG}")


def test_ctrl_c_while_rows_come_is_ctrl_c(database: Database) -> None:
    schema = pa.schema([("number", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(10):
            if number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield pa.record_batch([[number]], schema)

    with pytest.raises(KeyboardInterrupt):
        database.stream("CREATE TABLE numbers AS FROM stream", schema, batches())
