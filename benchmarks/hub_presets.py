"""Presets of keras-hub's networks in the shape of known ones, with seeded random weights: trained ones are downloads.

Prints the lowest cosine of features that fruitpipe gives for drawn pictures with those that Keras gives. It runs in an
environment that has keras-hub; docs/configuration.md says how to make one.

    python benchmarks/hub_presets.py FOLDER
    fruitpipe convert --backbone keras_hub:FOLDER/dinov2_small --output dinov2_small.tflite
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fruitpipe.backbones import resolve
from fruitpipe.backbones.hub import SCHEME
from fruitpipe.config import Config, Environment
from fruitpipe.engines.portable import cosine
from fruitpipe.engines.reference_pictures import reference_picture

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from hub_networks import PICTURES, Networks, class_token, embedding, write

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


NETWORKS: Networks = {
    "dinov2_small": ("DINOV2", dinov2_small, class_token),
    "siglip_base": ("SigLIP", siglip_base, embedding),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="[all]")
    options = parser.parse_args()

    import keras

    folder = options.folder.absolute()
    pictures = np.stack([reference_picture(kind, seed, SIDE) for kind, seed in PICTURES])
    for name in options.only:
        keras.utils.set_random_seed(7)
        write(name, folder, NETWORKS)
        expected = np.load(folder / f"{name}.npy")
        config = Config(input="IMAGES", output="OUT", backbone=f"{SCHEME}{folder / name}")
        engine = resolve(config, Environment.read()).engine.start()
        found = np.empty_like(expected)
        engine.run(pictures, found)
        worst = min(map(cosine, found, expected))
        print(f"{name}: {found.shape[1]} features, lowest cosine with Keras' {worst:.7f}", flush=True)


if __name__ == "__main__":
    main()
