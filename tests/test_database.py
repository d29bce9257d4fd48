"""The plan's database."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

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
