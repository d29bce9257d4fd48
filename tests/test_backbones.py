from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import children_of, kill, words_of

from fruitpipe.backbones import resolve
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import FACTS, FLATBUFFER, converted, flatbuffer, kept, keras_home
from fruitpipe.backbones.efficientnet_lite0 import EfficientNetLite0
from fruitpipe.backbones.keras_applications import NETWORKS, KerasApplications, function_of, module_of
from fruitpipe.backbones.own_process import run_module
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.litert import LiteRt
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.pipeline.preview import plan
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Image
from fruitpipe.tasks.featurize import featurize
from fruitpipe.vision.decode import decode, features_digest

CONVERSION = "fruitpipe.backbones.convert"
LITE0 = EfficientNetLite0().choose("efficientnet_lite0")
KNOWN = KerasApplications.networks
choose = KerasApplications().choose
ENGINES = ("litert", "openvino")
DIFFERENTLY_NAMED = {
    "efficientnet_v2_b0",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "nasnet_mobile",
    "resnet50",
}


@pytest.fixture(scope="module")
def classifier() -> Any:
    from fruitpipe.backbones.efficientnet_lite0 import classifier

    return classifier()


def pictures(folder: Path, every: int) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))[::every]


def pixels(path: Path) -> NDArray[np.float32]:
    return decode(path.read_bytes(), 224, ImageConfig()).pixels.astype(np.float32)


def features(flat: Path, paths: list[Path], kind: str = "litert") -> NDArray[np.float32]:
    images = [Image(str(path)) for path in paths]
    engine = EngineSpec(kind, flat.read_bytes()).start()
    facts, found = featurize(images, engine, ImageConfig(), Reader(S3Config(), 1 << 20))
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
    for kind in ENGINES:
        found = features(lite0[1], paths, kind)
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
        for kind in ENGINES:
            assert cosines(features(mobilenet[1], paths, kind), arrays["features"]).min() >= 0.9999


@pytest.fixture(scope="module")
def drawn() -> Callable[..., tuple[Backbone, Path]]:
    """A backbone with weights that Keras draws by a seed, and its flatbuffer."""

    def convert(name: str, **others: Any) -> tuple[Backbone, Path]:
        return flatbuffer(choose(name, **{"weights": "random:7", **others}), Environment.read())

    return convert


def built(name: str, **others: Any) -> Backbone:
    """The facts of a network with weights that Keras draws by a seed, as a conversion builds it, in this process."""
    import keras

    keras.backend.clear_session()  # or Keras would number layers without names on from those of other networks
    return KerasApplications().build(choose(name, **{"weights": "random:7", **others}))[1]


def keras_features(
    name: str, function: str, layer: str | int, paths: list[Path], side: int = 224
) -> NDArray[np.float32]:
    """What Keras itself gives for the same weights and pixels."""
    import keras

    keras.utils.set_random_seed(7)
    network = getattr(keras.applications, function)(weights=None)
    chosen = network.layers[layer] if isinstance(layer, int) else network.get_layer(layer)
    module = getattr(keras.applications, module_of(name))
    given = np.stack([decode(path.read_bytes(), side, ImageConfig()).pixels for path in paths]).astype(np.float32)
    return np.asarray(keras.Model(network.input, chosen.output)(module.preprocess_input(given), training=False))


