"""Keras models from raw RGB to features. Keras is imported only when one is built."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.network_choice import KnownNetwork, NetworkChoice
from fruitpipe.backbones.weights import content_digest
from fruitpipe.config.weights import is_saved_model, is_whole_model
from fruitpipe.errors import UserError, first_line

SERVING = "serving_default"
"""TensorFlow's name for what a SavedModel gives to whoever does not ask for anything else."""


class Architectures(Protocol):
    """The part of NetworkFamily that a conversion needs."""

    networks: Mapping[str, KnownNetwork]

    def architecture(self, name: str, trained: bool) -> Any: ...

    def preprocess(self, name: str, image: Any) -> Any: ...


def build(choice: NetworkChoice, family: Architectures) -> tuple[Any, Backbone]:
    """The Keras model from RGB values of 0 to 255, shape (1, side, side, 3), to features, shape (1, d); its facts.

    Raises UserError where weights are not available, do not fit, or there is no such layer.
    """
    import keras

    network = load(choice, family)
    layer = pick(network, -1 if is_saved_model(choice.weights) else choice.layer)
    features = keras.Model(network.input, pooled(layer.output, choice.pooling))
    side = network.input_shape[1] or family.networks[choice.name].side
    if network.input_shape[1:] not in {(side, side, 3), (None, None, 3)}:
        raise UserError(f"{choice.weights} takes arrays of {network.input_shape[1:]}: not square RGB images.")
    image = keras.Input((side, side, 3), batch_size=1)
    model = keras.Model(image, features(family.preprocess(choice.name, image)))
    facts = Backbone(
        name=choice.name,
        input_size=side,
        layer=layer.name,
        pooling=choice.pooling,
        weights=identity(choice.weights, network, features),
        dimension=int(model.output.shape[-1]),
        parameters=int(features.count_params()),
    )
    return model, facts


def load(choice: NetworkChoice, family: Architectures) -> Any:
    """The whole network, its classifier included."""
    import keras

    if is_saved_model(choice.weights):
        return serving(choice.weights)
    kind, _, seed = choice.weights.partition(":")
    if kind == "random" and seed:
        keras.utils.set_random_seed(int(seed))
        return family.architecture(choice.name, trained=False)
    if choice.weights == "imagenet":
        return family.architecture(choice.name, trained=True)
    try:
        if not choice.weights.endswith(".weights.h5"):
            return keras.saving.load_model(choice.weights, compile=False)
        network = family.architecture(choice.name, trained=False)
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


def pick(network: Any, wanted: str | int | None) -> Any:
    """The layer of this name or index; by default, the last one before the classifier's layers."""
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
    """A layer's output as one row of numbers. Raises UserError where there is nothing to take the largest of."""
    from keras import layers

    if pooling == "max" and all(length == 1 for length in output.shape[1:-1]):
        raise UserError(
            "pooling: max is for layers that have height and width, and this one has neither: name an earlier layer, "
            "or leave it out."
        )
    if len(output.shape) == 2:
        return output
    if len(output.shape) == 4 and pooling != "none":
        return (layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D)()(output)
    return layers.Flatten()(output)


def identity(weights: str, network: Any, features: Any) -> str:
    """SHA-256 of what weights come to: those up to the layer and, of a model of the user's own, all that it does."""
    if is_saved_model(weights):
        return content_digest(weights)
    arrays = digest(features)
    if is_whole_model(weights):  # whose activations and scales no array has
        return hashlib.sha256(f"{arrays} {network.to_json()}".encode()).hexdigest()
    return arrays


def digest(network: Any) -> str:
    """SHA-256 of all weights, in Keras' order."""
    found = hashlib.sha256()
    for variable in network.weights:
        array = variable.numpy()
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(memoryview(array).cast("B") if array.ndim else array.tobytes())
    return found.hexdigest()
