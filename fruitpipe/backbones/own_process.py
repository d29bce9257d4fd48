"""Run a module of ours in a process of its own, which may end as it likes, and whose memory goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping


def run_module(name: str, *arguments: object, variables: Mapping[str, str] | None = None) -> str:
    """Run a module's `main`; why it failed in one line, the last one that it has written, or nothing."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | (variables or {}), capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return (
            f"its process was ended by {signal.Signals(-done.returncode).name}, as happens where memory runs out or a "
            "file is damaged: run it where there is more memory, or choose another backbone."
        )
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""
