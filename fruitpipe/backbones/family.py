"""The protocol of a backbone family: what a config asks of it, and how a backbone is resolved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast

from fruitpipe.config import Config, Environment, Family, families, find_family
from fruitpipe.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines import EngineSpec

WORKER = 420
"""MiB that any Python worker needs."""
DECODER = 80
"""MiB that its decoder needs besides, without what an image takes there (`image.max_memory`)."""
Found = TypeVar("Found")
Sample = Sequence[tuple[str, ...]]
"""Paths and etags of images."""


class Listed(NamedTuple):
    """A backbone as `fruitpipe backbones` lists it."""

    name: str
    dimension: int
    """of its features, where the config says no more"""
    input_size: int
    """side of its square input, pixels"""
    parameters: int | None
    """None where it is no network"""
    bytes: int | None
    """of what it was converted to; None where it is not, or need not be"""


class BackboneFamily(Family, Protocol):
    """Backbones of one kind. Made without arguments.

    Other packages register theirs as an entry point of the group `fruitpipe.backbones`.
    """

    @property
    def learns(self) -> bool:
        """Whether its backbones are made from images of the run. Those in int8 are in any case."""

    def listed(self, name: str, environment: Environment) -> Listed:
        """One of its names."""

    def worker_memory(self, config: Config) -> int:
        """Memory of a Python worker that runs it, MiB."""

    def resolve(self, config: Config, environment: Environment, learning: Learning | None) -> ResolvedBackbone:
        """See `fruitpipe.backbones.resolve`."""


class Learning(Protocol):
    """A run's images and stored objects, for backbones that are learnt from them."""

    @property
    def reused(self) -> EngineSpec | None:
        """Engine of the model that is reused; None where one is to be fitted."""

    def sample(self, count: int) -> list[tuple[str, ...]]:
        """Paths and etags of some of the run's images, drawn by their paths."""

    def map(self, work: Callable[[NDArray[np.uint8]], Found], sample: Sample, side: int) -> list[Found]:
        """What `work` makes of the pixels of each image, RGB of shape (side, side, 3), in order, on all cores.

        Images that cannot be decoded are left out. Raises NotLearnt where it is not the time to learn.
        """

    def find(self, name: str) -> bytes | None:
        """An object of the result."""

    def keep(self, name: str, data: bytes) -> None:
        """Write an object of the result, for other runs."""


def all_families() -> list[BackboneFamily]:
    """All families; those of other packages come last."""
    return [cast(BackboneFamily, family) for family in families()]


def is_learnt(config: Config) -> bool:
    """Whether a config's backbone is made from images of the run."""
    return family_of(config.backbone).learns or config.precision == "int8"


def family_of(name: str) -> BackboneFamily:
    """The family of a backbone. Raises UserError where none knows its name."""
    if (family := find_family(name)) is None:
        raise UserError(f"unknown backbone {name}: `fruitpipe backbones` lists them.")
    return cast(BackboneFamily, family)


def memory_of(weights: int) -> int:
    """Of a worker whose network has so many bytes of weights, MiB: the base of all, and the weights three times, as
    sent, as read, and as packed for the processor.

    Largest seen: 380 with mobilenet_v2, 610 with resnet50, 1860 with vgg16 up to fc2; with MobileNetV2 in a file of its
    own, 392 in ONNX, 332 in TFLite.
    """
    return math.ceil((WORKER + 3 * weights / (1 << 20)) / 10) * 10


def worker_memory(configs: Iterable[Config]) -> int:
    """Memory of a Python worker that runs the backbones of some configs side by side, MiB."""
    return WORKER + sum(family_of(config.backbone).worker_memory(config) - WORKER for config in configs)
