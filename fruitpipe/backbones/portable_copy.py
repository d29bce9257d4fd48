"""A converted network as a file for elsewhere, with its sidecar and reference vectors."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath

import numpy as np
import yaml

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import family_of
from fruitpipe.backbones.onnx_network import to_onnx
from fruitpipe.config import Config
from fruitpipe.config.sidecar import Reference, Sidecar
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.engines.package import SUFFIXES, Package, beside
from fruitpipe.engines.reference_pictures import Kind, digest_of, reference_picture
from fruitpipe.errors import UserError
from fruitpipe.scratch import private_folder

PICTURES: tuple[tuple[Kind, int], ...] = (("tiles", 0), ("tiles", 1), ("tiles", 2), ("noise", 3))


def portable_copy(config: Config, facts: Backbone, engine: EngineSpec, place: str) -> dict[str, bytes]:
    """The network and its sidecar, by where they go. The sidecar's vectors are LiteRT's, and hold.

    engine: LiteRT's, of a flatbuffer that takes levels from 0 to 255, as all conversions give.

    Raises UserError where `place` is of another kind, the backbone is such a file already, or the extra for ONNX is
    missing.
    """
    suffix = PurePosixPath(place).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"--output {place}: a network is written as {' or '.join(SUFFIXES)}: name the file so.")
    if engine.kind != "litert":
        raise UserError(f"{config.backbone} is such a file already: copy it with {beside(facts.name)}.")
    network = engine.data if suffix == ".tflite" else to_onnx(engine.data)
    told = sidecar_for(config, facts, engine.start())
    text = yaml.safe_dump(told.model_dump(mode="json", exclude_none=True), sort_keys=False).encode()
    with private_folder() as folder:
        package = folder / "backbone.zip"
        Package(PurePosixPath(place).name, network, text).write(package)
        EngineSpec(suffix[1:], package).start()
    return {place: network, beside(place): text}


def sidecar_for(config: Config, facts: Backbone, engine: Engine) -> Sidecar:
    """What there is to say of a converted network."""
    weights = f", {config.weights}" if "weights" in family_of(config.backbone).keys else ""
    return Sidecar(
        layout="NHWC",
        size=facts.input_size,
        preprocessing="levels",
        source=f"fruitpipe convert: {facts.name}, layer {facts.layer}, pooling {facts.pooling}{weights}",
        references=tuple(reference_of(engine, kind, seed) for kind, seed in PICTURES),
    )


def reference_of(engine: Engine, kind: Kind, seed: int) -> Reference:
    """What an engine gives for a picture."""
    picture = reference_picture(kind, seed, engine.side)
    vector = np.empty((1, engine.dimension), np.float32)
    engine.run(picture[np.newaxis], vector)
    text = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return Reference(kind=kind, seed=seed, pixels=digest_of(picture), vector=text)
