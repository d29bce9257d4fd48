"""Quantities in words for people."""

from __future__ import annotations

from collections.abc import Mapping


def size(count: int) -> str:
    """A number of bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def counted(count: int, thing: str) -> str:
    """A number of things, such as `1 object` and `2 objects`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Numbers of things by kind; equal ones by their names."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def in_kinds(counts: Mapping[str, int], most: int = 8) -> str:
    """Numbers of things by kind, such as `7 txt, 2 heic`; of many kinds, the most frequent."""
    ordered = largest_first(counts)
    named = [f"{count} {kind}" for kind, count in list(ordered.items())[:most]]
    rest = sum(list(ordered.values())[most:])
    return ", ".join([*named, f"{rest} of other kinds"] if rest else named)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
