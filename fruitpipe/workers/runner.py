"""What runs numbered tasks: processes of this machine, or Spark. And what happens around a task wherever it is run."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from fruitpipe.redaction import redacted_tracebacks
from fruitpipe.streams import filter_output

Result = TypeVar("Result")
Ended = tuple[int, Result, int]
"""A task's number, its result, and the largest resident set of its process, bytes."""
WORKERS = {
    # Huge pages, where the kernel leaves the choice to programs: inference takes up to 3 % less time, the decoding of a
    # photograph of 12 megapixels 20 %. Two arenas: what a thread has freed in its own no other takes. With one for
    # each that fetches, workers are a tenth larger, and grow with the parts that they have done.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2",
    # A worker has one core: clients of object stores would start a thread in each worker for every core there is.
    "TOKIO_WORKER_THREADS": "1",
}
"""Environment of Python workers."""


class Runner(Protocol):
    """Runs numbered tasks."""

    slots: int
    """Tasks that run at once, when all are there that are to be."""
    local: bool
    """Whether tasks run on this machine, and see its files."""
    gpu_tasks: int
    """Tasks at once on an executor's GPUs, of which each has one or a part; 0 where tasks have none."""
    worker_memory: int
    """Largest resident set that a Python worker has had, bytes."""

    @property
    def note(self) -> str:
        """What people should know of how it was started, if anything."""

    def share(self, value: Any) -> Callable[[], Any]:
        """Have a value reach every worker once; tasks call the result to get it."""

    def map(
        self,
        task: Callable[[int], Result],
        count: int,
        watch: Callable[[Result], None] = lambda _: None,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        """Run task(0) … task(count - 1), in any order; return the results in order.

        `watch` is given each result when its task ends, `poll` is called several times a second meanwhile; both on this
        thread, so that Ctrl-C arrives here and cancels the tasks.

        Raises FruitpipeError with the cause where a task fails for the fourth time.
        """


def attempt(first: Callable[[bool], None], task: Callable[[int], Result], number: int, again: bool) -> Ended[Result]:
    """Run a task in its worker. first: called before, told whether the task has failed before."""
    filter_output()
    with redacted_tracebacks():
        first(again)
        return number, task(number), peak_memory()


def peak_memory() -> int:
    """Largest resident set that this process has had, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
