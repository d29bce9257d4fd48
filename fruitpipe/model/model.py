"""A model on disk: scaler, components and backbone, enough to turn images or features into vectors.

Loading one needs NumPy; images need Pillow and the backbone's engine besides. No Spark, no TensorFlow.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from fruitpipe.config import RECORDED, ImageConfig, S3Config
from fruitpipe.engines import Engine, EngineSpec, file_name
from fruitpipe.errors import UserError
from fruitpipe.numeric.pca import Pca, Unreduced
from fruitpipe.source import Reader
from fruitpipe.storage.store import Store, open_store

PCA, CARD = "pca.npz", "model.json"
CHUNK = 256
Place = str | os.PathLike[str]
FORMAT = 2
"""In models of format 1, images were resized before they were made grey: other pixels than now."""


class Card(BaseModel):
    """Content of `model.json`."""

    format: int = FORMAT
    run: str
    """run that fitted it"""
    backbone: str
    features: str
    """digest of the features that it takes"""
    image: ImageConfig
    images: int
    """that it was fitted on; 0 where it is unreduced"""
    reconstruction_error: float
    """mean over those images"""
    reconstruction_error_p99: float
    """99th percentile over those images"""
    extractor: str = Field(validation_alias=AliasChoices("extractor", "flatbuffer"))
    """SHA-256 of its engine's artefact"""
    engine: str = "litert"
    """kind of its engine"""
    unreduced: int | None = None
    """d of the features, where they are the vectors and there is no `pca.npz`"""


@dataclass(frozen=True, repr=False)
class Vector:
    """One image, transformed."""

    path: str
    status: str
    error: str | None
    vector: NDArray[np.float32] | None
    """(k,), None where the status is not `ok`"""

    def __repr__(self) -> str:
        found = self.error if self.vector is None else f"{len(self.vector)} numbers"
        return f"Vector({self.path!r}, {self.status}, {found})"


@dataclass(frozen=True, repr=False)
class Model:
    """A fitted model."""

    card: Card
    pca: Pca | Unreduced
    engine: EngineSpec
    backbone: str | None = None
    """package.module:Class that the caller lets it run; a model on disk may name any"""

    def __repr__(self) -> str:
        return f"Model({self.card.backbone}, {self.pca}, run {self.card.run}, {self.card.images} images)"

    def transform(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Vectors of shape (n, k) of features of shape (n, d). Raises ValueError for another d."""
        return self.pca.transform(features)

    def transform_images(
        self, paths: Place | Iterable[Place], threads: int | None = None, s3: S3Config | None = None
    ) -> Iterator[Vector]:
        """Vectors of images on disk or in buckets, in order, on all cores; a bad one gives a status and no vector.

        paths: one image, or as many as there are.

        Threads are enough, as engines, decoding and resizing let go of Python's lock: with mobilenet_v2, an image holds
        it for 8 % of its time. A class of the user's may hold it longer.

        Raises UserError where the model's backbone is a class that the caller has not named.
        """
        stream = (os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths))
        return self.transform_read(stream, Reader(s3 or S3Config(), self.card.image.max_bytes), threads)

    def transform_read(self, stream: Iterator[str], reader: Reader, threads: int | None = None) -> Iterator[Vector]:
        """As `transform_images`, of paths that a reader reads."""
        self.require_named_class()
        threads = threads or len(os.sched_getaffinity(0))
        chunks = iter(lambda: list(islice(stream, CHUNK)), [])
        with ThreadPoolExecutor(threads) as pool:
            window = [pool.submit(self._transform_chunk, chunk, reader) for chunk in islice(chunks, 2 * threads)]
            while window:
                yield from window.pop(0).result()
                window += [pool.submit(self._transform_chunk, chunk, reader) for chunk in islice(chunks, 1)]

    def _transform_chunk(self, paths: list[str], reader: Reader) -> list[Vector]:
        from fruitpipe.tasks.featurize import Image, featurize

        facts, features = featurize([Image(path) for path in paths], self._started, self.card.image, reader)
        vectors = self.transform(features)
        return [
            Vector(path, status, error, vector if status == "ok" else None)
            for path, status, error, vector in zip(paths, facts.status, facts.error, vectors, strict=True)
        ]

    def require_named_class(self) -> None:
        """Raises UserError where the model's backbone is code that the caller has not named."""
        from fruitpipe.engines.custom import class_of

        if self.engine.kind == "python" and (name := class_of(self.engine.data)) != self.backbone:
            raise UserError(
                f"the model's backbone is a class, {name}, whose code would run here: if you trust it, say so "
                f"(--backbone {name}; in Python, load_model(…, backbone={name!r}))."
            )

    @property
    def _started(self) -> Engine:
        """Engines by thread, as an interpreter is not safe to share."""
        if not hasattr(self._local, "engine"):
            self._local.engine = self.engine.start()
        return self._local.engine  # type: ignore[no-any-return]

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def files(self) -> dict[str, bytes]:
        """The model as files, by name."""
        files = {
            CARD: self.card.model_dump_json(indent=2).encode(),
            file_name(self.engine.kind): self.engine.data,
        }
        if isinstance(self.pca, Unreduced):
            return files
        arrays = io.BytesIO()
        np.savez(arrays, **vars(self.pca))
        return {PCA: arrays.getvalue(), **files}


def load_model(path: str | os.PathLike[str], s3: S3Config | None = None, backbone: str | None = None) -> Model:
    """Load a model folder, as in `OUT/runs/<run>/model`, on disk or in a bucket.

    backbone: package.module:Class, where that of the model is a class that may run.

    Raises UserError where it is none, or not a whole one.
    """
    return read_model(open_store(os.fspath(path), s3), backbone=backbone)


def read_model(store: Store, folder: str = "", backbone: str | None = None) -> Model:
    """Load a model from a folder of a store. Raises UserError as `load_model` does."""
    path = store.location(folder)

    def read(name: str) -> bytes:
        if (data := store.find(f"{folder}/{name}".strip("/"))) is None:
            raise UserError(
                f"{path} is no model: it has no {name}. Give a folder such as OUT/runs/RUN/model; "
                "`fruitpipe runs OUT` lists runs."
            )
        return data

    try:
        card = Card.model_validate_json(read(CARD), context=RECORDED)
        pca = Unreduced(card.unreduced) if card.unreduced else read_pca(read(PCA))
        engine = EngineSpec(card.engine, read(file_name(card.engine)))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(f"cannot read the model {path}: {CARD}: {where}: {wrong['msg']}.") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"cannot read the model {path}: {str(error).splitlines()[0]}.") from error
    if card.format < FORMAT and card.image.grey:
        raise UserError(f"{path} takes grey images as an earlier fruitpipe made them: run again with model: fit.")
    if engine.digest != card.extractor:
        raise UserError(f"cannot read the model {path}: {file_name(card.engine)} is damaged.")
    return Model(card, pca, engine, backbone)


def read_pca(data: bytes) -> Pca:
    """Read a Pca from the bytes of `pca.npz`. Raises NumPy's errors where they are damaged."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Pca(**{name: arrays[name] for name in Pca.__dataclass_fields__})
