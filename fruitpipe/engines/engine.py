"""What all engines have in common, and how one is started."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["litert", "openvino", "openvino_bf16", "words", "python"]

FILES: dict[Kind, str] = {
    "litert": "backbone.tflite",
    "openvino": "backbone.tflite",
    "openvino_bf16": "backbone.tflite",
    "words": "vocabulary.npz",
    "python": "backbone.json",
}
"""Name in a model of what each kind needs."""


def class_of(data: bytes) -> str:
    """The class, as package.module:Class, that the data of the kind `python` names. Raises ValueError, KeyError."""
    return str(json.loads(data)["class"])


class Engine(Protocol):
    """Runs a backbone on one thread, an image at a time. Not for use by two threads at once."""

    side: int
    """Height and width of the input, pixels."""
    dimension: int
    """Length of a feature."""

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the feature of an RGB image of shape (side, side, 3) to `out`, shape (dimension,).

        Raises BadImage where this image has none.
        """


class Extractor(NamedTuple):
    """All that a process needs to make features."""

    kind: Kind
    source: bytes | Path
    """Flatbuffer, vocabulary, or name and version of a class; or the file that holds it, for processes of one
    machine."""

    @property
    def data(self) -> bytes:
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source

    @property
    def size(self) -> int:
        """of the data, bytes"""
        return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)

    @property
    def digest(self) -> str:
        """SHA-256 of the data."""
        return hashlib.sha256(self.data).hexdigest()

    def packed(self) -> Extractor:
        """The same for other machines, where the file is not."""
        return self._replace(source=self.data)

    def start(self) -> Engine:
        """Raises UserError where this machine cannot run it."""
        match self.kind:  # imported here, as each brings a library of its own
            case "litert":
                from fruitpipe.engines.litert import LiteRt

                return LiteRt(self.source)
            case "openvino" | "openvino_bf16":
                from fruitpipe.engines.openvino import OpenVino

                return OpenVino(self.source, "bf16" if self.kind == "openvino_bf16" else "f32")
            case "words":
                from fruitpipe.engines.visual_words import Words

                return Words(self.data)
            case "python":
                from fruitpipe.engines.custom import Custom

                return Custom(self.data)
