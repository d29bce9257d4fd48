"""Quantities in words for people."""

from __future__ import annotations

from collections.abc import Mapping


def size(count: int) -> str:
    """A number of bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def in_kinds(counts: Mapping[str, int], most: int = 8) -> str:
    """Numbers of things by kind, such as `7 txt, 2 heic`; of many kinds, the first."""
    named = [f"{count} {kind}" for kind, count in list(counts.items())[:most]]
    rest = sum(list(counts.values())[most:])
    return ", ".join([*named, f"{rest} of other kinds"] if rest else named)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
