"""Why a task failed for good, in one line, taken from the tracebacks that its worker left."""

from __future__ import annotations

import re

from fruitpipe.errors import FruitpipeError, told_by

ATTEMPTS = 4
"""Of each task."""


def full_disk(text: str) -> FruitpipeError | None:
    """The error of a disk that is full; None where the text says of none."""
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return FruitpipeError("the disk is full. What was computed is kept: make room and run again to continue.")
    return None


def quoted(text: str) -> list[str]:
    """Of each traceback in a text, the line after the indented ones, which names the cause."""
    return re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(\S.*)$", text, re.MULTILINE)


def failure_of(cause: str, times: str) -> FruitpipeError:
    """The error of a task, made from the line that names its cause; our own stay what they are."""
    return told_by(cause) or FruitpipeError(f"a task failed {times}: {cause[:500]}. What was computed is kept.")


def in_times(attempts: int) -> str:
    return "once" if attempts == 1 else f"{attempts} times"
