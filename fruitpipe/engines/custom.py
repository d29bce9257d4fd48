"""The engine of a user's class, which a config names as package.module:Class."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from fruitpipe.engines.engine import BATCH, CPU, bytes_of, require_cpu
from fruitpipe.errors import UserError
from fruitpipe.vision.bad_image import BadImage

METHODS = ("describe", "load", "feature")


class Description(NamedTuple):
    """Input, output and version of a user's backbone."""

    input_size: int
    """Side of the square images that it takes, pixels."""
    dimension: int
    """Length of a feature."""
    version: str
    """Another version gives other features: those of the last one are not used again."""


class CustomBackbone(Protocol):
    """Protocol of `backbone: package.module:Class`. Instantiated without arguments on the driver and in each worker."""

    def describe(self) -> Description:
        """Called first, and where a run starts only this: leave what takes time or memory to `load`."""

    def load(self) -> None:
        """Called once in each process that makes features. What should be read or built before them."""

    def feature(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The feature, shape (dimension,), of an RGB image of shape (input_size, input_size, 3).

        The pixels are read-only. An exception makes this image a failed one, which the next run tries again, and this
        run goes on. Keep to one thread: each core has an instance.
        """


def create(name: str) -> tuple[CustomBackbone, Description]:
    """An instance of package.module:Class. Raises UserError that names what is missing or not as it must be."""
    module, _, attribute = name.partition(":")
    try:
        found = import_user_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"backbone {name}: no module {error.name}: install it, or put its folder on PYTHONPATH "
            "(on Kubernetes, in an image built from fruitpipe's)."
        ) from error
    except Exception as error:
        raise UserError(f"backbone {name}: {module} cannot be imported: {shown(error)}. Fix it.") from error
    if not hasattr(found, attribute):
        raise UserError(f"backbone {name}: {module} has no {attribute}: give the name of a class in it.")
    try:
        backbone = getattr(found, attribute)()
    except Exception as error:
        raise UserError(f"backbone {name} cannot be made without arguments: {shown(error)}. Fix it.") from error
    if missing := [method for method in METHODS if not callable(getattr(backbone, method, None))]:
        raise UserError(
            f"backbone {name} has no {' and no '.join(f'{method}()' for method in missing)}: "
            f"it needs {', '.join(METHODS)}, as fruitpipe.CustomBackbone says."
        )
    return backbone, described(name, backbone)


def import_user_module(name: str) -> Any:
    """Import a module. The working folder counts where it is nowhere else, as in Python's own command line.

    Only then: the folder may be somebody else's, and holds modules of any name.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
    here = os.getcwd()  # noqa: PTH109 - as entries of sys.path are, a string
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        sys.path.remove(here)
        raise


def described(name: str, backbone: CustomBackbone) -> Description:
    try:
        told = backbone.describe()
    except Exception as error:
        raise UserError(f"backbone {name}: describe() failed: {shown(error)}. Fix it.") from error
    match told:
        case (int(size), int(dimension), str(version)) if size > 0 and dimension > 0:
            return Description(size, dimension, version)
    raise UserError(
        f"backbone {name}: describe() must return fruitpipe.Description(input_size, dimension, version), two numbers "
        f"from 1 and a text; it returned {told!r}."
    )


class Artefact(BaseModel):
    """Name and description of a class, as models keep them."""

    name: str = Field(alias="class")
    input_size: int = Field(ge=1)
    dimension: int = Field(ge=1)
    version: str

    @property
    def description(self) -> Description:
        return Description(self.input_size, self.dimension, self.version)


def artefact(name: str, description: Description) -> bytes:
    """Name and description of a class, as JSON."""
    return json.dumps({"class": name, **description._asdict()}).encode()


def class_of(data: bytes) -> str:
    """The class that an artefact names, as package.module:Class. Raises ValueError where it is none."""
    return Artefact.model_validate_json(data).name


def version_of(data: bytes) -> str:
    """The version of the class that an artefact names. Raises ValueError where it is none."""
    return Artefact.model_validate_json(data).version


class CustomEngine:
    """An instance of a class of the user's."""

    batch = BATCH

    def __init__(self, source: bytes | Path, device: str = CPU) -> None:
        """Raises UserError as `create` does, where the class is not as its artefact says, and for another device."""
        wanted = Artefact.model_validate_json(bytes_of(source))
        self._name = wanted.name
        require_cpu(self._name, device)
        self._backbone, description = create(self._name)
        if description != wanted.description:
            raise UserError(
                f"backbone {self._name} is version {description.version} here, of {description.dimension} features; "
                f"version {wanted.version} of {wanted.dimension} is wanted: install that one."
            )
        try:
            self._backbone.load()
        except Exception as error:
            raise UserError(f"backbone {self._name}: load() failed: {shown(error)}. Fix it.") from error
        self.side, self.dimension = description.input_size, description.dimension

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        """An image for which the class raises an exception is `rejected`.

        Raises UserError where a feature is not as `describe` promises.
        """
        bad = {}
        for number, (pixels, feature) in enumerate(zip(batch, out, strict=True)):
            try:
                found = np.asarray(self._backbone.feature(np.ascontiguousarray(pixels)))
            except Exception as error:  # noqa: BLE001 - somebody's code
                bad[number] = BadImage("rejected", f"{self._name}: {shown(error)}")
                continue
            if found.shape != feature.shape or not np.can_cast(found.dtype, out.dtype, "same_kind"):
                raise UserError(
                    f"backbone {self._name}: feature() returned {found.dtype} of shape {found.shape}; "
                    f"describe() promises float32 of shape {feature.shape}."
                )
            feature[...] = cast(Any, found)
        return bad


def shown(error: Exception) -> str:
    """An exception of a user's code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
