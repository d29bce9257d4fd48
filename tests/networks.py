"""Networks in files, with what NumPy and Keras make of the same pixels.

python tests/networks.py FOLDER writes small networks of Keras, seeded, and what Keras gives for reference pictures.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fruitpipe.engines.reference_pictures import Kind, pixels_digest, reference_picture

PATCH, WIDTH, SIDE = 8, 16, 32
Shape = Sequence[int | str | None]
Feature = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
PICTURES: tuple[tuple[Kind, int], ...] = (("tiles", 0), ("tiles", 1), ("noise", 2))


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of a convolution over patches: (WIDTH, 3, PATCH, PATCH) and (WIDTH,)."""
    drawn = np.random.default_rng(7)
    kernel = drawn.normal(size=(WIDTH, 3, PATCH, PATCH)).astype(np.float32) / PATCH
    return kernel, drawn.normal(size=WIDTH).astype(np.float32)


def onnx_network(layout: str = "NCHW", gives: str = "features", shape: Shape | None = None, **others: Any) -> bytes:
    """A convolution over patches and ReLU: its maps, as tokens, averaged to features, or both of the last.

    shape: of the input; others: dtype; further: name of another input; weights_in: name of another file.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel, bias = weights()
    shape = shape or ([1, 3, SIDE, SIDE] if layout == "NCHW" else [1, SIDE, SIDE, 3])
    dtype = others.get("dtype", TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info("pixels", dtype, shape)]
    if further := others.get("further"):
        inputs.append(helper.make_tensor_value_info(further, TensorProto.FLOAT, [1, WIDTH]))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["image"], perm=[0, 3, 1, 2] if layout == "NHWC" else [0, 1, 2, 3]),
        helper.make_node("Conv", ["image", "kernel", "bias"], ["conv"], strides=[PATCH, PATCH]),
        helper.make_node("Relu", ["conv"], ["maps"]),
        helper.make_node("Reshape", ["maps", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["tokens"], ["means"], axes=[1], keepdims=0),
        helper.make_node("Add", ["means", further], ["features"])
        if further
        else helper.make_node("Identity", ["means"], ["features"]),
    ]
    outputs = {"both": ["tokens", "features"]}.get(gives, [gives])
    axes = {"maps": [None, WIDTH, None, None], "tokens": [None, None, WIDTH], "features": [None, WIDTH]}
    graph = helper.make_graph(
        nodes,
        "patches",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes[name]) for name in outputs],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.array([0, WIDTH, -1]), "flat"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if place := others.get("weights_in"):
        onnx.external_data_helper.convert_model_to_external_data(model, location=place, size_threshold=0)
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
    data: bytes = model.SerializeToString()
    return data


def patches(pixels: NDArray[np.uint8], mean: Any = 0.5, std: Any = 0.5, bgr: bool = False) -> NDArray[np.float64]:
    """What the convolution gives, by NumPy: tokens of shape (t, WIDTH)."""
    kernel, bias = (each.astype(np.float64) for each in weights())
    levels = ((pixels[..., ::-1] if bgr else pixels).astype(np.float64) / 255 - mean) / std
    across = len(pixels) // PATCH
    cut = levels.reshape(across, PATCH, across, PATCH, 3)
    return np.maximum(np.einsum("yixjc,dcij->yxd", cut, kernel) + bias, 0).reshape(-1, WIDTH)


def references(feature: Feature, side: int = SIDE, pictures: Sequence[tuple[Kind, int]] = PICTURES) -> list[Any]:
    """References of a sidecar, with the vectors that a function gives."""
    drawn = [(kind, seed, reference_picture(kind, seed, side)) for kind, seed in pictures]
    return [
        {"kind": kind, "seed": seed, "pixels": pixels_digest(picture), "vector": encoded(feature(picture))}
        for kind, seed, picture in drawn
    ]


def encoded(vector: NDArray[np.floating[Any]]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def mean_of_patches(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The features of `onnx_network`, by NumPy, as the sidecar of `write` has them."""
    found: NDArray[np.float64] = patches(pixels).mean(axis=0)
    return found


def write(folder: Path, network: bytes | None = None, name: str = "patches.onnx", **keys: Any) -> Path:
    """A network and its sidecar, with further keys, or none of those that are None."""
    (folder / name).write_bytes(network or onnx_network())
    told = {"preprocessing": "symmetric", "references": references(mean_of_patches)} | keys
    kept = {key: value for key, value in told.items() if value is not None}
    (folder / name).with_suffix(".yaml").write_text(yaml.safe_dump(kept))
    return folder / name


PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[END]"
LENGTH = 8
WORDS = ("a", "photo", "of", "ripe", "green", "apple", "banana", "kiwi", "mango")


def tokenizer(words: Sequence[str], lowercase: bool = True, **changes: Any) -> bytes:
    """A file of the library tokenizers: words by number, from 3, and then the END. changes: of the document."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate([PAD, UNKNOWN, END, *words])}
    made = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 2)])
    return json.dumps(json.loads(made.to_str()) | changes).encode()


def tokens(text: str, words: Sequence[str], length: int = LENGTH) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What that makes of a text of words and spaces, by hand: numbers and mask, (length,) each."""
    known = list(words)
    numbers = [known.index(word) + 3 if word in known else 1 for word in text.lower().split()]
    found = [*numbers[: length - 1], 2]
    ids, mask = np.zeros((2, length), np.int64)
    ids[: len(found)], mask[: len(found)] = found, 1
    return ids, mask


