"""Validation of names, with a suggestion for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import LiteralString

from pydantic_core import PydanticCustomError

RECORDED = {"recorded": True}
"""Context that a config of an earlier run is read in: what it names may be of a package that is not installed here."""


def one_of(value: str, names: Iterable[str], message: LiteralString) -> str:
    """A name that is one of some. Raises PydanticCustomError `unknown_name` otherwise, with the likely one.

    message: what is wrong with the value; may say {names}.
    """
    found = list(names)
    if value in found:
        return value
    raise PydanticCustomError("unknown_name", message, {"meant": meant(value, found), "names": ", ".join(found)})


def meant(value: str, names: Iterable[str]) -> str:
    """The one of some names that a misspelt one is likely to be; empty where it is like none."""
    return next(iter(difflib.get_close_matches(value, [*names], 1)), "")
