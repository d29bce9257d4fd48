"""Small networks of the classes that keras-hub's presets have, seeded, and what Keras itself makes of pictures.

python tests/hub_networks.py FOLDER BACKBONE..., where keras-hub is installed, writes to FOLDER a preset of each class
as NAME, its features of some pictures as NAME.npy, and what it is converted to as NAME.converted; of NAME@SIDE, the
latter two. Further backbones are converted as well. It prints what was said of those
that cannot be, and the parameters of keras-hub's own presets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fruitpipe.engines.reference_pictures import Kind, reference_picture

PICTURES: tuple[tuple[Kind, int], ...] = (("tiles", 0), ("tiles", 1), ("noise", 2))
ENCODER = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2}
VIT = ENCODER | {"patch_size": 8, "image_shape": (32, 32, 3)}
TEXT = ENCODER | {"vocabulary_size": 64, "embedding_dim": 32, "intermediate_dim": 64, "max_sequence_length": 8}
MLP = {"intermediate_dim": 64}
MOBILENET_V5 = {
    "stackwise_block_types": [["er"], ["uir", "mqa"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[24], [48, 48]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["gelu"], ["gelu", "gelu"]],
    "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [5, 0]],
    "stackwise_dw_start_kernel_sizes": [[0], [3, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 2]],
    "stackwise_key_dims": [[0], [0, 16]],
    "stackwise_value_dims": [[0], [0, 16]],
    "stackwise_kv_strides": [[0], [0, 1]],
    "stackwise_use_cpe": [[False], [False, False]],
    "use_msfa": False,
    "image_shape": (64, 64, 3),
}
EFFICIENTNET_LITE = {
    "stackwise_kernel_sizes": [3, 5],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [16, 16],
    "stackwise_output_filters": [16, 24],
    "stackwise_expansion_ratios": [1, 6],
    "stackwise_squeeze_and_excite_ratios": [0, 0],
    "stackwise_strides": [1, 2],
    "stackwise_block_types": ["v1", "v1"],
    "stackwise_width_coefficients": [1.0, 1.0],
    "stackwise_depth_coefficients": [1.0, 1.0],
    "activation": "relu6",
}
DINO_V2 = ENCODER | {"patch_size": 14, "image_shape": (70, 70, 3), "position_embedding_shape": (70, 70)}


def class_token(network: Any, images: Any) -> Any:
    """The first of the tokens, whatever the input is called."""
    named = dict.fromkeys(network.input, images) if isinstance(network.input, dict) else images
    return network(named, training=False)[:, 0]


def mean(network: Any, images: Any) -> Any:
    """Of maps."""
    return np.asarray(network(images, training=False)).mean(axis=(1, 2))


def embedding(network: Any, images: Any) -> Any:
    return network.get_vision_embeddings(images)


def two_towers(models: Any, name: str, text: dict[str, Any], **projection: int) -> Any:
    vision = getattr(models, f"{name}VisionEncoder")(**VIT, **MLP)
    return getattr(models, f"{name}Backbone")(vision, getattr(models, f"{name}TextEncoder")(**text), **projection)


Networks = Mapping[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], Any]]]
"""By name: what is in front of Backbone and ImageConverter, the network, and what its feature is."""
CLASSES: Networks = {
    "dinov2": ("DINOV2", lambda models: models.DINOV2Backbone(**DINO_V2, **MLP, num_register_tokens=2), class_token),
    "dinov3": ("DINOV3", lambda models: models.DINOV3Backbone(**VIT, **MLP), class_token),
    "vit": ("ViT", lambda models: models.ViTBackbone(**VIT, mlp_dim=64), class_token),
    "siglip": ("SigLIP", lambda models: two_towers(models, "SigLIP", TEXT | {"projection_dim": 32}), embedding),
    "clip": ("CLIP", lambda models: two_towers(models, "CLIP", TEXT, projection_dim=16), embedding),
    "mobilenetv5": ("MobileNetV5", lambda models: models.MobileNetV5Backbone(**MOBILENET_V5), mean),
    "efficientnet_lite": (
        "EfficientNet",
        lambda models: models.EfficientNetBackbone(**EFFICIENTNET_LITE),
        mean,
    ),
}
"""Small ones."""


def write(name: str, folder: Path, networks: Networks = CLASSES) -> None:
    """A preset, and its features of the pictures; of NAME@SIDE, the features alone, of the preset that is there."""
    from keras_hub import layers, models

    plain, _, other = name.partition("@")
    of, make, feature = networks[plain]
    preset = str(folder / plain)
    if other:
        network = models.Backbone.from_preset(preset, image_shape=(int(other), int(other), 3))
    else:
        network = make(models)
        network.save_to_preset(preset)
    side = getattr(getattr(network, "vision_encoder", network), "image_shape", (None,))[0] or 64
    converter = getattr(layers, f"{of}ImageConverter")(
        image_size=(side, side), scale=[0.017, 0.0175, 0.0174], offset=[-2.1, -2.0, -1.8]
    )
    if not other:
        converter.save_to_preset(preset)
    pictures = np.stack([reference_picture(kind, seed, side) for kind, seed in PICTURES]).astype(np.float32)
    np.save(folder / f"{name}.npy", np.asarray(feature(network, converter(pictures))))


def write_text(folder: Path) -> None:
    """A preset of a network for texts."""
    from keras_hub.models import BertBackbone

    sizes = {"vocabulary_size": 64, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    BertBackbone(**sizes, max_sequence_length=8).save_to_preset(str(folder / "text"))


def main() -> None:
    import keras
    from keras_hub.models import Backbone

    from fruitpipe.backbones.convert import convert
    from fruitpipe.backbones.hub import SCHEME, choice_of
    from fruitpipe.errors import UserError

    folder, names = Path(sys.argv[1]), sys.argv[2:]
    keras.utils.set_random_seed(7)
    write_text(folder)
    refused = {}
    with TemporaryDirectory() as scratch:
        for name in names:
            made, backbone = Path(scratch), name
            if name.partition("@")[0] in CLASSES:
                write(name, folder)
                made, backbone = folder / f"{name}.converted", f"{SCHEME}{folder / name}"
                made.mkdir()
            try:
                convert(choice_of(backbone), made)
            except UserError as error:
                refused[name] = str(error)
    known = {name: told["metadata"]["params"] for name, told in Backbone.presets.items()}
    print(json.dumps({"refused": refused, "parameters": known}))


if __name__ == "__main__":
    main()
