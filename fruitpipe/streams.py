"""Standard streams, which may be missing, closed, or objects that are no files."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


def fill() -> None:
    """Open what is closed of the file descriptors 0, 1 and 2, leading nowhere.

    A file that got one of these numbers would have in it what libraries in C say.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def is_terminal(stream: TextIO | None) -> bool:
    """Whether there is a person at the other end."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # ValueError: it is closed
        return False


def descriptor(stream: TextIO | None) -> int | None:
    """Where a process of its own writes what is meant for a stream; None where that is no file."""
    try:
        return stream.fileno() if stream is not None else None
    except (AttributeError, OSError, ValueError):
        return None


def printable(text: str) -> str:
    """A text as one line that does nothing to a terminal: controls, and bytes that are not UTF-8, as \\xNN."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def say(line: str, stream: TextIO | None) -> None:
    """Write a line for people, as far as there is where to: what it tells of goes on without."""
    if stream is not None:
        with suppress(AttributeError, OSError, ValueError):
            print(line, file=stream, flush=True)
