"""Networks in int8: against LiteRT in float32, by LiteRT's own tensors, and as part of runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from ai_edge_litert.interpreter import Interpreter
from command import ANEW, BACKBONE, fruitpipe, manifest, one_line_error, run, same_vectors, vectors
from numpy.typing import NDArray
from sklearn.metrics.pairwise import paired_cosine_distances

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.int8 import Calibration, Network, Seen, packed, quantised
from fruitpipe.config import ImageConfig, load_config
from fruitpipe.engines.litert import LiteRt, silence
from fruitpipe.errors import UserError
from fruitpipe.vision.decode import decode

CHANGED = ("rounded", "corrected")


@pytest.fixture(scope="module")
def flatbuffer(lite0: tuple[Backbone, Path]) -> bytes:
    return lite0[1].read_bytes()


@pytest.fixture(scope="module")
def pixels(fruits: Path) -> NDArray[np.uint8]:
    paths = sorted(fruits.rglob("*.jpg"))[::32]
    return np.stack([decode(path.read_bytes(), 224, ImageConfig()).pixels for path in paths])


@pytest.fixture(scope="module")
def seen(flatbuffer: bytes, pixels: NDArray[np.uint8]) -> Seen:
    """Of every other image."""
    calibration = Calibration(flatbuffer)
    return Seen.together([calibration(image) for image in pixels[::2]])


def features(flatbuffer: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    engine = LiteRt(flatbuffer)
    found = np.empty((len(pixels), engine.dimension), np.float32)
    assert engine.run(pixels, found) == {}
    return found


def worst(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(1 - paired_cosine_distances(a.astype(np.float64), b.astype(np.float64)).max())


def test_features_are_near_those_in_float32_and_all_but_the_first_convolutions_are_integers(
    flatbuffer: bytes, pixels: NDArray[np.uint8], seen: Seen
) -> None:
    made = quantised(flatbuffer, seen)
    assert len(made) < 0.35 * len(flatbuffer)
    others = pixels[1::2]
    assert worst(features(made, others), features(flatbuffer, others)) > 0.99
    interpreter = Interpreter(model_content=made)
    with silence():
        interpreter.allocate_tensors()
    kinds = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    convolutions = [each for each in interpreter._get_ops_details() if "CONV" in each["op_name"]]
    assert [kinds[each["inputs"][1]] for each in convolutions] == 4 * [np.float32] + 45 * [np.int8]
    ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert [each["dtype"] for each in ends] == [np.float32, np.float32]


def test_the_same_images_give_the_same_bytes_and_others_give_others(
    flatbuffer: bytes, pixels: NDArray[np.uint8], seen: Seen
) -> None:
    calibration = Calibration(flatbuffer)
    again = [calibration(image) for image in pixels[::2]]
    assert quantised(flatbuffer, Seen.together(again)) == quantised(flatbuffer, seen)
    assert quantised(flatbuffer, Seen.together(again[:-1])) != quantised(flatbuffer, seen)


def test_ranges_are_what_tensors_reach_and_zero(flatbuffer: bytes, pixels: NDArray[np.uint8], seen: Seen) -> None:
    image, *_, last = Network(flatbuffer).between
    assert (seen.least[0], seen.most[0]) == (0, pixels[::2].max())
    found = features(flatbuffer, pixels[::2])
    assert (seen.least[-1], seen.most[-1]) == (0, pytest.approx(found.max(), rel=1e-5))
    assert image != last


def changes_of_means(flatbuffer: bytes, pixels: NDArray[np.uint8], seen: Seen, number: int) -> tuple[float, float]:
    """How far the mean of any output of a convolution moves where its weights alone are rounded, and where its bias is
    corrected besides, against the largest mean; by LiteRT, without the activation."""

    def means(changed: str) -> NDArray[Any]:
        network = Network(flatbuffer)
        one = network.rounded[number]
        one.operator.builtinOptions.fusedActivationFunction = 0
        bounds = one.bounds(6 / 255)
        if changed:
            steps = bounds.reshape(one.shape_of_steps) / 127
            buffer = network.model.buffers[one.weights.buffer]
            stored = np.frombuffer(buffer.data, np.float32).reshape(one.weights.shape)
            buffer.data = np.frombuffer((np.rint(stored / steps) * steps).tobytes(), np.uint8)
        if changed == "corrected":
            one.set_bias(one.corrected(bounds, seen.inputs[number]), network.model)
        network.graph.outputs = one.operator.outputs
        interpreter = Interpreter(model_content=packed(network.model))
        with silence():
            interpreter.allocate_tensors()
        found = []
        for image in pixels:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis].astype(np.float32))
            interpreter.invoke()
            output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
            found.append(output.reshape(-1, output.shape[-1]).mean(axis=0, dtype=np.float64))
        return np.mean(found, axis=0)

    exact = means("")
    shifted, kept = (float(np.abs(means(changed) - exact).max() / np.abs(exact).max()) for changed in CHANGED)
    return shifted, kept


@pytest.mark.parametrize("number", [0, 1, 3], ids=["depthwise, stride 2", "1 x 1", "depthwise"])
def test_a_corrected_bias_keeps_the_means_of_outputs(
    number: int, flatbuffer: bytes, pixels: NDArray[np.uint8], seen: Seen
) -> None:
    shifted, kept = changes_of_means(flatbuffer, pixels[::2], seen, number)
    assert kept < min(1e-4, shifted / 10)


@pytest.mark.slow
def test_biases_are_corrected_whatever_the_convolution() -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(3)
    image = x = keras.Input((31, 31, 3), batch_size=1)
    for _ in range(4):
        x = layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, (3, 2), dilation_rate=2, activation="relu")(x)
    x = layers.Conv2D(24, 3, groups=4, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="valid", activation="relu")(x)
    x = layers.Dense(10, activation="relu", use_bias=False)(x)
    network = keras.Model(image, layers.Dense(7)(layers.Flatten()(x)))
    for variable in network.weights:
        variable.assign(variable + 0.05 * keras.random.uniform(variable.shape, seed=5))
    flatbuffer = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    pixels = np.random.default_rng(5).integers(0, 256, (6, 31, 31, 3), np.uint8)
    calibration = Calibration(flatbuffer)
    seen = Seen.together([calibration(each) for each in pixels])
    kinds = [each.kind for each in Network(flatbuffer).rounded]
    assert (len(kinds), {*kinds}) == (6, {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
    for number in range(len(kinds)):
        shifted, kept = changes_of_means(flatbuffer, pixels, seen, number)
        assert kept < min(1e-5, shifted / 10), kinds[number]
    assert worst(features(quantised(flatbuffer, seen), pixels), features(flatbuffer, pixels)) > 0.99


def test_a_bias_that_two_convolutions_share_and_one_that_is_large_beside_its_weights(
    flatbuffer: bytes, pixels: NDArray[np.uint8]
) -> None:
    network = Network(flatbuffer)
    alike = [each for each in network.rounded if each.bias.shape == network.rounded[8].bias.shape]
    alike[1].operator.inputs = [*alike[1].operator.inputs[:2], alike[0].operator.inputs[2]]
    large = network.rounded[3]
    buffer = network.model.buffers[large.weights.buffer]
    weights = np.frombuffer(buffer.data, np.float32).reshape(large.weights.shape).copy()
    weights[0] *= 1e-12
    buffer.data = np.frombuffer(weights.tobytes(), np.uint8)
    changed = packed(network.model)
    calibration = Calibration(changed)
    made = quantised(changed, Seen.together([calibration(image) for image in pixels[::2]]))
    assert worst(features(made, pixels[1::2]), features(changed, pixels[1::2])) > 0.99


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int8", "engine": "openvino"}, "int8 is LiteRT's: leave engine or precision out."),
        ({"precision": "bf16", "engine": "litert"}, "LiteRT does not compute in bf16: leave engine or precision out."),
        ({"min_cosine": 0.9}, "min_cosine is for a precision that changes features: leave it out, or set precision"),
        ({"precision": "int8", "backbone": "orb"}, "orb has no precision: leave `precision` out, or choose another"),
        ({"precision": "int8", "backbone": "mine.tflite"}, "mine.tflite has no precision: leave `precision` out"),
        ({"precision": "int8", "min_cosine": 1.5}, "expected 1 or less"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(input="IMAGES", output="OUT", **settings)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_bound_is_of_int8_unless_it_is_given() -> None:
    bounds = {
        (precision, given): load_config(input="I", output="O", precision=precision, min_cosine=given).least_cosine
        for precision, given in (("float32", None), ("bf16", None), ("int8", None), ("bf16", 0.9), ("int8", 0.5))
    }
    assert [*bounds.values()] == [None, None, 0.99, 0.9, 0.5]


def test_who_makes_a_network_needs_the_extra(fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    options = ("--set", BACKBONE, "--set", "precision=int8")
    told = one_line_error(fruitpipe("run", fruits, tmp_path / "out", *options, code=2))
    assert "which makes networks of precision: int8, is not installed: pip install 'fruitpipe[int8]'." in told


@pytest.fixture(scope="module")
def result(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in int8, refused at first."""
    out = tmp_path_factory.mktemp("int8") / "out"
    options = [option for each in (BACKBONE, "precision=int8", "min_cosine=0.9999") for option in ("--set", each)]
    told = one_line_error(fruitpipe("run", fruits, out, *options, code=2))
    assert re.search(r"is 0\.99\d at worst of 200, below min_cosine \(0\.9999\)\. Leave precision out, or", told)
    assert not [*out.glob("runs/*/manifest.json"), *out.glob("features/*/part-*")]
    (network,) = (out / "features" / "networks").iterdir()
    made = network.stat().st_mtime_ns
    run(fruits, out, "precision=int8")
    assert network.stat().st_mtime_ns == made
    return out