@pytest.mark.parametrize(
    ("name", "function", "layer"),
    [
        pytest.param("resnet50", "ResNet50", "avg_pool", marks=pytest.mark.slow),
        pytest.param("vgg16", "VGG16", "block5_pool", marks=pytest.mark.slow),
        pytest.param("efficientnet_v2_b0", "EfficientNetV2B0", -2, marks=pytest.mark.slow),
    ],
)
def test_known_backbones_give_keras_features_on_the_same_weights(
    drawn: Callable[..., tuple[Backbone, Path]], fruits: Path, name: str, function: str, layer: str | int
) -> None:
    backbone, path = drawn(name)
    assert KNOWN[name].used in {None, backbone.parameters}
    paths = pictures(fruits, 64)
    expected = keras_features(name, function, layer, paths)
    if expected.ndim == 4:
        expected = expected.mean((1, 2))
    for kind in ENGINES:
        found = features(path, paths, kind)
        assert found.shape == (len(paths), KNOWN[name].dimension) == (len(paths), backbone.dimension)
        assert cosines(found, expected).min() >= 0.9999
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_any_layer_and_pooling(drawn: Callable[..., tuple[Backbone, Path]], fruits: Path, pooling: str) -> None:
    paths = pictures(fruits, 64)
    _, path = drawn("mobilenet", layer="conv_pw_13_relu", pooling=pooling)
    maps = keras_features("mobilenet", "MobileNet", "conv_pw_13_relu", paths)
    flat = maps.reshape(len(paths), -1)
    expected = {"avg": maps.mean((1, 2)), "max": maps.max((1, 2)), "none": flat}[pooling]
    np.testing.assert_allclose(features(path, paths), expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_vggs_fully_connected_layers_are_there_for_who_asks(
    drawn: Callable[..., tuple[Backbone, Path]], fruits: Path
) -> None:
    paths = pictures(fruits, 64)
    backbone, path = drawn("vgg16", layer="fc2")
    assert backbone.dimension == 4096
    for layer in ("fc2", None):
        config = Config(input="a", output="b", backbone="vgg16", weights="random:7", layer=layer)
        assert resolve(config, Environment.read()).engine.kind == "openvino", "as the whole network is a large one"
    assert cosines(features(path, paths), keras_features("vgg16", "VGG16", "fc2", paths)).min() >= 0.9999


@pytest.mark.slow
def test_a_layer_by_its_index() -> None:
    assert built("mobilenet", layer=-5).layer == "global_average_pooling2d"


@pytest.mark.slow
def test_there_is_no_largest_of_what_is_flat() -> None:
    """Or averages would be taken for the largest."""
    with pytest.raises(UserError, match="pooling: max is for layers that have height and width"):
        built("mobilenet", pooling="max")


@pytest.mark.slow
def test_features_are_those_before_the_classifier_however_it_is_made() -> None:
    """In MobileNet, layers[-2] has a value for each class already."""
    assert built("mobilenet").dimension == KNOWN["mobilenet"].dimension == 1024


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["conv_pw_13_rel", 4000])
def test_a_layer_that_is_not_there_is_one_line(layer: str | int) -> None:
    with pytest.raises(UserError, match="layer: no") as caught:
        built("mobilenet", layer=layer)
    assert len(str(caught.value).splitlines()) == 1
    if isinstance(layer, str):
        assert "conv_pw_13_relu" in str(caught.value)


@pytest.mark.slow
def test_seeds_are_weights() -> None:
    assert built("mobilenet").digest != built("mobilenet", weights="random:8").digest


@pytest.mark.slow
def test_weights_and_models_of_ones_own(
    drawn: Callable[..., tuple[Backbone, Path]], fruits: Path, tmp_path: Path
) -> None:
    """Weights of the same network, and a whole model with a head for other classes."""
    import keras

    paths = pictures(fruits, 64)
    keras.utils.set_random_seed(7)
    network = keras.applications.MobileNet(weights=None)
    network.save_weights(tmp_path / "mine.weights.h5")
    pool = keras.layers.Flatten()(network.layers[-5].output)
    head = keras.layers.Dense(5, name="fruits")(keras.layers.Dense(32, name="fine_tuned")(pool))
    tuned = keras.Model(network.input, head)
    tuned.save(tmp_path / "mine.keras")
    same = built("mobilenet", weights=str(tmp_path / "mine.weights.h5"))
    assert same.digest == drawn("mobilenet")[0].digest, "the same network and the same weights"
    backbone, path = drawn("mobilenet", weights=str(tmp_path / "mine.keras"))
    assert (backbone.layer, backbone.dimension) == ("fine_tuned", 32)
    given = np.stack([pixels(each) for each in paths])
    prepared = keras.applications.mobilenet.preprocess_input(given)
    expected = np.asarray(keras.Model(tuned.input, tuned.get_layer("fine_tuned").output)(prepared, training=False))
    assert cosines(features(path, paths), expected).min() >= 0.9999


