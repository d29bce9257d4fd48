"""How many cores there are for this process."""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path


def cores() -> int:
    """Cores that this process may use, as Java counts them: within a container's share of them, too."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # as on macOS
    with suppress(OSError, ValueError):  # ValueError: the share is "max"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        return max(min(allowed, ceil(quota / period)), 1)
    return allowed
