"""Shares of rows: a task reads its own, whichever file has them, and a footer that does not grow with the tasks."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fruitpipe.objects.file import BUFFER
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.shares import SHARES, Shares, regroup

RUN = "20260101-000000-abcd"


@pytest.fixture
def shares(store: LocalStore) -> Shares:
    return Shares(store, RUN, layout.INDEX)


def batches(rows: int, together: int) -> list[pa.RecordBatch]:
    """Rows as an index has them, which cannot be compressed much."""
    chance = np.random.default_rng(0)
    columns = {
        "path": [f"{number:06} {chance.bytes(8).hex()}" for number in range(rows)],
        "label": pa.array([None if number % 3 else "x" for number in range(rows)], pa.string()),
        "part": [f"features/part-{chance.bytes(16).hex()}.parquet" for _ in range(rows)],
        "row": pa.array(chance.integers(0, 4096, rows), pa.int32()),
    }
    return pa.table(columns).to_batches(together)


@pytest.mark.parametrize("count", [1, SHARES - 1, SHARES, SHARES + 1, 3 * SHARES])
def test_every_task_reads_its_rows(shares: Shares, tmp_path: Path, count: int) -> None:
    sizes = [1 + number % 5 for number in range(count)]
    rows = batches(sum(sizes), 7)
    shares.write(rows, sizes, tmp_path)
    ends = np.cumsum([0, *sizes]).tolist()
    expected = pa.Table.from_batches(rows)
    for number, (start, end) in enumerate(pairwise(ends)):
        assert shares.read(number).equals(expected[start:end])
    files = [name for name, _ in shares.store.names(layout.work(RUN))]
    assert sorted(files) == [layout.shares(RUN, layout.INDEX, file) for file in range(-(-count // SHARES))]
    assert all(map(layout.is_ours, files))
    assert not list(tmp_path.glob("*.parquet")), "what was on the driver's disk is gone"


def test_no_rows_have_no_files(shares: Shares, tmp_path: Path) -> None:
    shares.write([], [], tmp_path)
    assert list(shares.store.names(layout.work(RUN))) == []


def test_of_however_many_shares_a_footer_is_what_a_reader_asks_for_first(shares: Shares, tmp_path: Path) -> None:
    for count in (SHARES, 5 * SHARES):
        shares.write(batches(32 * count, 4096), [32] * count, tmp_path)
        for name, _ in shares.store.names(layout.work(RUN)):
            footer = pq.read_metadata(io.BytesIO(shares.store.get(name)))
            assert footer.num_row_groups == SHARES
            assert footer.serialized_size + 8 <= BUFFER


@given(st.lists(st.integers(0, 20), max_size=12), st.data())
def test_regroup_gives_the_same_rows_in_tables_of_the_sizes_asked_for(lengths: list[int], data: st.DataObject) -> None:
    rows = list(range(sum(lengths)))
    cuts = sorted(data.draw(st.lists(st.sampled_from(rows), unique=True))) if rows else []
    bounds = sorted({0, *cuts, len(rows)})
    sizes = [end - start for start, end in pairwise(bounds)]
    ends = np.cumsum([0, *lengths])
    batches = [
        pa.RecordBatch.from_pydict({"row": pa.array(rows[start:end], pa.int64())}) for start, end in pairwise(ends)
    ]
    tables = list(regroup(batches, sizes))
    assert [len(table) for table in tables] == sizes
    assert [row for table in tables for row in table["row"].to_pylist()] == rows
    assert all(table["row"].num_chunks <= 1 for table in tables)
