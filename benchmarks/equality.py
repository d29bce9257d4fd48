"""Features of every known backbone on each engine against Keras' own, on the same weights, read from one file.

Keras draws the weights by a seed, and the statistics of batch normalisation are made those of the images, as training
would. Without, values of deep networks grow to 1e11, and rounding decides what comes out: of EfficientNetV2L, Keras'
own feature of an image whose pixels differ by 0.0001 has a cosine of 0.6 to that of the image.

Cosines of networks that nobody has trained flatter: some give nearly the same feature to every image. So the last
column holds the largest difference from Keras against how far features of images lie from their mean.

    python benchmarks/equality.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import subset
from numpy.typing import NDArray

from fruitpipe.backbones import efficientnet_lite0, keras_applications, resolve
from fruitpipe.config import Config, Environment, ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.vision.decode import decode

TARGET = 0.9999
SEED = 7
ENGINES = ("litert", "openvino")
KNOWN = {**efficientnet_lite0.EfficientNetLite0.networks, **keras_applications.KerasApplications.networks}


class Line(NamedTuple):
    """What was found of a backbone on an engine."""

    engine: str
    dimension: int
    cosine: float
    """to Keras' feature of the same image, the smallest"""
    error: float
    """Euclidean distance from Keras' feature, the largest, in units of those of Keras' features from their mean"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=4, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--only", nargs="+", choices=KNOWN, default=list(KNOWN), metavar="NAME", help="[all]")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory(prefix="fruitpipe-equality-") as folder:
        chosen = subset(options.images, options.count, Path(folder, "images"))
        print(f"{'backbone':<22}{'engine':<10}{'features':>9}{'cosine':>12}{'target':>11}{'error/spread':>14}")
        for name in options.only:
            # A process and a cache for each, or weights of all would be in memory and on the disk at the end.
            os.environ["FRUITPIPE_CACHE"] = str(Path(folder, name))
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                for line in pool.submit(compare, name, chosen).result():
                    row = f"{name:<22}{line.engine:<10}{line.dimension:>9}{line.cosine:>12.8f}{f'>= {TARGET:g}':>11}"
                    print(f"{row}{line.error:>14.1e}", flush=True)


def compare(name: str, images: Path) -> list[Line]:
    # Not at the top, where the first process would import them too.
    import keras

    keras.utils.set_random_seed(SEED)
    network, prepared = by_keras(name)
    files = sorted(each for each in images.rglob("*") if each.is_file())
    pixels = np.stack([decode(file.read_bytes(), KNOWN[name].side, ImageConfig()).pixels for file in files])
    given = prepared(pixels.astype(np.float32))
    settle(network, given)
    network.save_weights(weights := images.parent / "drawn.weights.h5")
    config = Config(input="IMAGES", output="OUT", backbone=name, weights=str(weights))
    backbone, spec, *_ = resolve(config, Environment.read())
    model = keras.Model(network.input, network.get_layer(backbone.layer).output)
    features = [np.asarray(model(image[np.newaxis], training=False)).astype(np.float64) for image in given]
    expected = np.concatenate(features)
    Path(str(spec.source)).rename(flat := images.parent / "backbone.tflite")
    return list(lines(flat, pixels, expected.mean((1, 2)) if expected.ndim == 4 else expected))


def by_keras(name: str) -> tuple[Any, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """A network and what Keras does to pixels for it."""
    import keras

    if name in keras_applications.NETWORKS:
        module = getattr(keras.applications, keras_applications.module_of(name))
        return getattr(keras.applications, keras_applications.function_of(name))(weights=None), module.preprocess_input
    return efficientnet_lite0.classifier(trained=False), lambda pixels: (pixels - 127) / 128


def settle(network: Any, given: NDArray[np.float32]) -> None:
    """Make the statistics of batch normalisation those of these images."""
    from keras.layers import BatchNormalization

    for layer in network.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum = 0.0
    network(given, training=True)


def lines(flat: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float64]) -> Iterator[Line]:
    spread = np.linalg.norm(expected - expected.mean(axis=0), axis=1)
    for kind in ENGINES:
        engine = EngineSpec(kind, flat).start()
        found = np.zeros((len(pixels), engine.dimension), np.float32)
        engine.run(pixels, found)
        cosine = (found * expected).sum(1) / np.linalg.norm(found.astype(np.float64), axis=1)
        cosine /= np.linalg.norm(expected, axis=1)
        error = np.linalg.norm(found - expected, axis=1) / spread
        yield Line(kind, engine.dimension, float(cosine.min()), float(error.max()))


if __name__ == "__main__":
    main()