def test_all_that_a_model_of_ones_own_does_is_its_identity(tmp_path: Path) -> None:
    """Also what has no weights: how pixels are scaled, and the activation."""
    import keras

    def model(name: str, scale: float, activation: str) -> str:
        keras.utils.set_random_seed(7)
        image = keras.Input((32, 32, 3), name="image")
        maps = keras.layers.Conv2D(4, 3, activation=activation, name="maps")(
            keras.layers.Rescaling(scale, name="scaled")(image)
        )
        keras.Model(image, keras.layers.Flatten(name="flat")(maps), name="own").save(tmp_path / name)
        return str(tmp_path / name)

    one = model("one.keras", 1 / 255, "relu")
    same = [built("mobilenet", weights=each).digest for each in (one, one, model("again.h5", 1 / 255, "relu"))]
    assert len(set(same)) == 1
    others = [model("scaled.keras", 1 / 127.5, "relu"), model("tanh.h5", 1 / 255, "tanh")]
    assert len({same[0], *(built("mobilenet", weights=each).digest for each in others)}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("written", ["exported", "saved"])
def test_a_saved_model_gives_what_it_serves(
    drawn: Callable[..., tuple[Backbone, Path]], fruits: Path, tmp_path: Path, written: str
) -> None:
    """A fine-tuned model, its head included, by Keras' export or by TensorFlow's own save."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(7)
    network = keras.applications.MobileNet(weights=None)
    dropped = keras.layers.Dropout(0.5)(keras.layers.Flatten()(network.layers[-5].output))
    tuned = keras.Model(network.input, keras.layers.Dense(32, activation="gelu")(dropped))
    folder = f"{tmp_path}/tuned/"
    if written == "exported":
        tuned.export(folder, verbose=False)
    else:
        tf.saved_model.save(tuned, folder)
    paths = pictures(fruits, 64)
    backbone, path = drawn("mobilenet", weights=folder)
    given = keras.applications.mobilenet.preprocess_input(np.stack([pixels(each) for each in paths]))
    found, expected = features(path, paths), np.asarray(tuned(given, training=False))
    assert found.shape == (len(paths), backbone.dimension) == (len(paths), 32)
    assert backbone.parameters == tuned.count_params()
    assert cosines(found, expected).min() >= 0.9999
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())
    assert cosines(found, np.roll(expected, 1, axis=0)).max() < 0.9999, "so that the comparison can tell"


def save_means(folder: Path, factor: float = 1.0, outputs: int = 1) -> str:
    """A small SavedModel without Keras: each channel's mean, times a variable."""
    import tensorflow as tf

    class Means(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.factor = tf.Variable(factor)

        @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, image: Any) -> Any:
            feature = self.factor * tf.reduce_mean(image, (1, 2))
            return {f"output_{number}": feature for number in range(outputs)}

    means = Means()
    tf.saved_model.save(means, folder, signatures={"serving_default": means.__call__} if outputs else {})
    return f"{folder}/"


@pytest.mark.slow
def test_a_saved_models_variables_are_its_identity(
    drawn: Callable[..., tuple[Backbone, Path]], fruits: Path, tmp_path: Path
) -> None:
    one, two = (save_means(tmp_path / f"{factor}", factor) for factor in (1.0, 2.0))
    shutil.copytree(one, tmp_path / "copy")
    (first, path), (second, other) = (drawn("mobilenet", weights=folder) for folder in (one, two))
    paths = pictures(fruits, 64)
    assert first.input_size == 32
    np.testing.assert_allclose(2 * features(path, paths), features(other, paths), rtol=1e-4)
    assert first.digest != second.digest
    assert drawn("mobilenet", weights=f"{tmp_path}/copy/") == (first, path), "wherever it lies"
    (variables,) = (tmp_path / "1.0" / "variables").glob("*.data-*")
    variables.write_bytes(variables.read_bytes().replace(np.float32(1).tobytes(), np.float32(3).tobytes()))
    assert converted(choose("mobilenet", weights=one), Environment.read()) is None, "changed in place"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, r"cannot read .*saved_model\.pb .*No such file"),
        ({"outputs": 0}, "cannot use .* one output of one input: .*serving_default"),
        ({"outputs": 2}, "cannot use .* one output of one input"),
    ],
)
@pytest.mark.slow
def test_a_saved_model_that_cannot_be_used_is_one_line(
    drawn: Callable[..., tuple[Backbone, Path]], tmp_path: Path, options: dict[str, Any] | None, reason: str
) -> None:
    folder = f"{tmp_path}/" if options is None else save_means(tmp_path / "model", **options)
    with pytest.raises(UserError, match=reason) as caught:
        drawn("mobilenet", weights=folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["gone.weights.h5", "no.keras"])