def network_of(out: Path) -> Path:
    (found,) = (out / "features" / "networks").iterdir()
    return found


def test_a_run_in_int8_is_refused_below_a_bound_and_says_what_it_changes(result: Path) -> None:
    done = manifest(result)
    assert (done["backbone"]["engine"], done["counts"]["ok"]) == ("litert_int8", 320)
    found = done["comparison"]
    assert 0.99 < found["worst_cosine"] < found["cosine"] < 0.99999
    assert found["images"] == 200
    assert min(found[precision]["nearest"] for precision in ("float32", "int8")) > 0.9
    shown = fruitpipe("show", result).stdout
    assert re.search(rf"int8 +cosine to float32 {found['cosine']:.3f} on average", shown)
    assert f"features/networks/{network_of(result).name}" in done["feature_parts"]


def test_features_of_a_run_are_what_litert_gives_by_the_network_that_it_kept(result: Path) -> None:
    rows = duckdb.sql(f"SELECT path, feature FROM '{result}/features/*/*.parquet' ORDER BY path").fetchall()[::64]
    pixels = np.stack([decode(Path(path).read_bytes(), 224, ImageConfig()).pixels for path, _ in rows])
    kept = network_of(result).read_bytes()
    np.testing.assert_array_equal(
        np.stack([np.frombuffer(feature, np.float32) for _, feature in rows]), features(kept, pixels)
    )
    assert (result / "runs" / manifest(result)["run"] / "model" / "backbone.tflite").read_bytes() == kept


