"""Processes of this machine, which run numbered tasks at once, and Spark where what remains is worth its start."""

from __future__ import annotations

import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Generic
from uuid import uuid4

import cloudpickle

from fruitpipe.errors import FruitpipeError
from fruitpipe.redaction import without_secrets
from fruitpipe.streams import descriptor, shown
from fruitpipe.workers.allowance import cores
from fruitpipe.workers.background import background
from fruitpipe.workers.failures import ATTEMPTS, failure_of, full_disk, in_times, quoted
from fruitpipe.workers.nursery import Nursery
from fruitpipe.workers.runner import Result, Runner

START = 5.0
"""CPU seconds that Spark takes to start, its workers included (`benchmarks/spark_start.py`)."""
SHARE = 0.02
"""Of the work that remains, what Spark's start may cost: on one machine it is no faster than we are."""


@dataclass(frozen=True)
class Shared:
    """A value in a file, which each worker reads once, one of Spark's as well."""

    path: Path

    def __call__(self) -> Any:
        return unpickled(self.path)


@cache
def unpickled(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


class Processes:
    """Worker processes, as many as there are cores; then Spark, if it is ever started. See `Runner`."""

    def __init__(
        self, first: Callable[[bool], None], spark: AbstractContextManager[Runner], folder: Path, verbose: bool
    ) -> None:
        """Start what they come from, which takes a second in which others can work.

        first: called at the start of each task, told whether that has failed before; workers have what its module
        imports from their beginning.
        spark: starts Spark on this machine.
        folder: for temporary files; verbose: show what workers print.

        Raises OSError where no process can be started.
        """
        self.slots = cores()
        self.local, self.gpu_tasks, self.worker_memory = True, 0, 0
        self.first = first
        self._folder = folder
        self._spark = spark
        self._starting: Future[Runner] | None = None
        self._opened = ExitStack()
        """what ends with the run: Spark, and where workers print"""
        self._output = self._open_output(verbose)
        self._idle: list[Connection] = []
        self._nursery = self._new_nursery()

    def _open_output(self, verbose: bool) -> IO[bytes]:
        output: IO[bytes] = self._log.open("ab")
        if verbose and (screen := descriptor(sys.stderr)) is not None:
            messages, output = shown(screen, output, "worker-messages")
            self._opened.callback(messages.join, 5)
        return self._opened.enter_context(output)

    @property
    def _log(self) -> Path:
        return self._folder / "workers.log"

    def _new_nursery(self) -> Nursery:
        nursery = Nursery.of(self.first.__module__, self._output)
        nursery.tell(self._folder, self._output)
        return nursery

    @property
    def note(self) -> str:
        if self._starting is None or not self._starting.done():
            return ""
        error = self._starting.exception()
        return f"went on without Spark, as it could not be started: {error}" if error else self._starting.result().note

    def share(self, value: Any) -> Callable[[], Any]:
        path = self._folder / f"shared-{uuid4().hex}"
        path.write_bytes(cloudpickle.dumps(value))
        return Shared(path)

    def map(
        self,
        task: Callable[[int], Result],
        count: int,
        watch: Callable[[Result], None] = lambda _: None,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        if spark := self._arrived():
            return self._by(spark, task, count, watch, poll)
        batch = TaskBatch(self, task, count, watch)
        try:
            while batch.waiting or batch.busy:
                if batch.waiting and (spark := self._arrived()):
                    batch.hand_over(lambda *rest: self._by(spark, *rest), poll)
                else:
                    batch.hand_out()
                    batch.look(0.1)
                    poll()
                    if self._starting is None and SHARE * batch.remaining > START:
                        self._starting = self._opened.enter_context(background(self._spark))
        except BaseException:
            self._let_go()
            raise
        if self._arrived():
            self._let_go()
        return [batch.results[number] for number in range(count)]

    def _by(self, spark: Runner, *what: Any) -> list[Any]:
        try:
            return spark.map(*what)
        finally:
            self.worker_memory = max(self.worker_memory, spark.worker_memory)

    def _arrived(self) -> Runner | None:
        """Spark, once it has started."""
        if self._starting is None or not self._starting.done() or self._starting.exception():
            return None
        return self._starting.result()

    def worker(self) -> Connection:
        """One that has nothing to do. It may die at any moment."""
        while self._idle:
            if not (idle := self._idle.pop()).poll():
                return idle
            idle.close()  # it has nothing to say but that it has ended
        if not self._nursery.lives:
            self._let_go()
            self._nursery = self._new_nursery()
        return self._nursery.worker()

    def take_back(self, worker: Connection, memory: int) -> None:
        self._idle.append(worker)
        self.worker_memory = max(self.worker_memory, memory)

    def cause_of_death(self, attempts: int) -> FruitpipeError:
        """Of a task whose worker has ended without a word."""
        if self._nursery.failed:
            said = without_secrets(self._log.read_text(errors="replace")).strip().splitlines()
            return FruitpipeError(f"worker processes do not start: {said[-1] if said else 'none says why'}.")
        return FruitpipeError(
            f"a worker was killed or crashed {in_times(attempts)} at the same task, most likely for want of memory: "
            "run fewer at once (spark.master=local[N]). What was computed is kept."
        )

    def _let_go(self) -> None:
        self._idle.clear()
        self._nursery.end()

    def end(self) -> None:
        """End all workers, and Spark."""
        self._let_go()
        self._opened.close()


class TaskBatch(Generic[Result]):
    """Some tasks on their way."""

    def __init__(
        self, processes: Processes, task: Callable[[int], Result], count: int, watch: Callable[[Result], None]
    ) -> None:
        self._processes, self._task, self._watch = processes, task, watch
        self._packed = cloudpickle.dumps((processes.first, task))
        self._told: set[Connection] = set()
        """workers that have the task"""
        self._attempts: Counter[int] = Counter()
        self._began = time.monotonic()
        self.waiting = deque(range(count))
        self.busy: dict[Connection, int] = {}
        self.results: dict[int, Result] = {}

    @property
    def remaining(self) -> float:
        """CPU seconds of the tasks that nobody has begun, about; 0 before there is enough to tell."""
        if len(self.results) < self._processes.slots:
            return 0.0
        each = (time.monotonic() - self._began) * self._processes.slots / len(self.results)
        return len(self.waiting) * each

    def hand_out(self) -> None:
        """Give tasks to workers, one to each."""
        while self.waiting and len(self.busy) < self._processes.slots:
            number, worker = self.waiting.popleft(), self._processes.worker()
            self.busy[worker] = number
            with suppress(OSError):  # it has died, which `look` will see
                worker.send((None if worker in self._told else self._packed, number, self._attempts[number] > 0))
            self._told.add(worker)

    def look(self, seconds: float) -> None:
        """Take the results of workers that are done, waiting so long for the first. Raises FruitpipeError as `map`."""
        for worker in wait(list(self.busy), seconds):
            assert isinstance(worker, Connection), "there is nothing else to wait for"
            number = self.busy.pop(worker)
            try:
                answer = worker.recv()
            except (EOFError, OSError):
                answer = None
            if isinstance(answer, tuple):
                _, self.results[number], memory = answer
                self._processes.take_back(worker, memory)
                self._watch(self.results[number])
            else:
                worker.close()
                self._try_again(number, answer)

    def _try_again(self, number: int, said: str | None) -> None:
        """Unless it was the last time. said: its worker, of what it raised; None where that has died."""
        self._attempts[number] += 1
        if (attempts := self._attempts[number]) < ATTEMPTS:
            self.waiting.appendleft(number)
        elif said is None:
            raise self._processes.cause_of_death(attempts)
        else:
            causes = quoted(said) or said.strip().splitlines()[-1:]
            raise full_disk(said) or failure_of(causes[-1], in_times(attempts))

    def hand_over(self, run: Callable[..., list[Result]], poll: Callable[[], None]) -> None:
        """Have Spark run all that nobody has begun; workers finish what they have meanwhile."""
        task, numbers = self._task, [*self.waiting]
        self.waiting.clear()

        def look_and_poll() -> None:
            self.look(0)
            poll()

        results = run(lambda index: task(numbers[index]), len(numbers), self._watch, look_and_poll)
        self.results |= zip(numbers, results, strict=True)