def test_weights_that_cannot_be_used_are_one_line(
    drawn: Callable[..., tuple[Backbone, Path]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "no.keras").write_bytes(b"no model")
    with pytest.raises(UserError, match=f"weights: cannot .*{name}") as caught:
        drawn("mobilenet", weights=str(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_said_of_known_backbones_is_what_keras_has() -> None:
    import keras

    functions = {name for name, each in vars(keras.applications).items() if callable(each)}
    assert {function_of(name) for name in NETWORKS} == functions
    for name in NETWORKS:
        assert hasattr(getattr(keras.applications, module_of(name)), "preprocess_input")
    network = keras.applications.DenseNet121(weights=None)
    assert network.count_params() == KNOWN["densenet121"].parameters
    assert network.input_shape[1] == KNOWN["densenet121"].side


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")  # as a conversion of MobileNetV3 is warned, too
@pytest.mark.parametrize(
    "name", [each if each in DIFFERENTLY_NAMED else pytest.param(each, marks=pytest.mark.slow) for each in NETWORKS]
)
def test_trained_weights_are_found_by_the_name_by_which_keras_asks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    from keras.src.utils import file_utils

    class Asked(Exception):
        pass

    def ask(file: str, *_: Any, **__: Any) -> None:
        raise Asked(file)

    monkeypatch.setattr(file_utils, "get_file", ask)
    with keras.StatelessScope(), pytest.raises(Asked) as asked:  # so that no numbers are drawn
        getattr(keras.applications, function_of(name))()
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / str(asked.value)
    there = environment(monkeypatch, KERAS_HOME=str(tmp_path))
    for part in ("notop", "no_top", "no_top_v2"):
        file.with_stem(f"{file.stem}_{part}").touch()
    assert not any(KerasApplications().has_weights(each, there) for each in NETWORKS), "a part of it"
    file.touch()
    assert [each for each in NETWORKS if KerasApplications().has_weights(each, there)] == [name]


def test_flatbuffers_are_what_their_facts_say(lite0: tuple[Backbone, Path], mobilenet: tuple[Backbone, Path]) -> None:
    for backbone, path in (lite0, mobilenet):
        engine = LiteRt(path.read_bytes())
        assert (engine.side, engine.dimension) == (backbone.input_size, backbone.dimension)


def test_every_part_of_a_backbone_is_in_its_digest() -> None:
    plain = {"name": "n", "input_size": 224, "layer": "layer", "pooling": "avg", "weights": "w"}
    others = ({"name": "m"}, {"input_size": 192}, {"layer": "other"}, {"pooling": "max"}, {"weights": "v"})
    found = [Backbone(**plain | other, dimension=1, parameters=1).digest for other in ({}, *others)]
    assert len(set(found)) == 6


def test_the_digest_of_features_covers_the_resampling_but_not_the_limits() -> None:
    plain = features_digest("b", ImageConfig())
    assert features_digest("c", ImageConfig()) != plain
    assert features_digest("b", ImageConfig(resample="bilinear")) != plain
    assert features_digest("b", ImageConfig(), "bf16") != plain
    assert features_digest("b", ImageConfig(max_bytes=1, max_pixels=1, max_aspect=1)) == plain


def test_a_converted_backbone_is_used_again(lite0: tuple[Backbone, Path]) -> None:
    before = lite0[1].stat().st_mtime_ns
    assert flatbuffer(LITE0, Environment.read()) == lite0
    assert lite0[1].stat().st_mtime_ns == before


def kill_conversion() -> bool:
    """Kill the conversion that this process has started, if it has."""
    for child in children_of(os.getpid(), recursive=False):
        if CONVERSION in words_of(child):
            return bool(kill([child]))
    return False


def test_a_conversion_that_is_killed_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does where memory runs out."""
    there = environment(monkeypatch, FRUITPIPE_CACHE=str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        converting = pool.submit(flatbuffer, choose("mobilenet", weights="random:7"), there)
        while not converting.done() and not kill_conversion():
            time.sleep(0.01)
        with pytest.raises(FruitpipeError, match=r"converting mobilenet failed: .* by SIGKILL, as .* memory") as caught:
            converting.result()
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "backbones").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL, as happens where memory runs out or"),
        ("raise SystemExit(3)", "exit code 3"),
        ("raise ValueError('of another kind')", "ValueError: of another kind"),
        ("", ""),
    ],
)
def test_a_process_of_its_own_says_why_it_has_failed(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "alone.py").write_text(code)
    reason = run_module("alone", variables={"PYTHONPATH": str(tmp_path)})
    assert reason.startswith(said)
    assert bool(reason) == bool(said)


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Environment:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Environment.read()


def test_a_cache_that_cannot_be_written_is_a_user_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="FRUITPIPE_CACHE") as caught:
        flatbuffer(LITE0, environment(monkeypatch, FRUITPIPE_CACHE=f"{tmp_path}/file/cache"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_weights_that_are_not_to_be_had_are_a_user_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_listens, trained = "http://127.0.0.1:9", Environment.read().keras_home / "models"
    offline = environment(
        monkeypatch, KERAS_HOME=str(tmp_path / "keras"), FRUITPIPE_CACHE=str(tmp_path / "cache"),
        https_proxy=nobody_listens, http_proxy=nobody_listens, no_proxy="",
    )  # fmt: skip
    with pytest.raises(UserError, match="KERAS_HOME") as caught:
        flatbuffer(choose("mobilenet_v2"), offline)
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(tmp_path / "cache" / "backbones") == []  # noqa: PTH208

    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    (tmp_path / "keras" / "models" / name).write_bytes((trained / name).read_bytes()[: 1 << 20])
    with pytest.raises(UserError, match=r"cannot read ImageNet weights for mobilenet_v2 .*: delete the file"):
        flatbuffer(choose("mobilenet_v2"), offline)


@pytest.mark.slow
def test_a_plan_says_what_is_wrong_with_the_backbone_and_does_without_weights(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"input": str(fruits), "output": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"layer: no 'head_pol' among .*head_pool"):
        plan(Config(**places, backbone="efficientnet_lite0", layer="head_pol"))
    nobody_listens = "http://127.0.0.1:9"
    environment(
        monkeypatch, KERAS_HOME=str(tmp_path / "keras"), FRUITPIPE_CACHE=str(tmp_path / "cache"),
        https_proxy=nobody_listens, http_proxy=nobody_listens, no_proxy="",
    )  # fmt: skip
    assert plan(Config(**places)).new == 320


@pytest.mark.parametrize("damage", ["other bytes", "cut short", "gone", "facts"])
def test_a_damaged_cache_is_told_and_not_run(damage: str, lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    """It would give other features under the same digest, which later runs take over."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        for file in lite0[1].parent.iterdir():
            shutil.copy(file, folder)

    target = tmp_path / "backbones" / "x"
    found = kept(target, "x", FLATBUFFER, make)
    assert kept(target, "x", FLATBUFFER, make) == found
    assert len(made) == 1
    artefact = found[1]
    whole = artefact.read_bytes()
    match damage:
        case "other bytes":
            artefact.write_bytes(whole[:5000] + bytes(4000) + whole[9000:])
        case "cut short":
            artefact.write_bytes(whole[:5000])
        case "gone":
            artefact.unlink()
        case "facts":
            (target / FACTS).write_text("{")
    with pytest.raises(UserError, match=re.escape(f"{target} in the cache is damaged: delete that folder")):
        kept(target, "x", FLATBUFFER, make)
    shutil.rmtree(target)
    kept(target, "x", FLATBUFFER, make)
    assert artefact.read_bytes() == whole


def test_a_cache_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *more: Any, **named: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(UserError, match=r"cannot read the cache .* \(Permission denied\): .* set FRUITPIPE_CACHE"):
        kept(tmp_path / "backbones" / "x", "x", FLATBUFFER, lambda folder: None)


def test_weights_in_a_folder_that_cannot_be_written_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras itself looks at none such, and would download them."""
    home, scratch = tmp_path / "keras", tmp_path / "scratch"
    (home / "models").mkdir(parents=True)
    (home / "models" / "weights.h5").write_bytes(b"1")
    scratch.mkdir()
    monkeypatch.setenv("KERAS_HOME", str(home))
    assert keras_home(Environment.read(), scratch) == home
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for any user but root
    other = keras_home(Environment.read(), scratch)
    assert other.parent == scratch
    assert (other / "models" / "weights.h5").read_bytes() == b"1"
