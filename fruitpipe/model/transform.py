"""Apply a saved model to a folder of images: one Parquet file, no Spark."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.config import S3Config, absolute_path, is_remote
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model, Vector, load_model
from fruitpipe.objects import split
from fruitpipe.scratch import private_folder
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.storage.store import check_nameable, open_store
from fruitpipe.vision.bad_image import OK

BATCH = 2048
"""Rows of a row group, where images are listed from a folder."""


def transform_folder(
    model_path: str,
    images: str,
    out: str,
    labels: Literal["parent", "none"] = "parent",
    s3: S3Config | None = None,
    backbone: str | None = None,
    others: Counter[str] | None = None,
    allow: Sequence[str] = (),
) -> dict[str, int]:
    """Write the vectors of all images of an input; return how many images came out with each status.

    Columns: path, label, status, error, vector (null where the status is not `ok`). Rows come in the order in which
    images are found. The file appears when it is whole.

    backbone: as `load_model` has it. others, allow: as `list_images` has them.

    Raises UserError where the model or the images are missing, no image could be read from a bucket, or the file cannot
    be written.
    """
    counts: Counter[str] = Counter()
    first = ""
    others = Counter() if others is None else others
    if source.searched(images) == source.searched(out):
        raise UserError(f"{out} is the list of images: name another file to write.")
    with whole_file(out, s3) as temporary:
        model = load_model(model_path, s3, backbone)
        model.require_named_code()
        schema = schema_of(model)
        s3 = s3 or S3Config()
        reader = Reader(s3, model.card.image.max_bytes, source.buckets_of([images], s3))
        listing = source.list_images(images, labels, s3=s3, batch=BATCH, others=others, allow=allow)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch, vectors in transform_batches(model, listing, reader):
                first = first or vectors[0].path
                counts.update(each.status for each in vectors)
                writer.write_table(to_table(batch, vectors, schema))
        if not counts:
            raise source.no_images([images], others)
        source.require_places(counts, first, reader)
    return dict(counts.most_common())


@contextmanager
def whole_file(out: str, s3: S3Config | None, example: str = "vectors.parquet") -> Iterator[Path]:
    """A temporary file that becomes `out` when the block succeeds, in a folder that is made where it is missing.

    example: a name that such a file may have, with the end that it must have.

    Raises UserError where it has another, or cannot be written.
    """
    key = split(out)[2] if is_remote(out) else out
    if not key:
        raise UserError(f"no file to write is named in {out!r}: name one, such as {example}.")
    if is_remote(out):
        check_nameable(out, key)
    path = absolute_path(out)
    if not is_remote(out) and path.exists() and not path.is_file():
        inside = path / example if path.is_dir() else example
        raise UserError(f"{out} exists and is not a file: name the file to write, such as {inside}.")
    if path.suffix.lower() != (suffix := Path(example).suffix):
        raise UserError(f"{out}: the output is {suffix}: name the file so, such as {example}.")
    folder, name = out.rsplit("/", 1) if is_remote(out) else (str(path.parent), path.name)
    try:
        if not is_remote(out):
            path.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(None if is_remote(out) else path.parent) as scratch:  # on the disk that it moves to
            yield scratch / example
            open_store(folder, s3).upload(scratch / example, name)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error


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


def transform_batches(
    model: Model, listing: Iterable[pa.RecordBatch], reader: Reader
) -> Iterator[tuple[pa.RecordBatch, list[Vector]]]:
    """The batches of a listing with the vectors of their images.

    One stream for all batches: each would begin with engines of its own, and end with cores that wait for the last one.
    """
    ahead: deque[pa.RecordBatch] = deque()

    def images() -> Iterator[Image]:
        for batch in listing:
            if len(batch):
                ahead.append(batch)
                yield from map(Image, *(batch[name].to_pylist() for name in Image._fields))

    vectors = model.transform_read(images(), reader)
    for first in vectors:
        batch = ahead.popleft()
        yield batch, [first, *islice(vectors, len(batch) - 1)]


def to_table(batch: pa.RecordBatch, vectors: list[Vector], schema: pa.Schema) -> pa.Table:
    nothing = np.zeros(schema.field("vector").type.list_size, np.float32)
    rows = np.stack([nothing if each.vector is None else each.vector for each in vectors])
    failed = pa.array([each.status != OK for each in vectors])
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1], mask=failed)
    return pa.table(
        [batch["path"], batch["label"], [each.status for each in vectors], [each.error for each in vectors], column],
        schema=schema,
    )
