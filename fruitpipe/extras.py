"""Libraries that come with an extra of the package."""

from __future__ import annotations

from importlib.util import find_spec

from fruitpipe.errors import UserError


def require(library: str, extra: str, use: str) -> None:
    """Raise UserError where a library is not installed. use: what for, after "which"."""
    if find_spec(library) is None:
        raise UserError(f"{library}, which {use}, is not installed: pip install 'fruitpipe[{extra}]'.")
