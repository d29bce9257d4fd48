"""Networks in int8, whose ranges of values images of the run have shown."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fruitpipe import extras
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import Learning, Sample
from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError, NotLearnt, UserError, first_line
from fruitpipe.numeric import precision

if TYPE_CHECKING:
    from fruitpipe.backbones.resolved import ResolvedBackbone

IMAGES = 64
"""that are looked at; with 16 or 128, features are as near to those in float32"""
KIND = "litert_int8"


def calibrated(config: Config, exact: Backbone, flatbuffer: Path, learning: Learning | None) -> ResolvedBackbone:
    """The network of the model to reuse, of an earlier run on the same images, or one that is made now.

    exact, flatbuffer: the network in float32.

    Raises UserError where it is to be made, and the library for that is not installed, no image can be decoded, or the
    network has what cannot be rounded.
    """
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines import EngineSpec

    if learning is None:
        raise NotLearnt(f"{config.backbone} in int8 is made by a run, from some of its images")
    objects: tuple[str, ...] = ()
    if learning.reused and learning.reused.kind == KIND:
        engine = learning.reused
    else:
        name, data = find_or_make(config, exact, flatbuffer, learning)
        engine, objects = EngineSpec(KIND, data), (name,)
    weights = hashlib.sha256(f"{exact.weights} {engine.digest}".encode()).hexdigest()
    facts = exact.model_copy(update={"weights": weights})
    return ResolvedBackbone.of(config, facts, engine, exact=EngineSpec("litert", flatbuffer), objects=objects)


def find_or_make(config: Config, exact: Backbone, flatbuffer: Path, learning: Learning) -> tuple[str, bytes]:
    """Name and bytes of the network that a sample of the run's images leads to; one that is made is kept."""
    sample = sample_of(learning)
    name = name_of(config, exact, sample)
    if found := find(learning, name, exact):
        return name, found
    extras.require("ai_edge_quantizer", "int8", "makes networks of precision: int8")
    try:
        made = make(flatbuffer.read_bytes(), exact.input_size, learning, sample)
    except FruitpipeError:
        raise
    except Exception as error:  # whatever the library says of an operator that it does not know
        raise UserError(f"{config.backbone} cannot be made int8 ({first_line(error)}): leave precision out.") from error
    learning.keep(name, made)
    return name, made


def make(flatbuffer: bytes, side: int, learning: Learning, sample: Sample) -> bytes:
    """The network in int8. Raises UserError where no image can be decoded, and what the library raises."""
    from fruitpipe.backbones.int8 import Calibration, Seen, quantised

    seen = learning.map(Calibration(flatbuffer), sample, side)
    if not seen:
        raise UserError(f"precision: int8 needs images, and of {len(sample)} none can be decoded: leave it out.")
    return quantised(flatbuffer, Seen.together(seen))


def find(learning: Learning, name: str, exact: Backbone) -> bytes | None:
    """The network that an earlier run has made; None where there is none of this name, or a damaged one."""
    from fruitpipe.engines import EngineSpec

    data = learning.find(name)
    with suppress(UserError):
        if data:
            started = EngineSpec(KIND, data).start()
            return data if (started.side, started.dimension) == (exact.input_size, exact.dimension) else None
    return None


def sample_of(learning: Learning) -> Sample:
    """Other images than those in which precisions are compared, where there are as many."""
    compared = {*learning.sample(precision.SAMPLE)}
    others = [image for image in learning.sample(precision.SAMPLE + IMAGES) if image not in compared]
    return others if len(others) == IMAGES else learning.sample(IMAGES)


def name_of(config: Config, exact: Backbone, sample: Sample) -> str:
    """The object of a network: another one for other images, rules or weights."""
    from fruitpipe.storage import layout
    from fruitpipe.vision.decode import features_digest

    deciding = [features_digest(exact.digest, config.image), sample]
    return layout.network(hashlib.sha256(json.dumps(deciding).encode()).hexdigest())
