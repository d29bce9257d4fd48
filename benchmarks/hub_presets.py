"""Presets of keras-hub's networks in the shape of known ones, with seeded random weights: trained ones are downloads.

Prints the lowest cosine of features that fruitpipe gives for drawn pictures with those that Keras gives. It runs in an
environment that has keras-hub; docs/configuration.md says how to make one.

    python benchmarks/hub_presets.py FOLDER
    fruitpipe convert --backbone keras_hub:FOLDER/dinov2_small --output dinov2_small.tflite
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 224


def dinov2_small(models: Any) -> Any:
    return models.DINOV2Backbone(
        patch_size=14, num_layers=12, hidden_dim=384, num_heads=6, intermediate_dim=1536,
        image_shape=(SIDE, SIDE, 3), position_embedding_shape=(518, 518),
    )  # fmt: skip


def siglip_base(models: Any) -> Any:
    """Its text tower is small: images do without."""
    vision = models.SigLIPVisionEncoder(
        patch_size=16, hidden_dim=768, num_layers=12, num_heads=12, intermediate_dim=3072, image_shape=(SIDE, SIDE, 3)
    )
    text = models.SigLIPTextEncoder(
        vocabulary_size=64, embedding_dim=768, hidden_dim=768, num_layers=1, num_heads=12, intermediate_dim=64,
        max_sequence_length=8, projection_dim=768,
    )  # fmt: skip
    return models.SigLIPBackbone(vision, text)


NETWORKS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "dinov2_small": ("DINOV2", dinov2_small, lambda network, images: network({"images": images})[:, 0]),
    "siglip_base": ("SigLIP", siglip_base, lambda network, images: network.get_vision_embeddings(images)),
}
"""Name in front of ImageConverter, the network, and what its feature of some images is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="[all]")
    options = parser.parse_args()

    import keras
    from keras_hub import layers, models

    from fruitpipe.backbones import resolve
    from fruitpipe.backbones.portable_copy import PICTURES
    from fruitpipe.config import Config, Environment
    from fruitpipe.engines.reference_pictures import reference_picture

    pictures = np.stack([reference_picture(kind, seed, SIDE) for kind, seed in PICTURES])
    for name in options.only:
        keras.utils.set_random_seed(7)
        of, make, feature = NETWORKS[name]
        network, preset = make(models), options.folder.absolute() / name
        network.save_to_preset(str(preset))
        converter = getattr(layers, f"{of}ImageConverter")(image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0)
        converter.save_to_preset(str(preset))
        expected = np.asarray(feature(network, converter(pictures.astype(np.float32))))
        config = Config(input="IMAGES", output="OUT", backbone=f"keras_hub:{preset}")
        engine = resolve(config, Environment.read()).engine.start()
        found = np.empty_like(expected)
        engine.run(pictures, found)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = ((found * expected).sum(axis=1) / lengths).min()
        print(f"{name}: {found.shape[1]} features, lowest cosine with Keras' {cosine:.7f}", flush=True)


if __name__ == "__main__":
    main()
