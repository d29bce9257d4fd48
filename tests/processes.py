"""The processes of a run, seen from outside."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something is so. The limit only keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children_of(pid: int) -> list[psutil.Process]:
    """All that live, however deep; none where the process itself is gone."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in found if lives(child)]


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def workers_of(pid: int) -> list[psutil.Process]:
    """The Python workers: children of Spark's daemon, which is a child of the JVM, or of the run's nursery."""
    children = children_of(pid)
    sources = [child.pid for child in children if is_source(child.cmdline())]
    return [child for child in children if child.ppid() in sources]


def is_source(words: list[str]) -> bool:
    return "pyspark.daemon" in words or any("workers.nursery" in word for word in words)


def jvms_of(pid: int) -> list[psutil.Process]:
    return [child for child in children_of(pid) if child.name() == "java"]


def executors_of(pid: int) -> list[psutil.Process]:
    """JVMs of Spark's executors, where these are processes of their own."""
    return [child for child in jvms_of(pid) if any("CoarseGrainedExecutorBackend" in word for word in child.cmdline())]
