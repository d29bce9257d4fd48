from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hostile
import numpy as np
import pytest
from saved import write_model

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import ImageConfig, S3Config
from fruitpipe.engines import EngineSpec, file_name
from fruitpipe.engines.litert import LiteRt
from fruitpipe.errors import UserError
from fruitpipe.model.model import CARD, PCA, Card, Model, load_model
from fruitpipe.numeric import pca
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import Unreduced
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize


@pytest.fixture(scope="module")
def paths(fruits: Path) -> list[str]:
    return [str(path) for path in sorted(fruits.rglob("*.jpg"))[::16]]


@pytest.fixture(scope="module")
def features(paths: list[str], lite0: tuple[Backbone, Path]) -> np.ndarray:
    images = [Image(path) for path in paths]
    _, found = featurize(images, LiteRt(lite0[1].read_bytes()), ImageConfig(), Reader(S3Config(), 1 << 20))
    return found


@pytest.fixture(scope="module")
def model(features: np.ndarray, lite0: tuple[Backbone, Path]) -> Model:
    engine = EngineSpec("litert", lite0[1].read_bytes())
    card = Card(
        run="20260101-000000-abcd",
        backbone="efficientnet_lite0",
        features="d",
        image=ImageConfig(max_bytes=100_000),
        images=len(features),
        reconstruction_error=0.25,
        reconstruction_error_p99=0.5,
        extractor=engine.digest,
    )
    return Model(card, pca.fit(Moments.of(features), 5), engine)


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    return write_model(model, tmp_path / "model")


