"""A model as one ONNX file gives, in onnxruntime, the vectors that it gives itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import fruitpipe, one_line_error
from conftest import unavailable
from numpy.typing import NDArray
from saved import write_model

from fruitpipe.backbones import resolve
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.litert import LiteRt
from fruitpipe.errors import FruitpipeError
from fruitpipe.model.export import exported
from fruitpipe.model.model import Card, Model
from fruitpipe.numeric import pca
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import Unreduced
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize

PHOTOGRAPHS = 48


class Seeing(LiteRt):
    """LiteRT that keeps the pixels it gets."""

    def __init__(self, flatbuffer: bytes) -> None:
        super().__init__(flatbuffer)
        self.seen: list[NDArray[np.uint8]] = []

    def run(self, batch, out):
        self.seen.append(np.array(batch))
        return super().run(batch, out)


def model_of(flatbuffer: bytes, name: str, images: list[str]) -> tuple[Model, NDArray[np.uint8]]:
    """A model fitted on images, and what its engine got, shape (n, side, side, 3)."""
    engine, spec = Seeing(flatbuffer), EngineSpec("litert", flatbuffer)
    _, features = featurize([Image(path) for path in images], engine, ImageConfig(), Reader(S3Config(), 1 << 26))
    card = Card(
        run="20260101-000000-abcd",
        backbone=name,
        features="d",
        image=ImageConfig(),
        images=len(features),
        reconstruction_error=0.25,
        reconstruction_error_p99=0.5,
        extractor=spec.digest,
    )
    return Model(card, pca.fit(Moments.of(features), 32), spec), np.concatenate(engine.seen)


def run(onnx: Path | bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What onnxruntime makes of each image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx)
    return np.concatenate([session.run(["vector"], {"image": image[None].astype(np.float32)})[0] for image in pixels])


def same(model: Model, images: list[str], found: NDArray[np.float32]) -> None:
    """Within 1e-4 of a vector's length."""
    wanted = np.stack([each.vector for each in model.transform_images(images)])
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    difference = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert difference.max() < 1e-4


@pytest.mark.slow
def test_onnxruntime_gives_the_same_vectors(lite0: tuple[Backbone, Path], fruits: Path, tmp_path: Path) -> None:
    images = [str(path) for path in sorted(fruits.rglob("*.jpg"))[:: 320 // PHOTOGRAPHS]]
    model, pixels = model_of(lite0[1].read_bytes(), "efficientnet_lite0", images)
    file = tmp_path / "fruits.onnx"
    done = fruitpipe("export", write_model(model, tmp_path / "model"), "-o", file, "--json")
    assert json.loads(done.stdout)["components"] == 32
    same(model, images, run(file, pixels))

    import onnx

    facts = {each.key: each.value for each in onnx.load(file).metadata_props}
    assert ImageConfig.model_validate_json(facts["fruitpipe.image"]) == model.card.image
    assert facts["fruitpipe.run"] == model.card.run

    unreduced = Model(model.card, Unreduced(1280), model.engine)
    same(unreduced, images[:2], run(exported(unreduced), pixels[:2]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights"), [("mobilenet_v2", "imagenet"), ("resnet50", "random:7")])
def test_networks_of_keras_are_translated_too(name: str, weights: str, data: Path) -> None:
    """On photographs, as trained features say little of drawings."""
    try:
        _, engine, *_ = resolve(Config(input="a", output="b", backbone=name, weights=weights), Environment.read())
    except FruitpipeError as error:
        unavailable(str(error))
    images = [str(path) for path in sorted((data / "fruits-360").rglob("*.jpg"))[:PHOTOGRAPHS]]
    model, pixels = model_of(engine.data, name, images)
    same(model, images, run(exported(model), pixels))


def test_what_is_no_network_is_one_line(lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    """Such as a bag of visual words."""
    spec = EngineSpec("words", b"vocabulary")
    card = Card(
        run="20260101-000000-abcd",
        backbone="orb",
        features="d",
        image=ImageConfig(),
        images=0,
        reconstruction_error=0,
        reconstruction_error_p99=0,
        extractor=spec.digest,
        engine="words",
        unreduced=48,
    )
    folder = write_model(Model(card, Unreduced(48), spec), tmp_path / "model")
    assert "orb, is not a network" in one_line_error(fruitpipe("export", folder, "-o", tmp_path / "a.onnx", code=2))
    assert not (tmp_path / "a.onnx").exists()
    said = one_line_error(fruitpipe("export", tmp_path / "nowhere", code=2))
    assert "is not a model" in said
