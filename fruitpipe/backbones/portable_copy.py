"""A converted network as a file for elsewhere, with its sidecar and reference vectors."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath

import numpy as np
import yaml

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import family_of
from fruitpipe.backbones.network_files import found, network_size
from fruitpipe.backbones.onnx_network import to_onnx
from fruitpipe.config import Config, ConfigError, local_path
from fruitpipe.config.sidecar import MOST_BYTES, Reference, Sidecar, sidecar_of
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.engines.package import SUFFIXES, Package, beside
from fruitpipe.engines.reference_pictures import Kind, pixels_digest, reference_picture
from fruitpipe.errors import UserError
from fruitpipe.scratch import private_folder

PICTURES: tuple[tuple[Kind, int], ...] = (("tiles", 0), ("tiles", 1), ("tiles", 2), ("noise", 3))


SOURCE = "fruitpipe convert: "
"""How the `source` of each such sidecar begins."""


def check_place(config: Config, place: str) -> None:
    """Raise UserError where `place` is named as no network, or its sidecar would replace what is no sidecar of ours."""
    if PurePosixPath(place).suffix not in SUFFIXES:
        raise UserError(f"--output {place}: a network is written as {' or '.join(SUFFIXES)}: name the file so.")
    if (data := sidecar_at(config, place)) is None:
        return
    try:
        is_ours = (sidecar_of(data, place).source or "").startswith(SOURCE)
    except ConfigError:
        is_ours = False
    if not is_ours:
        raise would_replace(place, "which `fruitpipe convert` did not write")


def sidecar_at(config: Config, place: str) -> bytes | None:
    return found(config, local_path(beside(place)), MOST_BYTES)


def would_replace(place: str, whose: str) -> UserError:
    return UserError(f"--output {place} would replace {beside(place)}, {whose}: choose another name.")


def portable_copy(config: Config, facts: Backbone, engine: EngineSpec, place: str) -> dict[str, bytes]:
    """The network and its sidecar, by where they go. The sidecar's vectors are LiteRT's, and hold.

    engine: LiteRT's, of a flatbuffer that takes levels from 0 to 255, as all conversions give.
    place: as `check_place` allows it.

    Raises UserError where the backbone is such a file already, the sidecar would replace that of another network, or
    the extra for ONNX is missing.
    """
    suffix = PurePosixPath(place).suffix
    if engine.kind != "litert":
        raise UserError(f"{config.backbone} is such a file already: copy it with {beside(facts.name)}.")
    told = sidecar_for(config, facts, engine.start())
    text = yaml.safe_dump(told.model_dump(mode="json", exclude_none=True), sort_keys=False).encode()
    for other in (f"{place.removesuffix(suffix)}{each}" for each in SUFFIXES if each != suffix):
        if sidecar_at(config, place) not in {None, text} and is_there(config, other):
            raise would_replace(place, f"which is that of {other}, another network")
    network = engine.data if suffix == ".tflite" else to_onnx(engine.data)
    with private_folder() as folder:
        package = folder / "backbone.zip"
        Package(PurePosixPath(place).name, network, text).write(package)
        EngineSpec(suffix[1:], package).start()
    return {place: network, beside(place): text}


def is_there(config: Config, name: str) -> bool:
    """Whether there is a network of a name."""
    try:
        return network_size(config.model_copy(update={"backbone": local_path(name)})) > 0
    except UserError:
        return False


def sidecar_for(config: Config, facts: Backbone, engine: Engine) -> Sidecar:
    """What there is to say of a converted network."""
    weights = f", {config.weights}" if "weights" in family_of(config.backbone).keys else ""
    return Sidecar(
        layout="NHWC",
        size=facts.input_size,
        preprocessing="levels",
        source=f"{SOURCE}{facts.name}, layer {facts.layer}, pooling {facts.pooling}{weights}",
        references=tuple(reference_of(engine, kind, seed) for kind, seed in PICTURES),
    )


def reference_of(engine: Engine, kind: Kind, seed: int) -> Reference:
    """What an engine gives for a picture."""
    picture = reference_picture(kind, seed, engine.side)
    vector = np.empty((1, engine.dimension), np.float32)
    engine.run(picture[np.newaxis], vector)
    text = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return Reference(kind=kind, seed=seed, pixels=pixels_digest(picture), vector=text)
