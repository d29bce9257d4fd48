"""How a command ends: a word on standard error and, in a pod, to Kubernetes."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn

from fruitpipe import streams
from fruitpipe.config import Environment


def give_up(reason: str, code: int) -> NoReturn:
    """Say why on standard error and, in a pod, to Kubernetes."""
    for line in reason.splitlines():
        streams.say(f"error: {line}", sys.stderr)
    leave_word(reason)
    sys.exit(code)


def leave_word(text: str) -> None:
    """In a pod, say how it ended where Kubernetes looks for that, which takes 4 KiB."""
    if log := Environment.read().termination_log:
        with suppress(OSError):  # it ended so, whether it can be said there or not
            log.write_bytes(text.encode()[:4096])
