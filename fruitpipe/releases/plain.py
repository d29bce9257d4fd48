"""Objects of Kubernetes as its API has them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

Plain = dict[str, Any]
"""An object, or a part of one."""


def dig(value: Any, *path: str | int, default: Any = None) -> Any:
    """What lies at a path within objects and lists; `default` where there is nothing."""
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return default
    return default if value is None else value


def time_of(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None
