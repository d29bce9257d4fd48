"""Keras networks, from a choice to a model that takes raw RGB and gives features. Imports Keras only when it runs."""

from __future__ import annotations

import difflib
import hashlib
from typing import Any

from fruitpipe.backbones import efficientnet_lite0
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.weights import content
from fruitpipe.config import KNOWN, Choice
from fruitpipe.errors import NoWeights, UserError

SERVING = "serving_default"
"""TensorFlow's name for what a SavedModel gives to whoever does not ask for anything else."""


def build(choice: Choice) -> tuple[Any, Backbone]:
    """The Keras model from RGB values of 0 to 255, shape (1, side, side, 3), to features, shape (1, d); its facts.

    Raises UserError where weights are not to be had, do not fit, or there is no such layer.
    """
    import keras

    network = load(choice)
    layer = pick(network, -1 if choice.served else choice.cut)
    features = keras.Model(network.input, pooled(layer.output, choice.pooling))
    side = network.input_shape[1] or KNOWN[choice.name].side
    if network.input_shape[1:] not in {(side, side, 3), (None, None, 3)}:
        raise UserError(f"{choice.weights} takes arrays of {network.input_shape[1:]}: not square RGB images.")
    image = keras.Input((side, side, 3), batch_size=1)
    model = keras.Model(image, features(preprocess(choice.name, image)))
    facts = Backbone(
        name=choice.name,
        input_size=side,
        layer=layer.name,
        pooling=choice.pooling,
        weights=content(choice) if choice.served else digest(features),
        dimension=int(model.output.shape[-1]),
        parameters=int(features.count_params()),
    )
    return model, facts


def load(choice: Choice) -> Any:
    """The whole network, its classifier included."""
    import keras

    if choice.served:
        return serving(choice.weights)
    kind, _, seed = choice.weights.partition(":")
    if kind == "random" and seed:
        keras.utils.set_random_seed(int(seed))
        return architecture(choice.name, None)
    if choice.weights == "imagenet":
        return architecture(choice.name, "imagenet")
    try:
        if not choice.weights.endswith(".weights.h5"):
            return keras.saving.load_model(choice.weights, compile=False)
        network = architecture(choice.name, None)
        network.load_weights(choice.weights)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"weights: cannot use {choice.weights} with {choice.name}: {first_line(error)}") from error
    return network


def serving(folder: str) -> Any:
    """What a SavedModel serves by default, as a network of one opaque layer and its only output."""
    import keras

    try:
        layer = keras.layers.TFSMLayer(folder, call_endpoint=SERVING)
        (image,) = layer.call_endpoint_fn.structured_input_signature[1].values()
        given = keras.Input(tuple(image.shape)[1:], batch_size=1, dtype=image.dtype.name)
        (output,) = layer(given).values()
    except Exception as error:
        raise UserError(
            f"weights: cannot use {folder} as a SavedModel that serves one output of one input: {first_line(error)}"
        ) from error
    return keras.Model(given, keras.layers.Identity(name=SERVING)(output))


def architecture(name: str, weights: str | None) -> Any:
    """A known network with ImageNet weights, or with those that Keras draws."""
    import keras

    if name == "efficientnet_lite0":
        return efficientnet_lite0.classifier(trained=weights is not None)
    try:
        return getattr(keras.applications, KNOWN[name].function)(weights=weights)
    except Exception as error:
        if weights is None:
            raise
        reason = str(error).strip().splitlines()[-1].rpartition(" -- ")[2]
        raise NoWeights(
            f"no ImageNet weights for {name}, and Keras cannot download them ({reason}): run once where there is a "
            "network, or set KERAS_HOME to a folder whose `models` has them, or use "
            "--backbone efficientnet_lite0, whose weights came with fruitpipe."
        ) from error


def preprocess(name: str, image: Any) -> Any:
    """What Keras does to RGB values of 0 to 255 for this network."""
    import keras

    if name == "efficientnet_lite0":
        return (image - 127.0) / 128.0
    return getattr(keras.applications, KNOWN[name].module).preprocess_input(image)


def pick(network: Any, wanted: str | int | None) -> Any:
    """The layer of this name or index; else the last one before those that have a value for each class."""
    layers = network.layers
    if wanted is None:
        index = len(layers) - 1
        while index and layers[index - 1].output.shape[-1] == network.output.shape[-1]:
            index -= 1
        return layers[max(index - 1, 0)]
    try:
        if isinstance(wanted, int):
            return layers[wanted]
        return network.get_layer(wanted)
    except (IndexError, ValueError) as error:
        names = [layer.name for layer in layers]
        close = difflib.get_close_matches(str(wanted), names, 3) or names[-3:]
        raise UserError(
            f"layer: no {wanted!r} among the {len(names)} of {network.name}; there are {', '.join(close)}."
        ) from error


def pooled(output: Any, pooling: str) -> Any:
    """A layer's output as one row of numbers."""
    from keras import layers

    if len(output.shape) == 2:
        return output
    if len(output.shape) == 4 and pooling != "none":
        return (layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D)()(output)
    return layers.Flatten()(output)


def digest(network: Any) -> str:
    """SHA-256 of all weights, in Keras' order."""
    found = hashlib.sha256()
    for variable in network.weights:
        array = variable.numpy()
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(memoryview(array).cast("B") if array.ndim else array.tobytes())
    return found.hexdigest()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
