"""What keys may look like."""

from __future__ import annotations

UNUSUAL = "//, /./, /../, a slash at an end or control characters"
"""In a key: what obstore refuses or passes over."""


def below(prefix: str) -> str:
    """What keys below a prefix begin with; `/` stands for those that begin so."""
    return prefix if prefix in {"", "/"} else f"{prefix}/"


def exact(key: str) -> str:
    """A key as obstore will ask for it. Raises ValueError where it would take slashes off it."""
    if key.startswith("/") or key.endswith("/"):
        raise ValueError(f'Path "{key}" begins or ends with a slash')
    return key
