"""A model on disk: scaler, components and backbone, enough to turn images or features into vectors.

Loading one needs NumPy; images need Pillow and the backbone's engine besides. No Spark, no TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field, FiniteFloat

from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.engines import Engine, EngineSpec, file_name
from fruitpipe.engines.custom import class_of
from fruitpipe.engines.package import TEXT
from fruitpipe.errors import FruitpipeError, UserError, first_line, in_words
from fruitpipe.numeric.arrays import read_arrays
from fruitpipe.numeric.pca import Linear, Pca, Unreduced
from fruitpipe.source import Reader
from fruitpipe.storage.document import find_document
from fruitpipe.storage.layout import RunId
from fruitpipe.storage.store import Store, open_store
from fruitpipe.thread_pool import thread_pool
from fruitpipe.workers.allowance import cores

if TYPE_CHECKING:  # not all who load a model need these
    from fruitpipe.engines.text import TextEncoder
    from fruitpipe.source.fetching import Image

PCA, CARD = "pca.npz", "model.json"
CHUNK = 256
Place = str | os.PathLike[str]
FORMAT = 2
"""In models of format 1, images were resized before they were made grey: other pixels than now."""


class Card(BaseModel):
    """Content of `model.json`."""

    format: int = FORMAT
    run: RunId
    """that fitted it"""
    backbone: str
    features: str
    """digest of the features that it takes"""
    image: ImageConfig
    images: int
    """that it was fitted on; 0 where it is unreduced"""
    reconstruction_error: FiniteFloat
    """mean over those images"""
    reconstruction_error_p99: FiniteFloat
    """99th percentile over those images"""
    extractor: str = Field(validation_alias=AliasChoices("extractor", "flatbuffer"))
    """SHA-256 of its engine's artefact"""
    engine: str = "litert"
    """kind of its engine"""
    text: str | None = None
    """SHA-256 of the package of its text tower; None where it has none"""
    unreduced: int | None = Field(None, ge=1)
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

    @classmethod
    def of(cls, path: str, vector: NDArray[np.float32]) -> Vector:
        """Of an image that has a feature; rejected where a number of its vector is beyond float32."""
        if np.isfinite(vector).all():
            return cls(path, "ok", None, vector)
        return cls(path, "rejected", "its feature is too far from those of the fit: the vector is beyond float32", None)


