"""Image networks of keras-hub's presets, as it downloads them or in a folder. An extra: fruitpipe[hub].

keras-hub is needed for the conversion alone, which says what an image's feature is and how pixels are scaled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import flatbuffer
from fruitpipe.backbones.family import Learning, Listed, memory_of
from fruitpipe.backbones.network_choice import NetworkChoice
from fruitpipe.backbones.network_family import FLOAT, resolved
from fruitpipe.backbones.weights import folder_digest
from fruitpipe.config import Config, Environment
from fruitpipe.config.names import meant
from fruitpipe.errors import NoWeights, UserError, first_line

if TYPE_CHECKING:
    from fruitpipe.backbones.resolved import ResolvedBackbone

SCHEME = "keras_hub:"
FOLDER = "give the folder of a preset, keras_hub:FOLDER, with its config.json and weights"


class HubPresets:
    """Presets by name, by a handle such as kaggle://…, or by their folder; with @SIDE, at another size of the input."""

    names: ClassVar[tuple[str, ...]] = ()
    pattern = rf"^{SCHEME}[^@\r\n]+(@[1-9]\d*)?$"
    keys = frozenset({"engine", "precision", "min_cosine"})
    defaults: ClassVar[Mapping[str, Any]] = {}
    learns = False

    def listed(self, name: str, environment: Environment) -> Listed:
        """Raises UserError as `resolve` does."""
        facts, path = flatbuffer(choice_of(name), environment)
        return Listed(name, facts.dimension, facts.input_size, facts.parameters, path.stat().st_size)

    def chosen(self, config: Config) -> NetworkChoice:
        """The preset that a config names."""
        return choice_of(config.backbone)

    def worker_memory(self, config: Config) -> int:
        """As of other networks. Converts the preset to know how large it is."""
        facts, _ = flatbuffer(self.chosen(config), Environment.read())
        return memory_of(FLOAT * facts.parameters)

    def resolve(self, config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
        """Converts the preset if this machine has not done so before.

        Raises UserError where keras-hub or the preset is missing, or it gives no feature of an image.
        """
        backbone, path = flatbuffer(self.chosen(config), environment)
        return resolved(config, backbone, path, backbone.parameters, learning)

    def build(self, choice: NetworkChoice) -> tuple[Any, Backbone]:
        """See `fruitpipe.backbones.convert.Buildable`."""
        if find_spec("keras_hub") is None:
            raise UserError(
                f"{choice.name}: keras_hub, which reads presets, is not installed. It gets an environment of its own: "
                "docs/configuration.md has the command, under Presets of keras-hub."
            )
        import keras
        import numpy as np

        from fruitpipe.backbones.keras_model import digest

        preset, side = split(choice.name)
        network, converter, side = loaded(preset, side)
        image = keras.Input((side, side, 3), batch_size=1)
        scale, offset = (1.0 if converter.scale is None else converter.scale), (converter.offset or 0.0)
        try:
            feature, pooling = feature_of(network, image * np.float32(scale) + np.float32(offset))
        except (TypeError, ValueError) as error:
            raise UserError(f"{choice.name} gives no feature for a single image: {first_line(error)}") from error
        model = keras.Model(image, feature)
        identity = json.dumps([choice.weights, digest(model), scale, offset])
        facts = Backbone(
            name=f"{SCHEME}{PurePosixPath(preset).name}",
            input_size=side,
            layer=type(network).__name__,
            pooling=pooling,
            weights=hashlib.sha256(identity.encode()).hexdigest(),
            dimension=int(feature.shape[-1]),
            parameters=int(model.count_params()),
        )
        return model, facts


def split(name: str) -> tuple[str, int | None]:
    """The preset, and the side of its input where the name says so."""
    preset, _, side = name.removeprefix(SCHEME).partition("@")
    return preset, int(side) if side else None


def choice_of(name: str) -> NetworkChoice:
    """A preset counts by its name, one in a folder by the bytes there.

    Raises UserError where there is no such folder.
    """
    preset, _ = split(name)
    if "://" in preset or "/" not in preset:
        return NetworkChoice(name, None, "preset", "preset")
    if not Path(preset, "config.json").exists():
        raise UserError(f"{name}: {preset} is not the folder of a preset: {FOLDER}.")
    return NetworkChoice(name, None, "preset", folder_digest(Path(preset)))


def loaded(preset: str, side: int | None) -> tuple[Any, Any, int]:
    """A preset's network, its image converter, and the side of the input, pixels."""
    import keras_hub

    known = keras_hub.models.Backbone.presets
    if "/" not in preset and preset not in known:
        close = meant(preset, known)
        raise UserError(f"keras-hub has no preset {preset}: {f'{close} is one' if close else FOLDER}.")
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
        network = keras_hub.models.Backbone.from_preset(preset, dtype="float32")
        there = side_of(network)
        side = side or side_in(converter.image_size) or there
        if there not in {side, None} and "image_shape" in signature(type(network).__init__).parameters:
            network = type(network).from_preset(preset, dtype="float32", image_shape=(side, side, 3))
    except ValueError as error:
        raise UserError(
            f"{preset} is not an image backbone that keras-hub can read here: {first_line(error)}"
        ) from error
    except (OSError, RuntimeError, KeyError) as error:
        where = "" if Path(preset).is_dir() else f"; where it cannot be downloaded, {FOLDER}"
        raise NoWeights(f"cannot read the preset {preset} ({first_line(error)}){where}.") from error
    if side is None:
        raise UserError(f"{preset} takes images of any size: say which, as in {SCHEME}{preset}@224.")
    if side_of(network) not in {side, None}:
        raise UserError(f"{preset} takes images of {side_of(network)} x {side_of(network)} alone.")
    return network, converter, side


def side_of(network: Any) -> int | None:
    """Of its square input, pixels; None where that is free. Raises ValueError where it takes something else."""
    shape = getattr(getattr(network, "vision_encoder", network), "image_shape", None)
    if shape is None and len(network.inputs) == 1:
        shape = network.inputs[0].shape[1:]
    if shape is None or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{type(network).__name__} does not take a single RGB image")
    return side_in(shape[:2])


def side_in(size: Any) -> int | None:
    """Of height and width; None where there are none. Raises ValueError where they are not equal."""
    if size is None or set(size) == {None}:
        return None
    if len(set(size)) != 1:
        raise ValueError(f"images of {size[0]} x {size[1]} are not square")
    return int(size[0])


def feature_of(network: Any, image: Any) -> tuple[Any, str]:
    """The feature of an image, shape (1, d), and how it is pooled.

    That is the embedding that a network shares with texts, else the class token, the mean of tokens or of maps.

    Raises ValueError where it gives something else.
    """
    import keras
    from keras import layers

    if hasattr(network, "get_vision_embeddings"):
        return network.get_vision_embeddings(image), "none"
    if len(network.outputs) != 1:
        raise ValueError(f"{type(network).__name__} gives {len(network.outputs)} outputs")
    output = keras.Model(network.inputs[0], network.outputs[0])(image)
    match len(output.shape):
        case 2:
            return output, "none"
        case 3 if any(re.search("cls_token|class_token", weight.path) for weight in network.weights):
            return output[:, 0], "cls"
        case 3:
            return layers.GlobalAveragePooling1D()(output), "mean"
        case 4:
            return layers.GlobalAveragePooling2D()(output), "average"
    raise ValueError(f"{type(network).__name__} gives arrays of {len(output.shape)} axes")
