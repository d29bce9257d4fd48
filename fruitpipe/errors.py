"""Errors that a person can act on: one line that names the cause and the next step, and an exit code."""

from __future__ import annotations

import errno
import sys

from fruitpipe.escapes import visible
from fruitpipe.redaction import without_secrets


class FruitpipeError(Exception):
    """A failure with a readable cause; the CLI prints it as one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Whatever others said of it, the message holds no secrets, and nothing that steers a terminal."""
        super().__init__(visible(without_secrets(message)))


class UserError(FruitpipeError):
    """A mistake that the user can fix: a wrong path, a typo in the config, missing weights or Java."""

    exit_code = 2


class NoWeights(UserError):
    """The trained weights of a backbone are not available here."""


class NotLearnt(UserError):
    """A backbone is learnt from images, and there are none or it is not the time."""


class TooManyFailures(FruitpipeError):
    """More images failed than `failures.max_rate` allows; nothing was published, everything computed was kept."""

    exit_code = 3


class Interrupted(FruitpipeError):
    """Ctrl-C or SIGTERM; finished parts are kept and the next run continues from them."""

    exit_code = 130


def told_by(line: str) -> FruitpipeError | None:
    """The error of ours that another process has ended with, of the line that names it; None of anybody else's."""
    name, _, message = line.partition(": ")
    module, _, last = name.rpartition(".")
    kind = getattr(sys.modules.get(module), last, None) if module.startswith("fruitpipe.") else None
    if not (isinstance(kind, type) and issubclass(kind, FruitpipeError)):
        return None
    made: type[FruitpipeError] = next(each for each in kind.__mro__ if each.__module__ == __name__)
    return made(message)  # others may be made of more than a message


def first_line(error: Exception) -> str:
    """What a library says, as part of a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_words(error: Exception) -> str:
    """Any exception, as one line."""
    if isinstance(error, FruitpipeError):
        return str(error)
    if isinstance(error, OSError):
        writing = "while writing" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else None
        parts = (error.strerror or error, error.filename or writing)
        advice = " Give rights on it, or choose another." if error.errno in (errno.EACCES, errno.EPERM) else ""
        return ": ".join(" ".join(str(part).split()) for part in parts if part) + f".{advice}"
    said = " ".join(str(error).split())
    name = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"unexpected {name}. This is a fault of fruitpipe: please report it with what `fruitpipe --verbose …` shows."
