"""Long lists of a manifest: Parquet files beside it, so that the document that every reader takes stays small."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe.errors import FruitpipeError
from fruitpipe.source.parquet_lists import ParquetList
from fruitpipe.storage import layout
from fruitpipe.storage.file import File

LONG = 1000
"""Entries that a list in a manifest has at most: 0.2 MB, which are read nearly as fast as none, where a file beside it
costs each reader another request."""
LARGEST = 512 << 20
"""Bytes of a list in memory: several million entries, of which each takes a hundred."""
FEWER = "`fruitpipe gc OUT --delete --compact` makes few parts of many."
SCHEMAS = {
    "files": pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("rows", pa.int64()),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
        ]
    ),
    "feature_parts": pa.schema([pa.field("name", pa.string(), nullable=False)]),
}
"""Columns of the lists by their keys; entries of a list of one column are its values."""

Tree = dict[str, Any]


def without_lists(tree: Tree) -> tuple[Tree, dict[str, bytes]]:
    """A manifest in JSON with a file in the place of each long list, and what these files hold, by name in the run."""
    beside, files = {}, {}
    for key, schema in SCHEMAS.items():
        entries = tree[key]
        if len(entries) > LONG:
            name = layout.manifest_list(key)
            rows = [{"name": entry} for entry in entries] if len(schema) == 1 else entries
            table = pa.Table.from_pylist(rows, schema)
            beside[name] = packed(table)
            if table.nbytes > LARGEST or len(beside[name]) > layout.most_bytes(name):
                raise FruitpipeError(f"the run's {key} are too many to list: {len(entries)}. {FEWER}")
            files[key] = File.of(name, beside[name], len(entries)).model_dump()
    return tree | files, beside


def packed(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def with_lists(tree: Tree, find: Callable[[str], bytes | None]) -> Tree:
    """A manifest in JSON with all its lists. Raises ValueError where one is missing or damaged.

    find: what a file of the run holds, by its name; None where there is none.
    """
    return tree | {key: entries_of(key, tree[key], find) for key in SCHEMAS if isinstance(tree.get(key), Mapping)}


def entries_of(key: str, place: Mapping[str, Any], find: Callable[[str], bytes | None]) -> list[Any]:
    """A list that lies in a file."""
    file, name = File.model_validate(place), layout.manifest_list(key)
    data = find(name)
    if data is None:
        raise ValueError(f"{name} beside it, which lists its {key}, is missing")
    if File.of(name, data, file.rows) != file:
        raise ValueError(f"{name} beside it is not the list of its {key} that was written with it")
    try:
        table = unpacked(data, SCHEMAS[key])
    except layout.UNREADABLE as error:
        raise ValueError(f"{name} beside it is no list of its {key}") from error
    if len(table) != file.rows:
        raise ValueError(f"{name} beside it has {len(table)} rows, and {file.rows} were written")
    rows: list[Any] = table.to_pylist()
    return [row["name"] for row in rows] if table.num_columns == 1 else rows


def unpacked(data: bytes, schema: pa.Schema) -> pa.Table:
    """Raises one of layout.UNREADABLE where that has more bytes than LARGEST, or other columns."""
    source, batches, size = ParquetList(io.BytesIO(data)), [], 0
    if [(field.name, field.type) for field in source.schema] != [(field.name, field.type) for field in schema]:
        raise ValueError("it has other columns")
    for batch in source.batches(schema.names):
        size += batch.nbytes
        if size > LARGEST:
            raise ValueError("too large")
        batches.append(batch)
    return pa.Table.from_batches(batches, source.schema)
