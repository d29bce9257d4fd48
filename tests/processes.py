"""The processes of a run, seen from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something is so. The limit only keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children_of(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    """All that live, however deep; none where the process itself is gone."""
    try:
        found = psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []
    return [child for child in found if lives(child)]


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(processes: Iterable[psutil.Process]) -> int:
    """How many were there to be killed."""
    killed = 0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()
            killed += 1
    return killed


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none where it has ended, which a process may do at any time after it was found."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def nurseries_of(pid: int) -> list[psutil.Process]:
    """What forks Python workers: the run's nursery; or Spark's daemon, a child of the JVM, and its forks, whose command
    lines are the same."""
    return [child for child in children_of(pid) if is_nursery(words_of(child))]


def is_nursery(words: list[str]) -> bool:
    return "pyspark.daemon" in words or any("workers.nursery" in word for word in words)


def workers_of(pid: int) -> list[psutil.Process]:
    return [worker for each in nurseries_of(pid) for worker in children_of(each.pid, recursive=False)]


def jvms_of(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    return [child for child in children_of(pid, recursive=recursive) if Path(*words_of(child)[:1]).name == "java"]


def executors_of(pid: int) -> list[psutil.Process]:
    """JVMs of Spark's executors, where these are processes of their own."""
    return [child for child in jvms_of(pid) if any("CoarseGrainedExecutorBackend" in word for word in words_of(child))]