@pytest.mark.slow
def test_a_network_is_made_once_and_applied_again(result: Path, fruits: Path, tmp_path: Path) -> None:
    first = manifest(result)
    again = run(fruits, result, "precision=int8", ANEW)
    assert again["plan"]["known"] == 320
    assert same_vectors(vectors(result, again["run"]), vectors(result, first["run"]))
    few = sorted(fruits.iterdir())[0]
    model = result / "runs" / first["run"] / "model"
    reused = run(few, tmp_path / "out", "precision=int8", "model=reuse", f"reuse={model}")
    assert not (tmp_path / "out" / "features" / "networks").exists(), "the model has one"
    fruitpipe("transform", model, few, tmp_path / "few.parquet")
    applied = np.stack(pq.read_table(tmp_path / "few.parquet").sort_by("path")["vector"].to_pylist())
    expected = np.stack(vectors(tmp_path / "out", reused["run"])["vector"].to_pylist())
    np.testing.assert_allclose(applied, expected, atol=1e-5)
    for setting, other in (("engine=litert", "precision=int8"), ("weights=random:3", "another layer, pooling")):
        options = [BACKBONE, "model=reuse", f"reuse={model}", setting]
        options += ["precision=int8"] if setting.startswith("weights") else []
        told = fruitpipe("run", few, tmp_path / "out", *(f"--set={each}" for each in options), code=2)
        assert other in one_line_error(told)


@pytest.mark.slow
def test_a_network_that_was_damaged_is_made_anew(result: Path, fruits: Path) -> None:
    network = network_of(result)
    before = network.read_bytes()
    for damaged in (before[:100], before[: len(before) // 2], b"", b"no flatbuffer"):
        network.write_bytes(damaged)
        planned = json.loads(
            fruitpipe("plan", fruits, result, "--set", BACKBONE, "--set", "precision=int8", "--json").stdout
        )
        assert planned["new"] == 320, "of a network that is not there yet"
    mended = run(fruits, result, "precision=int8", "pca.components=3")
    assert (mended["plan"]["known"], network.read_bytes()) == (320, before), "made anew, to the bit"
    assert not [name for name in json.loads(fruitpipe("gc", result, "--json").stdout)["objects"] if "networks" in name]


@pytest.mark.slow
def test_of_several_backbones_one_that_is_refused_is_so_alone(result: Path, fruits: Path, tmp_path: Path) -> None:
    eight = {"backbone": BACKBONE.partition("=")[2], "precision": "int8"}
    backbones = [eight | {"name": "near"}, eight | {"name": "far", "min_cosine": 0.9999}]
    told = fruitpipe("run", fruits, tmp_path / "out", "--set", f"backbones={json.dumps(backbones)}", code=2)
    assert "far: precision: int8 changes features of these images too much" in one_line_error(told)
    assert not [*(tmp_path / "out" / "far").glob("features/*/part-*")]
    assert network_of(tmp_path / "out" / "near").read_bytes() == network_of(result).read_bytes()
    near, alone = manifest(tmp_path / "out" / "near"), manifest(result)
    assert near["comparison"]["worst_cosine"] == alone["comparison"]["worst_cosine"]
    assert near["features_digest"] == alone["features_digest"]
