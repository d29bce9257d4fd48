"""The thin layer of Spark: run numbered tasks on it, and say why one failed. Imports no NumPy."""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from py4j.protocol import Py4JError
from pyspark import Accumulator, AccumulatorParam, SparkContext, TaskContext

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError
from fruitpipe.spark.embedded import running
from fruitpipe.spark.failures import explained
from fruitpipe.workers.runner import Ended, Result, attempt


class Finished(AccumulatorParam[list[Any]]):
    """Results of tasks on their way to the driver, as each task ends."""

    def zero(self, value: list[Any]) -> list[Any]:
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:
        value1 += value2
        return value1


class Packed:
    """A value that is pickled as bytes, and unpickled as itself.

    Arrays are pickled as buffers since protocol 5, which PySpark's encrypted streams do not take.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(self._value, protocol=4),)


class Cluster:
    """A running Spark, on which numbered tasks are run. See `Runner`."""

    def __init__(self, context: SparkContext, first: Callable[[bool], None], note: str) -> None:
        """first: called at the start of each task, with whether that has failed before."""
        self._context = context
        self._first = first
        self.note = note
        """What people should know of how it was started, if anything."""
        self.slots = slots(context)
        """Tasks that run at once, when all executors are there."""
        self.local = is_local(context)
        """Whether tasks run on this machine, and see its files."""
        self.gpu_tasks = gpu_tasks(context)
        """Tasks at once on an executor's GPUs, of which each has one or a part; 0 where tasks have none."""
        self.worker_memory = 0
        """Largest resident set that a Python worker has had, bytes."""

    def warm_up(self) -> None:
        """Start the Python workers of the executors that are there, before there is work."""
        if self.local or self._has_executors():
            # Long enough that every slot gets one of these tasks, and with it a process of its own. Executors may be
            # fewer than there are to be, and somebody's session may say any number of its default parallelism.
            self.map(lambda _: time.sleep(0.2), min(max(self._context.defaultParallelism, 1), self.slots))

    def _has_executors(self) -> bool:
        return len(cast(Any, self._context)._jsc.sc().statusTracker().getExecutorInfos()) > 1  # one is the driver

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._context, idle=not self.worker_memory)

    def share(self, value: Any) -> Callable[[], Any]:
        """Send a value to every executor once; tasks call the result to get it."""
        with self._explained():
            broadcast = self._context.broadcast(Packed(value))
        return lambda: broadcast.value

    def map(
        self,
        task: Callable[[int], Result],
        count: int,
        watch: Callable[[Result], None] = lambda _: None,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        """See `Runner`; one Spark task each."""
        first = self._first
        with self._explained():
            finished: Accumulator[list[Ended[Result]]] = self._context.accumulator([], Finished())
        failure: list[BaseException] = []
        group = f"fruitpipe-{uuid4().hex}"

        def each(number: int, _: Iterable[int]) -> Iterator[None]:
            again = cast(TaskContext, TaskContext.get()).attemptNumber() > 0
            finished.add([attempt(first, task, number, again)])
            return iter(())

        def run() -> None:
            try:
                # The Spark may be somebody's, with jobs of their own: a group tells ours from theirs.
                self._context.setJobGroup(group, "fruitpipe")
                # Spark adds what a task has added once for each task that is done, however often it was tried.
                self._context.parallelize(range(count), count).mapPartitionsWithIndex(each).collect()
            except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
                failure.append(error)

        thread = threading.Thread(target=run, name="spark-job", daemon=True)
        thread.start()
        seen = 0
        try:
            while thread.is_alive():
                thread.join(0.1)
                seen = self._report(finished.value, seen, watch)
                poll()
            self._report(finished.value, seen, watch)
        except BaseException:
            cancel(self._context, group)
            raise
        finally:
            results, finished.value = finished.value, []  # PySpark keeps accumulators as long as the process lives
        if failure:
            with self._explained():
                raise failure[0]
        if len(results) != count:  # Spark goes on where the driver cannot take what a task has added
            raise FruitpipeError(
                f"Spark lost the results of {count - len(results)} of {count} tasks, as where the driver has too "
                "little memory or other packages than the executors: check both, then run again. What was computed is "
                "kept."
            )
        return [result for _, result, _ in sorted(results, key=itemgetter(0))]

    def _report(self, results: list[Ended[Result]], seen: int, watch: Callable[[Result], None]) -> int:
        fresh = results[seen:]
        for _, result, memory in fresh:
            self.worker_memory = max(self.worker_memory, memory)
            watch(result)
        return seen + len(fresh)


def slots(context: SparkContext) -> int:
    """Cores of all executors that there are to be: on Kubernetes, those that are there at first may be one."""
    conf = context.getConf()
    dynamic = conf.get("spark.dynamicAllocation.enabled") == "true"
    executors = conf.get("spark.dynamicAllocation.maxExecutors" if dynamic else "spark.executor.instances")
    if executors is None or is_local(context):
        return local_cores(context) or max(context.defaultParallelism, 1)
    return int(executors) * int(conf.get("spark.executor.cores", "1"))


def local_cores(context: SparkContext) -> int:
    """Cores that local, local[N], local[*] or local[N,attempts] stands for; 0 for other masters."""
    match = re.fullmatch(r"local(?:\[(\*|\d+)(?: *, *\d+)?\])?", str(context.master))
    if match is None:
        return 0
    return int(cast(Any, context)._jvm.Runtime.getRuntime().availableProcessors() if match[1] == "*" else match[1] or 1)


def gpu_tasks(context: SparkContext) -> int:
    """Tasks that the GPUs of an executor are enough for at a time; 0 where tasks have none, as in local mode."""
    conf = context.getConf()
    share = float(conf.get("spark.task.resource.gpu.amount", "0"))
    if not share or local_cores(context):
        return 0
    return max(int(int(conf.get("spark.executor.resource.gpu.amount", "1")) / share), 1)


def gpu_address() -> str:
    """Where a task that has a GPU finds it, as the discovery script says."""
    return str(cast(TaskContext, TaskContext.get()).resources()["gpu"].addresses[0])


def is_local(context: SparkContext) -> bool:
    return str(context.master).startswith("local")


def cancel(context: SparkContext, group: str) -> None:
    with suppress(Py4JError, OSError):  # if Spark itself is gone, so are its tasks
        context.cancelJobGroup(group)


@contextmanager
def cluster(
    config: SparkConfig,
    environment: Environment,
    log: Path,
    verbose: bool = False,
    first: Callable[[bool], None] = lambda _: None,
) -> Iterator[Cluster]:
    """The Spark that runs already, or an embedded one that writes its noise to `log` and ends with the last of the
    blocks that use it.

    first: what each task begins with, given whether it has failed before; every worker has run it before the block.

    Raises UserError where there is no Java or somebody's Spark cannot be used, FruitpipeError where Spark does not
    start.
    """
    with running(config, environment, log, verbose) as (context, note):
        with explained(context):
            found = Cluster(context, first, note)
            found.warm_up()
        yield found
