"""Names that a config may give, and which of them was probably meant by another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import LiteralString

from pydantic_core import PydanticCustomError


def known(value: str, names: Iterable[str], message: LiteralString) -> str:
    """A name that is one of some. Raises PydanticCustomError `unknown_name` otherwise, with the likely one."""
    found = list(names)
    if value in found:
        return value
    close = difflib.get_close_matches(value, found, 1)
    raise PydanticCustomError("unknown_name", message, {"meant": close[0] if close else ""})
