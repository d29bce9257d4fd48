"""Apply a saved model to a folder of images: one Parquet file, no Spark."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.errors import UserError
from fruitpipe.images import OK
from fruitpipe.model import Model, load_model


def transform_folder(model_path: str, images: str, out: Path, labels: str = "parent") -> dict[str, int]:
    """Write the vectors of all images below a folder; return how many images came out with each status.

    Columns: path, label, status, error, vector (null where the status is not `ok`). The file appears when it is whole.

    Raises UserError where the model or the images are missing, or the file cannot be written.
    """
    model = load_model(model_path)
    schema = schema_of(model)
    counts: Counter[str] = Counter()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in source.list_images(images, labels, batch=2048):
                table = transform_batch(model, batch, schema)
                counts.update(table["status"].to_pylist())
                writer.write_table(table)
        if not counts:
            raise UserError(f"no images in {images}.")
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return dict(counts.most_common())


def schema_of(model: Model) -> pa.Schema:
    fields = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), len(model.pca.components))),
    ]
    metadata = {"fruitpipe.model": model.card.run, "fruitpipe.components": str(len(model.pca.components))}
    return pa.schema(fields, metadata=metadata)


def transform_batch(model: Model, batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    done = list(model.transform_images(batch["path"].to_pylist()))
    nothing = np.zeros(len(model.pca.components), np.float32)
    vectors = np.stack([nothing if each.vector is None else each.vector for each in done])
    failed = pa.array([each.status != OK for each in done])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=failed)
    return pa.table(
        [batch["path"], batch["label"], [each.status for each in done], [each.error for each in done], column],
        schema=schema,
    )