@dataclass(frozen=True, repr=False)
class Model:
    """A fitted model."""

    card: Card
    pca: Pca | Unreduced
    engine: EngineSpec
    backbone: str | None = None
    """package.module:Class of code that the caller lets it run; a model on disk may name any"""
    text: Callable[[], bytes] | None = None
    """reads the package of its text tower, which nothing else needs"""

    def __repr__(self) -> str:
        return f"Model({self.card.backbone}, {self.pca}, run {self.card.run}, {self.card.images} images)"

    def transform(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Vectors of shape (n, k) of features of shape (n, d).

        Raises ValueError for another d, and where a number of a vector is beyond float32.
        """
        return self.pca.transform(features)

    def transform_images(
        self, paths: Place | Iterable[Place], threads: int | None = None, s3: S3Config | None = None
    ) -> Iterator[Vector]:
        """Vectors of images on disk or in buckets, in order, on all cores; a bad one gives a status and no vector.

        paths: one image, or as many as there are.

        Threads are enough, as engines, decoding and resizing let go of Python's lock: with mobilenet_v2, an image holds
        it for 8 % of its time. A class of the user's may hold it longer.

        Raises UserError where the model would run code that the caller has not named, or its parts do not fit.
        """
        from fruitpipe.source.fetching import Image

        images = (Image(os.fspath(path)) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths))
        return self.transform_read(images, Reader(s3 or S3Config(), self.card.image.max_bytes), threads)

    def transform_read(self, images: Iterator[Image], reader: Reader, threads: int | None = None) -> Iterator[Vector]:
        """As `transform_images`, of images that a reader reads."""
        self.require_named_code()
        threads = threads or cores()
        chunks = iter(lambda: list(islice(images, CHUNK)), [])
        with thread_pool(threads) as pool:
            window = [pool.submit(self._transform_chunk, chunk, reader) for chunk in islice(chunks, 2 * threads)]
            while window:
                yield from window.pop(0).result()
                window += [pool.submit(self._transform_chunk, chunk, reader) for chunk in islice(chunks, 1)]

    def _transform_chunk(self, images: list[Image], reader: Reader) -> list[Vector]:
        from fruitpipe.tasks.featurize import featurize
        from fruitpipe.vision.bad_image import OK

        facts, features = featurize(images, self._started, self.card.image, reader)
        vectors, _ = self.pca.transform_with_error(features)
        return [
            Vector.of(image.path, vector) if status == OK else Vector(image.path, status, error, None)
            for image, status, error, vector in zip(images, facts.status, facts.error, vectors, strict=True)
        ]

    def transform_bytes(self, data: bytes) -> Vector:
        """The vector of an image's bytes, whose path is empty. May be called by many threads at once.

        Raises UserError as `transform_images` does.
        """
        from fruitpipe.tasks.featurize import inferred, pictures_of, place
        from fruitpipe.vision.bad_image import BadImage
        from fruitpipe.vision.decode import Look

        self.require_named_code()
        engine = self._started
        pixels = np.empty((1, engine.side, engine.side, 3), np.uint8)
        features = np.zeros((1, engine.dimension), np.float32)
        (picture,) = pictures_of(data, [Look(engine.side, self.card.image)])
        (bad,) = inferred(engine, pixels, [place(pixels[0], picture)], features)
        if isinstance(bad, BadImage):
            return Vector("", bad.status, str(bad), None)
        return Vector.of("", self.pca.transform_with_error(features)[0][0])

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text tower. Belongs to one thread. Raises UserError where there is none, or it does not start."""
        from fruitpipe.engines.text import TextEncoder

        if self.text is None:
            raise UserError(
                f"the model of run {self.card.run} was made without a text tower, and texts need one: run with a "
                "network whose sidecar has `text`, such as CLIP's."
            )
        try:
            found = TextEncoder(self.text())
        except FruitpipeError:
            raise
        except Exception as error:  # whatever a library says of an artefact that somebody else has made
            raise UserError(
                f"cannot run {TEXT} of the model: {first_line(error)}. It is damaged: take another model."
            ) from error
        if found.dimension != self.pca.width:
            raise UserError(
                f"the model takes {self.pca.width} features, and its text tower gives {found.dimension}: it was put "
                "together from two models. Take another one."
            )
        return found

    def cosines(self, texts: Sequence[str]) -> Linear:
        """What the vector of an image tells of the cosine of its feature to each text.

        Raises UserError where there is no text tower, or a text has no direction.
        """
        return self.pca.products(self.encoder.vectors(texts))

    def require_named_code(self) -> None:
        """Raises UserError where the model's engine is code of others that the caller has not named."""
        if (code := self.engine.code) not in {None, self.backbone}:
            raise UserError(
                f"the model's backbone is a class, {code}, whose code would run here: if you trust it, say so "
                f"(--backbone {code}; in Python, load_model(…, backbone={code!r}))."
            )

    @property
    def _started(self) -> Engine:
        """Engines by thread, as an interpreter is not safe to share."""
        if not hasattr(self._local, "engine"):
            engine = self.engine.start()
            if engine.dimension != self.pca.width:
                raise UserError(
                    f"the model takes {self.pca.width} features, and its backbone gives {engine.dimension}: it was put "
                    "together from two models. Take another one."
                )
            self._local.engine = engine
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
        if self.text:
            files[TEXT] = self.text()
        arrays = self.arrays
        return files if arrays is None else {PCA: arrays, **files}

    @property
    def arrays(self) -> bytes | None:
        """Content of `pca.npz`; None where it is unreduced."""
        if isinstance(self.pca, Unreduced):
            return None
        file = io.BytesIO()
        np.savez(file, **vars(self.pca))
        return file.getvalue()


def load_model(path: str | os.PathLike[str], s3: S3Config | None = None, backbone: str | None = None) -> Model:
    """Load a model folder, as in `OUT/runs/<run>/model`, on disk or in a bucket.

    backbone: package.module:Class, where that of the model is a class that may run.

    Raises UserError if the folder is not a complete model.
    """
    return read_model(open_store(os.fspath(path), s3), backbone=backbone)


def read_model(store: Store, folder: str = "", backbone: str | None = None) -> Model:
    """Load a model from a folder of a store. Raises UserError as `load_model` does."""
    path = store.location(folder)

    def within(name: str) -> str:
        return f"{folder}/{name}".strip("/")

    def missing(name: str) -> UserError:
        return UserError(
            f"{path} is not a model: it has no {name}. Give a folder such as OUT/runs/RUN/model; `fruitpipe runs OUT` "
            "lists runs."
        )

    name = CARD
    try:
        if (card := find_document(store, within(CARD), Card)) is None:
            raise missing(CARD)
        name = PCA
        pca = Unreduced(card.unreduced) if card.unreduced else read_pca(store, within(PCA))
        name = file_name(card.engine)
        engine = read_engine(store, within(name), card)
    except FileNotFoundError:
        raise missing(name) from None
    except (OSError, ValueError) as error:
        said = in_words(error) if isinstance(error, OSError) else f"{first_line(error).rstrip('.')}."
        raise UserError(f"cannot read the model {path}: {said}") from error
    if card.format < FORMAT and card.image.grey:
        raise UserError(f"{path} takes grey images as an earlier fruitpipe made them: run again with model: fit.")
    text = partial(read_text_tower, store, within(TEXT), card) if card.text else None
    return Model(card, pca, engine, backbone, text)


def read_engine(store: Store, name: str, card: Card) -> EngineSpec:
    """Read the engine's artefact. Raises FileNotFoundError, and ValueError where it is damaged."""
    engine = EngineSpec(card.engine, store.get(name))
    if engine.digest != card.extractor:
        raise ValueError(f"{file_name(card.engine)} is damaged")
    if engine.kind == "python":
        class_of(engine.data)
    return engine


def read_text_tower(store: Store, name: str, card: Card) -> bytes:
    """Read the package of a text tower. Raises UserError where it is missing or damaged."""
    data = store.find(name)
    if data is None or hashlib.sha256(data).hexdigest() != card.text:
        raise UserError(f"cannot read the model: {store.location(name)} is {'damaged' if data else 'missing'}.")
    return data


ARRAYS = {"mean": ("f8", 1), "scale": ("f8", 1), "components": ("f8", 2), "explained_variance": ("f8", 1)}


def read_pca(store: Store, name: str) -> Pca:
    """Read a Pca from `pca.npz`. Raises FileNotFoundError, and ValueError where it is damaged."""
    with store.open(name) as file:
        pca = Pca(**read_arrays(file, ARRAYS))
    (d,), (k, across) = pca.mean.shape, pca.components.shape
    if {len(pca.scale), len(pca.explained_variance), across} != {d} or not 1 <= k <= d:
        raise ValueError("the arrays of pca.npz do not fit one another")
    return pca
