"""Apply a saved model to a folder of images: one Parquet file, no Spark."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.config import S3Config, is_remote, local_path
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model, load_model
from fruitpipe.storage.store import open_store
from fruitpipe.vision.decode import OK


def transform_folder(
    model_path: str,
    images: str,
    out: str,
    labels: Literal["parent", "none"] = "parent",
    s3: S3Config | None = None,
    backbone: str | None = None,
) -> dict[str, int]:
    """Write the vectors of all images of an input; return how many images came out with each status.

    Columns: path, label, status, error, vector (null where the status is not `ok`). The file appears when it is whole.

    backbone: as `load_model` has it.

    Raises UserError where the model or the images are missing, or the file cannot be written.
    """
    model = load_model(model_path, s3, backbone)
    model.check_class()
    schema = schema_of(model)
    counts: Counter[str] = Counter()
    with whole_file(out, s3) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in source.list_images(images, labels, s3=s3, batch=2048):
                table = transform_batch(model, batch, schema, s3)
                counts.update(table["status"].to_pylist())
                writer.write_table(table)
        if not counts:
            raise UserError(f"no images in {images}.")
    return dict(counts.most_common())


@contextmanager
def whole_file(out: str, s3: S3Config | None) -> Iterator[Path]:
    """A file to write to, that becomes `out` when all went well. Raises UserError where it cannot."""
    path = Path(local_path(out)).absolute()
    folder, name = out.rsplit("/", 1) if is_remote(out) else (str(path.parent), path.name)
    temporary = Path(tempfile.gettempdir() if is_remote(out) else folder) / f".{name}.{os.getpid()}.tmp"
    try:
        yield temporary
        open_store(folder, s3).upload(temporary, name)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def schema_of(model: Model) -> pa.Schema:
    fields = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), model.pca.length)),
    ]
    metadata = {"fruitpipe.model": model.card.run, "fruitpipe.components": str(model.pca.length)}
    return pa.schema(fields, metadata=metadata)


def transform_batch(model: Model, batch: pa.RecordBatch, schema: pa.Schema, s3: S3Config | None) -> pa.Table:
    done = list(model.transform_images(batch["path"].to_pylist(), s3=s3))
    nothing = np.zeros(model.pca.length, np.float32)
    vectors = np.stack([nothing if each.vector is None else each.vector for each in done])
    failed = pa.array([each.status != OK for each in done])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=failed)
    return pa.table(
        [batch["path"], batch["label"], [each.status for each in done], [each.error for each in done], column],
        schema=schema,
    )
