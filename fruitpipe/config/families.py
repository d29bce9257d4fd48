"""What a config asks of backbone families: the names they know and the keys these accept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationInfo

from fruitpipe.config.names import RECORDED, one_of
from fruitpipe.errors import UserError
from fruitpipe.plugins import FIX, Registry


class Family(Protocol):
    """Backbones of one kind. Made without arguments."""

    @property
    def names(self) -> Sequence[str]:
        """Names of its backbones."""

    @property
    def pattern(self) -> str | None:
        """Regular expression of further names, such as those of classes; None where there are none."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of BACKBONE_KEYS that its backbones accept."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Defaults of a config that differ with its backbones, as a tree."""


FAMILIES: Registry[type[Family]] = Registry(
    "fruitpipe.backbones",
    {
        "efficientnet_lite0": "fruitpipe.backbones.efficientnet_lite0:EfficientNetLite0",
        "keras_applications": "fruitpipe.backbones.keras_applications:KerasApplications",
        "visual_words": "fruitpipe.backbones.visual_words:VisualWords",
        "keras_hub": "fruitpipe.backbones.hub:HubPresets",
        "portable": "fruitpipe.backbones.portable:PortableNetworks",
        "custom": "fruitpipe.backbones.custom:CustomBackbones",
    },
)
BACKBONE_KEYS = ("layer", "pooling", "weights", "engine", "precision", "min_cosine", "words", "sha256")
"""Keys of a config that only some families take."""


def families() -> Iterator[Family]:
    """All families, loaded as they are asked for; those of other packages come last.

    Raises UserError where two know one name.
    """
    taken: set[str] = set()
    for registered in registrations():
        family = FAMILIES.get(registered)()
        if clash := taken.intersection(family.names):
            raise UserError(f"{FAMILIES.group} {registered}: {min(clash)} is a backbone that is there already. {FIX}")
        taken.update(family.names)
        yield family


def registrations() -> Iterator[str]:
    """Names of the families; installed packages are scanned only once fruitpipe's own are exhausted."""
    yield from FAMILIES.own
    yield from FAMILIES.names()[len(FAMILIES.own) :]


def find_family(name: str) -> Family | None:
    """The family that a backbone is of; None where no family knows its name."""
    return next((family for family in families() if knows(family, name)), None)


def knows(family: Family, name: str) -> bool:
    return name in family.names or (family.pattern is not None and re.fullmatch(family.pattern, name) is not None)


def backbone_names() -> list[str]:
    """All names of all families."""
    return [name for family in families() for name in family.names]


def backbone_name(value: str, info: ValidationInfo) -> str:
    """A name that a family knows. Raises PydanticCustomError `unknown_name` otherwise, with the likely one."""
    if info.context == RECORDED or find_family(value):
        return value
    return one_of(
        value,
        backbone_names(),
        "is not a known backbone: `fruitpipe backbones` lists them, a network of your own is a file that ends in "
        ".onnx or .tflite, a preset is keras_hub:NAME, and a class of your own is package.module:Class.",
    )


def names_schema() -> dict[str, Any]:
    """JSON Schema of a backbone's name."""
    patterns = [{"pattern": family.pattern} for family in families() if family.pattern]
    return {"type": "string", "anyOf": [{"enum": backbone_names()}, *patterns]}
