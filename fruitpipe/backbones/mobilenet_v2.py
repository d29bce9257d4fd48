"""MobileNetV2 with ImageNet weights, as Keras defines and downloads it.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fruitpipe.errors import UserError

INPUT_SIZE = 224
LAYER = "global_average_pooling2d"


def weights_file(keras_home: Path) -> Path:
    return keras_home / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"


def build() -> Any:
    import keras

    try:
        network = keras.applications.MobileNetV2(weights="imagenet")
    except Exception as error:
        reason = str(error).strip().splitlines()[-1].rpartition(" -- ")[2]
        raise UserError(
            f"no ImageNet weights for mobilenet_v2, and Keras cannot download them ({reason}): run once where there is "
            f"a network, or set KERAS_HOME to a folder that holds models/{weights_file(Path()).name}, or use "
            "--set backbone=efficientnet_lite0, whose weights came with fruitpipe."
        ) from error
    features = keras.Model(network.input, network.layers[-2].output)
    image = keras.Input((INPUT_SIZE, INPUT_SIZE, 3), batch_size=1)
    return keras.Model(image, features(keras.applications.mobilenet_v2.preprocess_input(image)))
