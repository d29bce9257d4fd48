"""The protocol of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fruitpipe.errors import UserError
from fruitpipe.vision.bad_image import BadImage

CPU = "cpu"
BATCH = 16
"""Images that engines on the CPU take at once, one after the other. Decoding and inference in turn would drive each
other's data from the processor's caches, which costs 3 to 5 %."""


class Engine(Protocol):
    """Pixels of images in, a feature of each out. Belongs to one thread."""

    side: int
    """Height and width of the input, pixels."""
    dimension: int
    """Length of a feature."""
    batch: int
    """Images that it likes at once; it may be given fewer."""

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        """Write a feature of each image to `out`; return those that have none, by their number, and why.

        Parameters
        ----------
        batch: RGB, shape (n, side, side, 3), read-only. Grey images have one channel in memory, of stride 0.
        out: shape (n, dimension).

        Raises UserError where the run cannot go on.
        """


def require_cpu(name: str, device: str) -> None:
    """Raises UserError for any other device."""
    if device != CPU:
        raise UserError(f"{name} runs on the CPU, but {device} was requested: choose another engine.")


def bytes_of(source: bytes | Path) -> bytes:
    """An artefact's bytes."""
    return source.read_bytes() if isinstance(source, Path) else source
