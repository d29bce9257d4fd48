"""Facts about known networks, and a config's choice among them."""

from __future__ import annotations

from typing import NamedTuple


class KnownNetwork(NamedTuple):
    """A network, with all of its layers."""

    side: int
    """of its input, pixels"""
    dimension: int
    """of its features, where nothing else is said"""
    parameters: int
    layer: str | None = None
    """of its features, where nothing else is said; None for the last one before the classifier"""
    used: int | None = None
    """parameters up to that layer"""


class NetworkChoice(NamedTuple):
    """A network up to a layer."""

    name: str
    layer: str | int | None
    """of the features; None for the last one before the classifier"""
    pooling: str
    weights: str
    """imagenet, random:SEED, or a path"""
