"""How much of this machine there is for this process: within a container's share of it, too."""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

import psutil


def cores() -> int:
    """Cores that this process may use, as Java counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # as on macOS
    with suppress(OSError, ValueError):  # ValueError: the share is "max"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        return max(min(allowed, ceil(quota / period)), 1)
    return allowed


def memory() -> int:
    """Bytes that this machine has, or this container may take."""
    there_is = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # ValueError: the limit is "max"
        there_is = min(there_is, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(there_is)