def text_table(words: Sequence[str]) -> NDArray[np.float32]:
    """Seeded rows of PAD, UNKNOWN, END and words."""
    return np.random.default_rng(3).normal(size=(len(words) + 3, WIDTH)).astype(np.float32)


def text_network(table: NDArray[np.float32], **others: Any) -> bytes:
    """The rows of a table, (words, d), of the tokens of a text, added: where there is a mask, of those alone.

    others: mask: its type, or None for none; ids: their type; shape: of both; gives: outputs; names: of the inputs;
    further: name of another input.
    """
    from onnx import TensorProto, helper, numpy_helper

    mask, shape = others.get("mask", TensorProto.INT64), others.get("shape", [1, LENGTH])
    names = others.get("names", ["input_ids", "attention_mask"])
    inputs = [helper.make_tensor_value_info(names[0], others.get("ids", TensorProto.INT64), shape)]
    nodes = [
        helper.make_node("Gather", ["table", names[0]], ["rows"]),
        helper.make_node("ReduceSum", ["masked", "one"], ["text_embeds"], keepdims=0),
    ]
    if mask is None:
        nodes.insert(1, helper.make_node("Identity", ["rows"], ["masked"]))
    else:
        inputs.append(helper.make_tensor_value_info(names[1], mask, shape))
        nodes[1:1] = [
            helper.make_node("Cast", [names[1]], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["counted", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["masked"]),
        ]
    if further := others.get("further"):
        inputs.append(helper.make_tensor_value_info(further, TensorProto.FLOAT, [1, 1, 1]))
        nodes[-1:-1] = [helper.make_node("Add", ["masked", further], ["more"])]
        nodes[-1].input[0] = "more"
    width = table.shape[1]
    axes = {"text_embeds": [None, width], "rows": [None, None, width], "masked": [None, None, width]}
    outputs = others.get("gives", ["text_embeds"])
    graph = helper.make_graph(
        nodes,
        "words",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes[name]) for name in outputs],
        [
            numpy_helper.from_array(table.astype(np.float32), "table"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([2]), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def keras_networks() -> dict[str, tuple[Any, int]]:
    """Small networks of the kinds that there are, seeded, from what they take to what they give; and their sides."""
    import keras
    from keras import layers

    def vit(side: int, patch: int, width: int, depth: int) -> Any:
        image = keras.Input((side, side, 3), batch_size=1)
        x = layers.Reshape((-1, width))(layers.Conv2D(width, patch, patch)(image))
        first = layers.Dense(width)(layers.GlobalAveragePooling1D(keepdims=True)(x))
        x = layers.Concatenate(axis=1)([first, x])
        x = layers.Add()([x, layers.Dense(width, use_bias=False)(x)])
        for _ in range(depth):
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            x = layers.Add()([x, layers.Dense(width)(layers.Dense(4 * width, activation=tanh_gelu)(y))])
        return keras.Model(image, layers.LayerNormalization(epsilon=1e-6)(x))

    def tanh_gelu(x: Any) -> Any:
        return keras.activations.gelu(x, approximate=True)

    keras.utils.set_random_seed(7)
    convnet = keras.applications.MobileNetV2((96, 96, 3), 0.35, include_top=False, weights=None)
    return {"convnet": (convnet, 96), "vit": (vit(64, 16, 64, 2), 64)}


def text_in_tflite(words: Sequence[str]) -> bytes:
    """`text_network` of `text_table`, of int32, by TensorFlow's converter."""
    import tensorflow as tf

    takes = [tf.TensorSpec((1, LENGTH), tf.int32, name=name) for name in ("input_ids", "attention_mask")]
    served = tf.Module()
    served.table = tf.Variable(text_table(words))

    def added(input_ids: Any, attention_mask: Any) -> Any:
        there = tf.cast(attention_mask, tf.float32)[:, :, None]
        return tf.reduce_sum(tf.gather(served.table, input_ids) * there, axis=1)

    served.feature = tf.function(added, input_signature=takes)
    with TemporaryDirectory() as saved:
        tf.saved_model.save(served, saved, signatures=served.feature.get_concrete_function())
        data: bytes = tf.lite.TFLiteConverter.from_saved_model(saved).convert()
    return data


def served_by(network: Any, takes: Any) -> Any:
    """A network as TensorFlow saves it, with the weights that it does not see in Keras' own."""
    import tensorflow as tf

    served = tf.Module()
    served.weights = [variable.value for variable in network.weights]
    served.feature = tf.function(lambda image: network(image, training=False), input_signature=takes)
    return served


def main() -> None:
    import tensorflow as tf
    import tf2onnx

    folder = Path(sys.argv[1])
    (folder / "text.tflite").write_bytes(text_in_tflite(WORDS))
    for name, (network, side) in keras_networks().items():
        pictures = np.stack([reference_picture(kind, seed, side) for kind, seed in PICTURES]).astype(np.float32)
        given = np.concatenate([network(picture[None] / 127.5 - 1, training=False) for picture in pictures])
        np.save(folder / f"{name}.npy", given)
        takes = [tf.TensorSpec((1, side, side, 3), tf.float32, name="image")]
        served = served_by(network, takes)
        for layout in ("NHWC", "NCHW"):
            first = ["image"] if layout == "NCHW" else None
            file = str(folder / f"{name}_{layout}.onnx")
            tf2onnx.convert.from_function(served.feature, takes, opset=18, inputs_as_nchw=first, output_path=file)
        with TemporaryDirectory() as saved:
            tf.saved_model.save(served, saved, signatures=served.feature.get_concrete_function())
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            (folder / f"{name}_NHWC.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
