"""Standard streams, which may be missing, closed, or objects that are no files; and what is let out through them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, TextIO, cast

from fruitpipe.escapes import visible
from fruitpipe.redaction import without_secrets


class Filtered:
    """A stream for text, of which no secrets get through it and no control characters."""

    def __init__(self, stream: TextIO, styled: bool = False) -> None:
        """styled: whether control characters get through nevertheless."""
        self.unfiltered = stream
        self.styled = styled

    def write(self, text: str) -> int:
        clean = without_secrets(text)
        self.unfiltered.write(clean if self.styled else visible(clean))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        if name == "buffer":  # what is written there is not filtered
            raise AttributeError(name)
        return getattr(self.unfiltered, name)


def filter_output() -> None:
    """From now on, filter all that Python writes to standard output and standard error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Filtered):
            setattr(sys, name, Filtered(stream))


def unfiltered(stream: TextIO | None) -> TextIO | None:
    """For programs' output, in which `***` could stand for a number: its texts are without secrets already."""
    return stream.unfiltered if isinstance(stream, Filtered) else stream


def styled(stream: TextIO | None) -> TextIO | None:
    """For rich, which steers the terminal itself: the texts that it is given have to be `visible` already."""
    return cast(TextIO, Filtered(stream.unfiltered, styled=True)) if isinstance(stream, Filtered) else stream


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
    """Whether the stream is a terminal."""
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


def shown(screen: int, log: IO[bytes], name: str) -> tuple[threading.Thread, IO[bytes]]:
    """A file whose lines come to a screen without secrets, and to a log, and what brings them until all that write have
    ended."""
    reading, writing = os.pipe()

    def show() -> None:
        with log, os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                said = without_secrets(line).encode()
                # Without a screen, or room for the log, whoever writes goes on: it would die of a pipe without an end.
                with suppress(OSError):
                    log.write(said)
                with suppress(OSError):
                    os.write(screen, said)

    thread = threading.Thread(target=show, name=name, daemon=True)
    thread.start()
    return thread, os.fdopen(writing, "wb")


def say(line: str, stream: TextIO | None) -> None:
    """Write a line for people, as far as there is where to: what it tells of goes on without."""
    if stream is not None:
        with suppress(AttributeError, OSError, ValueError):
            print(visible(line), file=stream, flush=True)
