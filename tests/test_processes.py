from __future__ import annotations

import os
import subprocess

import psutil
from processes import children_of, kill, wait, words_of


def test_a_process_that_has_ended_meanwhile_is_none() -> None:
    """Before its parent has waited for it, and afterwards."""
    with subprocess.Popen(["sleep", "60"]) as process:
        found = psutil.Process(process.pid)
        wait(lambda: words_of(found) == ["sleep", "60"])  # it has none for a moment as it becomes another program
        assert found in children_of(os.getpid(), recursive=False)
        assert kill([found]) == 1
        wait(lambda: found.status() == psutil.STATUS_ZOMBIE)
        assert words_of(found) == []
        assert found not in children_of(os.getpid(), recursive=False)
    assert words_of(found) == children_of(found.pid) == []
    assert kill([found]) == 0
