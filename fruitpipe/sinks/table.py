"""The table that sinks take and readers see: path, label, vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_table(
    path: pa.ChunkedArray, label: pa.ChunkedArray, vectors: NDArray[np.float32], metadata: Mapping[str, str]
) -> pa.Table:
    """Columns path, label (may be null) and vector, a fixed-size list of k float32.

    vectors: shape (n, k).
    metadata: of the schema.
    """
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("vector", column.type, nullable=False),
        ],
        metadata=metadata,
    )
    return pa.table([path, label, column], schema=schema)


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """The vectors of such a table, shape (n, k); read-only. Raises ValueError where a number is null."""
    column = table["vector"].combine_chunks()
    numbers = column.flatten()
    if numbers.null_count:
        raise ValueError("a vector has nulls")
    # Arrow's own way to NumPy is by pandas, whose import takes as long as a search.
    found = np.frombuffer(numbers.buffers()[1], np.float32, len(numbers), 4 * numbers.offset)
    return found.reshape(len(column), column.type.list_size)
