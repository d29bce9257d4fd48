from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fruitpipe.backbones import Backbone, by_name, flatbuffer
from fruitpipe.backbones.backbone import definition
from fruitpipe.config import BACKBONES, Environment, ImageConfig, S3Config
from fruitpipe.engine import Engine
from fruitpipe.errors import UserError
from fruitpipe.featurize import Image, features_digest, featurize
from fruitpipe.images import decode
from fruitpipe.source import Reader


@pytest.fixture(scope="module")
def classifier() -> Any:
    from fruitpipe.backbones.efficientnet_lite0 import classifier

    return classifier()


def pictures(folder: Path, every: int) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))[::every]


def pixels(path: Path) -> NDArray[np.float32]:
    return decode(path.read_bytes(), 224, ImageConfig()).pixels.astype(np.float32)


def features(flat: Path, paths: list[Path]) -> NDArray[np.float32]:
    images = [Image(str(path)) for path in paths]
    facts, found = featurize(images, Engine(flat.read_bytes()), ImageConfig(), Reader(S3Config(), 1 << 20))
    assert set(facts.status) == {"ok"}
    return found


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_the_flatbuffer_takes_raw_rgb_and_gives_keras_features(
    lite0: tuple[Backbone, Path], fruits: Path, classifier: Any
) -> None:
    import keras

    paths = pictures(fruits, 32)
    network = keras.Model(classifier.input, classifier.get_layer("head_pool").output)
    expected = np.concatenate([network((pixels(path)[None] - 127) / 128, training=False) for path in paths])
    found = features(lite0[1], paths)
    assert found.shape == (len(paths), 1280)
    assert cosines(found, expected).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-3)
    assert cosines(found, np.roll(expected, 1, axis=0)).max() < 0.9999, "so that the comparison can tell"


@pytest.mark.parametrize(
    ("photograph", "label", "probability"),
    [
        ("cat_720p.jpg", "Egyptian cat", 0.36),
        ("parrot.jpg", "macaw", 0.86),
        ("hot_dog.jpg", "hotdog, hot dog, red hot", 0.99),
    ],
)
def test_efficientnet_lite0_has_its_trained_weights(
    data: Path, classifier: Any, photograph: str, label: str, probability: float
) -> None:
    labels = (data / "imagenet-check" / "imagenet_labels.txt").read_text().splitlines()[1:]
    image = pixels(data / "imagenet-check" / photograph)
    logits = np.asarray(classifier((image[None] - 127) / 128, training=False))[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert labels[int(probabilities.argmax())].strip() in {label, label.split(",", maxsplit=1)[0]}
    assert probabilities.max() == pytest.approx(probability, abs=0.01)


def test_mobilenets_features_of_real_photographs_are_the_oracles(data: Path, mobilenet: tuple[Backbone, Path]) -> None:
    with np.load(data / "oracle" / "sample-mobilenetv2.npz") as arrays:
        paths = [data / "fruits-360" / "Sample" / name for name in arrays["paths"]]
        assert cosines(features(mobilenet[1], paths), arrays["features"]).min() >= 0.9999


@pytest.mark.parametrize("name", BACKBONES)
def test_definitions_tell_what_the_flatbuffer_is(name: str, request: pytest.FixtureRequest) -> None:
    backbone, path = request.getfixturevalue({"mobilenet_v2": "mobilenet", "efficientnet_lite0": "lite0"}[name])
    engine = Engine(path.read_bytes())
    assert (engine.side, engine.dimension) == (backbone.input_size, 1280)
    assert backbone.layer == definition(name).LAYER


def test_a_backbone_without_weights_on_this_machine_is_none(tmp_path: Path) -> None:
    assert by_name("mobilenet_v2", tmp_path) is None


def test_the_digest_changes_with_the_weights_and_with_nothing_else(tmp_path: Path) -> None:
    digests = []
    for home, content in (("a", b"weights"), ("b", b"weights"), ("c", b"Weights")):
        weights = definition("mobilenet_v2").weights_file(tmp_path / home)
        weights.parent.mkdir(parents=True)
        weights.write_bytes(content)
        backbone = by_name("mobilenet_v2", tmp_path / home)
        assert backbone
        digests.append(backbone.digest)
    assert digests[0] == digests[1] != digests[2]


def test_every_part_of_a_backbone_is_in_its_digest() -> None:
    plain = Backbone("n", 224, "layer", "w")
    others = Backbone("m", 224, "layer", "w"), Backbone("n", 192, "layer", "w"), Backbone("n", 224, "other", "w")
    assert len({each.digest for each in (plain, *others)}) == 4


def test_the_digest_of_features_covers_the_resampling_but_not_the_limits() -> None:
    plain = features_digest("b", ImageConfig())
    assert features_digest("c", ImageConfig()) != plain
    assert features_digest("b", ImageConfig(resample="bilinear")) != plain
    assert features_digest("b", ImageConfig(max_bytes=1, max_pixels=1, max_aspect=1)) == plain


def test_a_converted_backbone_is_used_again(lite0: tuple[Backbone, Path]) -> None:
    before = lite0[1].stat().st_mtime_ns
    assert flatbuffer("efficientnet_lite0", Environment.read()) == lite0
    assert lite0[1].stat().st_mtime_ns == before


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Environment:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Environment.read()


def test_a_cache_that_cannot_be_written_is_a_user_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="FRUITPIPE_CACHE") as caught:
        flatbuffer("efficientnet_lite0", environment(monkeypatch, FRUITPIPE_CACHE=f"{tmp_path}/file/cache"))
    assert len(str(caught.value).splitlines()) == 1


def test_weights_that_are_not_to_be_had_are_a_user_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_listens = "http://127.0.0.1:9"
    offline = environment(
        monkeypatch, KERAS_HOME=str(tmp_path / "keras"), FRUITPIPE_CACHE=str(tmp_path / "cache"),
        https_proxy=nobody_listens, http_proxy=nobody_listens, no_proxy="",
    )  # fmt: skip
    with pytest.raises(UserError, match="KERAS_HOME") as caught:
        flatbuffer("mobilenet_v2", offline)
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(tmp_path / "cache" / "backbones") == []  # noqa: PTH208
