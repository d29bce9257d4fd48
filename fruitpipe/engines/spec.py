"""Engine specifications: the same in a task, in a model and on another machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fruitpipe.engines.custom import class_of
from fruitpipe.engines.engine import CPU, Engine, bytes_of
from fruitpipe.engines.gpu import Gpu
from fruitpipe.errors import FruitpipeError, UserError, first_line
from fruitpipe.plugins import Registry
from fruitpipe.units import size

Start = Callable[[bytes | Path, str], Engine]
"""An engine of an artefact, bytes or a local path, on a device. Raises UserError where this machine cannot run it."""

ENGINES: Registry[Start] = Registry(
    "fruitpipe.engines",
    {
        "litert": "fruitpipe.engines.litert:LiteRt",
        "litert_int8": "fruitpipe.engines.litert:LiteRt",
        "openvino": "fruitpipe.engines.openvino:OpenVino",
        "openvino_bf16": "fruitpipe.engines.openvino:OpenVinoBf16",
        "onnx": "fruitpipe.engines.portable:PortableNetwork",
        "tflite": "fruitpipe.engines.portable:PortableNetwork",
        "words": "fruitpipe.engines.visual_words:WordCounts",
        "python": "fruitpipe.engines.custom:CustomEngine",
    },
)
FILES = {
    "litert": "backbone.tflite",
    "litert_int8": "backbone.tflite",
    "openvino": "backbone.tflite",
    "openvino_bf16": "backbone.tflite",
    "onnx": "backbone.zip",
    "tflite": "backbone.zip",
    "words": "vocabulary.npz",
    "python": "backbone.json",
}
"""Name of the artefact in a model's folder, by kind of engine."""


def file_name(kind: str) -> str:
    """Name of the artefact in a model's folder."""
    return FILES.get(kind, "backbone.bin")


class EngineSpec(NamedTuple):
    """Kind of an engine, its artefact, bytes or a local path, and its device; picklable."""

    kind: str
    """one of `ENGINES`"""
    source: bytes | Path
    """flatbuffer, network with its sidecar, vocabulary, name and version of a class, or whatever the kind takes"""
    device: str = CPU

    def __repr__(self) -> str:
        artefact = str(self.source) if isinstance(self.source, Path) else size(len(self.source))
        return f"EngineSpec({self.kind}, {artefact}, on {self.device})"

    @property
    def data(self) -> bytes:
        return bytes_of(self.source)

    @property
    def size(self) -> int:
        """Size of the artefact, bytes."""
        return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)

    @property
    def digest(self) -> str:
        """SHA-256 of the artefact."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def code(self) -> str | None:
        """package.module:Class of the code besides fruitpipe's own that would run; None where there is none.

        Raises UserError where no such engine is installed, ValueError where the artefact of a class names none.
        """
        if self.kind in ENGINES.own:
            return class_of(self.data) if self.kind == "python" else None
        try:
            return ENGINES.code_of(self.kind)
        except KeyError:
            raise self._missing() from None

    def on_gpu(self, address: str, tasks: int) -> EngineSpec:
        """The same on a GPU by Spark's address of it, which so many tasks share. Raises UserError as `Gpu.at` does."""
        return self._replace(device=str(Gpu.at(address, tasks)))

    def start(self) -> Engine:
        """Start the engine. Raises UserError where this machine cannot run it, or its artefact is none."""
        try:
            start = ENGINES.get(self.kind)
        except KeyError:
            raise self._missing() from None
        try:
            return start(self.source, self.device)
        except FruitpipeError:
            raise
        except Exception as error:  # whatever a library says of an artefact that somebody else has made
            raise UserError(
                f"{self.kind} cannot run {file_name(self.kind)}: {first_line(error)}. It is damaged, or not for "
                "this machine: take another model or backbone."
            ) from error

    def _missing(self) -> UserError:
        return UserError(f"no engine {self.kind} is installed here: install the package that brings it.")