def test_models_of_earlier_versions_are_read(model: Model, folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["flatbuffer"] = card.pop("extractor")
    del card["engine"], card["image"]["decode"]
    (folder / CARD).write_text(json.dumps(card))
    images = model.card.image.model_copy(update={"decode": "exact"})
    assert load_model(folder).card == model.card.model_copy(update={"image": images}), "all images were decoded whole"


def test_models_of_grey_images_as_they_were_before_are_refused(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["image"]["grey"] = True
    (folder / CARD).write_text(json.dumps(card))
    assert load_model(folder).card.image.grey
    (folder / CARD).write_text(json.dumps(card | {"format": 1}))
    assert "run again with model: fit" in refusal(folder)
    card["image"]["grey"] = False
    (folder / CARD).write_text(json.dumps(card | {"format": 1}))
    assert load_model(folder).card.format == 1


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(load_model(folder).transform_images([__file__]))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    return message


def test_a_model_comes_back_from_its_files_as_it_was(model: Model, folder: Path, features: np.ndarray) -> None:
    loaded = load_model(folder)
    assert loaded.card == model.card
    assert loaded.engine == model.engine
    for name in ("mean", "scale", "components", "explained_variance"):
        assert np.array_equal(getattr(loaded.pca, name), getattr(model.pca, name))
    assert np.array_equal(loaded.transform(features), model.transform(features))


def test_the_same_model_has_the_same_files(model: Model) -> None:
    assert model.files() == model.files()


def test_a_model_without_pca_gives_the_features(model: Model, tmp_path: Path, features: np.ndarray) -> None:
    card = model.card.model_copy(update={"unreduced": 1280, "images": 0})
    folder = write_model(Model(card, Unreduced(1280), model.engine), tmp_path / "model")
    assert not (folder / PCA).exists()
    loaded = load_model(folder)
    assert np.array_equal(loaded.transform(features), features)
    assert loaded.transform(features.astype(np.float64)).dtype == np.float32
    with pytest.raises(ValueError, match="1280"):
        loaded.transform(features[:, 1:])


def test_a_card_of_an_earlier_version_is_read(folder: Path, model: Model) -> None:
    card = json.loads((folder / CARD).read_text())
    del card["unreduced"]
    (folder / CARD).write_text(json.dumps(card))
    assert load_model(folder).card == model.card


def test_images_become_the_vectors_of_their_features_in_order(
    model: Model, paths: list[str], features: np.ndarray
) -> None:
    for threads in (1, 3):
        vectors = list(model.transform_images(paths, threads))
        assert [each.path for each in vectors] == paths
        assert {each.status for each in vectors} == {"ok"}
        np.testing.assert_array_equal(np.array([each.vector for each in vectors]), model.transform(features))


def test_images_come_in_order_across_chunks(model: Model, paths: list[str]) -> None:
    many = [path for number in range(700) for path in (f"/nowhere/{number}.jpg",)]
    many[300] = paths[0]
    vectors = list(model.transform_images(iter(many), 2))
    assert [each.path for each in vectors] == many
    assert [each.status for each in vectors] == ["missing"] * 300 + ["ok"] + ["missing"] * 399


def test_a_bad_image_gets_a_status_and_no_vector(model: Model, tmp_path: Path) -> None:
    expected = hostile.make(tmp_path / "hostile")
    vectors = list(model.transform_images(str(tmp_path / "hostile" / name) for name in expected))
    assert {Path(each.path).name: each.status for each in vectors} == expected
    assert all((each.vector is None) == (each.status != "ok") == (each.error is not None) for each in vectors)
    assert [each.status for each in model.transform_images("a\0.jpg")] == ["missing"]


def test_images_are_taken_where_the_system_tells_no_cores_of_a_process(
    model: Model, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert [each.status for each in model.transform_images(paths[:2])] == ["ok", "ok"]


def test_the_models_own_limits_hold(model: Model, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(bytes(100_001))
    (vector,) = model.transform_images([str(tmp_path / "x.jpg")])
    assert vector.status == "too_large"


def test_an_image_may_be_one_path_and_paths_come_from_anywhere(model: Model, paths: list[str]) -> None:
    (expected,) = model.transform_images(paths[:1])
    for given in (paths[0], Path(paths[0]), [Path(paths[0])], iter(paths[:1]), tuple(paths[:1])):
        (found,) = model.transform_images(given)
        assert (found.path, found.status) == (expected.path, "ok")
        assert np.array_equal(found.vector, expected.vector)


def test_what_a_notebook_shows_of_a_model_is_one_short_line(model: Model, paths: list[str]) -> None:
    (vector,) = model.transform_images(paths[:1])
    for each in (model, model.pca, model.engine, vector):
        assert repr(each).startswith(type(each).__name__)
        assert len(repr(each)) < 200
        assert len(repr(each).splitlines()) == 1


def test_no_images_give_no_vectors(model: Model) -> None:
    assert list(model.transform_images([])) == []


@pytest.mark.parametrize("shape", [(3, 1279), (1280,), (3, 0)])
def test_features_of_a_wrong_dimension_are_a_value_error(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1280"):
        model.transform(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", [PCA, CARD, file_name("litert")])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder)


def test_a_folder_that_is_missing_or_no_folder_is_no_model(folder: Path, tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere")
    refusal(folder / PCA)


@pytest.mark.parametrize("name", [PCA, CARD, file_name("litert")])
@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated"])
def test_a_broken_file_is_a_user_error_of_one_line(folder: Path, name: str, kind: str) -> None:
    data = (folder / name).read_bytes()
    broken = {"empty": b"", "garbage": np.random.default_rng(0).bytes(1000), "truncated": data[: len(data) // 2]}[kind]
    (folder / name).write_bytes(broken)
    refusal(folder)


def test_arrays_that_are_missing_or_pickled_are_refused(folder: Path) -> None:
    np.savez(folder / PCA, mean=np.zeros(3))
    refusal(folder)
    np.savez(folder / PCA, mean=np.array([{}]), scale=0, components=0, explained_variance=0)
    assert "Python objects" in refusal(folder)


def test_a_card_of_another_kind_is_refused_and_the_wrong_key_named(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"images": "many"}))
    assert "images" in refusal(folder)


WITHOUT = """
import sys
import fruitpipe.model.model
from fruitpipe.model.model import load_model
model = load_model(sys.argv[1])
import numpy as np
assert model.transform(np.zeros((2, 1280), np.float32)).shape == (2, 5)
(vector,) = model.transform_images([sys.argv[2]])
assert vector.status == "ok", vector
print(*sorted({"tensorflow", "keras", "pyspark", "duckdb", "pandas"} & sys.modules.keys()))
"""


def test_a_model_is_applied_without_tensorflow_keras_and_spark(folder: Path, paths: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT, str(folder), paths[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"tensorflow", "keras", "pyspark"} & set(done.stdout.split())


@pytest.mark.parametrize("module", ["tasks.featurize", "tasks.reduce", "numeric.pca", "numeric.moments"])
def test_the_code_of_tasks_imports_no_tensorflow_keras_or_spark(module: str) -> None:
    code = f"import sys, fruitpipe.{module}; print(*({{'tensorflow', 'keras', 'pyspark'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_model_folder_can_be_moved(folder: Path, tmp_path: Path, features: np.ndarray) -> None:
    before = load_model(folder).transform(features)
    shutil.move(folder, tmp_path / "elsewhere")
    assert np.array_equal(load_model(tmp_path / "elsewhere").transform(features), before)
