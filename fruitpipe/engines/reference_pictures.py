"""Pictures that anybody can draw, from a kind and a seed: vectors can be compared without shipping photographs."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["tiles", "noise"]
TILES = 8
"""Across and down."""


def reference_picture(kind: Kind, seed: int, side: int) -> NDArray[np.uint8]:
    """RGB of shape (side, side, 3), of the bytes that SHAKE-256 makes of the text `fruitpipe KIND SEED`.

    noise: each byte is a level, row by row. tiles: the first 192 are the colours of 8 x 8 tiles; pixel (y, x) is in
    tile (8 y // side, 8 x // side).
    """
    stream = hashlib.shake_256(f"fruitpipe {kind} {seed}".encode())
    drawn = side if kind == "noise" else TILES
    levels = np.frombuffer(stream.digest(drawn * drawn * 3), np.uint8).reshape(drawn, drawn, 3)
    at = np.arange(side) * drawn // side
    return np.ascontiguousarray(levels[at][:, at])


def pixels_digest(picture: NDArray[np.uint8]) -> str:
    """SHA-256 of a picture's bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
