"""Run a module of ours in a process of its own, which may end as it likes, and whose memory goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping

_running: set[subprocess.Popen[str]] = set()
"""Those of this process, on any of its threads."""


def end_running() -> None:
    """End them: nobody wants any more what they are for."""
    for each in list(_running):
        each.kill()


def run_module(name: str, *arguments: object, variables: Mapping[str, str] | None = None) -> str:
    """Run a module's `main`; why it failed in one line, the last one that it has written, or nothing."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    environment = os.environ | (variables or {})
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as own:
        _running.add(own)
        try:
            _, said = own.communicate()
        except BaseException:  # such as Ctrl-C
            own.kill()
            raise
        finally:
            _running.discard(own)
    if own.returncode < 0:
        return (
            f"its process was ended by {signal.Signals(-own.returncode).name}, as happens where memory runs out or a "
            "file is damaged: run it where there is more memory, or choose another backbone."
        )
    return (said.strip().splitlines() or [f"exit code {own.returncode}"])[-1] if own.returncode else ""
