"""The thin layer of Spark: start it, run numbered tasks on it, say why one failed. Imports no NumPy."""

from __future__ import annotations

import logging
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from uuid import uuid4

from py4j.protocol import Py4JError
from pyspark import Accumulator, AccumulatorParam, SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError
from fruitpipe.redaction import redact_output, redacted_tracebacks, without_secrets
from fruitpipe.spark.failures import ATTEMPTS, cause_of, cause_of_start
from fruitpipe.spark.java import class_archive, find_java

WORKERS = {
    # Huge pages, where the kernel leaves the choice to programs: inference takes up to 3 % less time, the decoding of a
    # photograph of 12 megapixels 20 %.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # A worker has one core: clients of object stores would start a thread in each worker for every core there is.
    "TOKIO_WORKER_THREADS": "1",
}
"""Environment of Python workers."""
Result = TypeVar("Result")
Ended = tuple[int, Result, int]
"""A task's number, its result, and the largest resident set of its process, bytes."""


class Finished(AccumulatorParam[list[Any]]):
    """Results of tasks on their way to the driver, as each task ends."""

    def zero(self, value: list[Any]) -> list[Any]:
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:
        value1 += value2
        return value1


class Cluster:
    """A running Spark, on which numbered tasks are run."""

    def __init__(self, context: SparkContext, first: Callable[[], None]) -> None:
        """first: called at the start of each task."""
        self._context = context
        self._first = first
        self.slots = slots(context)
        """Tasks that run at once, when all executors are there."""
        self.local = is_local(context)
        """Whether tasks run on this machine, and see its files."""
        self.worker_memory = 0
        """Largest resident set that a Python worker has had, bytes."""

    def warm_up(self) -> None:
        """Start the Python workers of the executors that are there, before there is work."""
        # Long enough that every slot gets one of these tasks, and with it a process of its own. Executors may be fewer
        # than there are to be, and somebody's session may say any number of its default parallelism.
        self.map(lambda _: time.sleep(0.2), min(max(self._context.defaultParallelism, 1), self.slots))

    def share(self, value: Any) -> Callable[[], Any]:
        """Send a value to every executor once; tasks call the result to get it."""
        broadcast = self._context.broadcast(value)
        return lambda: broadcast.value

    def map(
        self,
        task: Callable[[int], Result],
        count: int,
        watch: Callable[[Result], None] = lambda _: None,
        poll: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        """Run task(0) … task(count - 1), one Spark task each; return the results in order.

        `watch` is given each result when its task ends, `poll` is called several times a second meanwhile; both on this
        thread, so that Ctrl-C arrives here and cancels the tasks.

        Raises FruitpipeError with the cause where a task fails for the fourth time.
        """
        first = self._first
        finished: Accumulator[list[Ended[Result]]] = self._context.accumulator([], Finished())
        failure: list[BaseException] = []
        group = f"fruitpipe-{uuid4().hex}"

        def each(number: int, _: Iterable[int]) -> Iterator[None]:
            redact_output()
            with redacted_tracebacks():
                first()
                finished.add([(number, task(number), peak_memory())])
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
        except BaseException:
            cancel(self._context, group)
            raise
        self._report(finished.value, seen, watch)
        if failure:
            raise cause_of(failure[0]) from failure[0]
        return [result for _, result, _ in sorted(finished.value, key=itemgetter(0))]

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
    match = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\d+)?\])?", str(context.master))
    if match is None:
        return 0
    return int(cast(Any, context)._jvm.Runtime.getRuntime().availableProcessors() if match[1] == "*" else match[1] or 1)


def is_local(context: SparkContext) -> bool:
    return str(context.master).startswith("local")


def peak_memory() -> int:
    """Largest resident set that this process has had, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cancel(context: SparkContext, group: str) -> None:
    with suppress(Py4JError, OSError):  # if Spark itself is gone, so are its tasks
        context.cancelJobGroup(group)


@contextmanager
def cluster(
    config: SparkConfig,
    environment: Environment,
    log: Path,
    verbose: bool = False,
    first: Callable[[], None] = lambda: None,
) -> Iterator[Cluster]:
    """The Spark that runs already, or an embedded one that ends with this block and writes its noise to `log`.

    first: what each task begins with; every worker has run it before the block.

    Raises UserError where there is no Java, FruitpipeError where Spark does not start.
    """
    if environment.submitted or SparkContext._active_spark_context is not None:
        context = SparkContext.getOrCreate()
        if environment.submitted:  # else it is somebody's, who may have other jobs for it
            context.environment = WORKERS | context.environment
        running = Cluster(context, first)
        running.warm_up()
        yield running
        return
    with shown() if verbose else log.open("ab") as noise:
        context, process = start(config, environment, noise, log)
        try:
            started = Cluster(context, first)
            started.warm_up()
            yield started
        finally:
            stop(context, process)


@contextmanager
def shown() -> Iterator[IO[bytes]]:
    """A file whose lines come to standard error, without secrets, while programs that were given it write to it."""
    (reading, writing), screen = os.pipe(), sys.stderr.fileno()

    def show() -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                os.write(screen, without_secrets(line).encode())

    thread = threading.Thread(target=show, name="spark-messages", daemon=True)
    thread.start()
    try:
        with os.fdopen(writing, "wb") as file:
            yield file
    finally:
        thread.join(1)


def start(
    config: SparkConfig, environment: Environment, noise: IO[bytes], log: Path
) -> tuple[SparkContext, subprocess.Popen[bytes] | None]:
    """The embedded Spark and its JVM. Raises UserError and FruitpipeError."""
    java = find_java(environment)
    conf = SparkConf().setAppName("fruitpipe").setMaster(with_retries(config.master))
    for key, value in (local_settings(config, environment, java) | config.conf).items():
        conf.set(key, value)
    try:
        gateway = launch_gateway(conf, {"stdout": noise, "stderr": noise})
        context = SparkContext(conf=conf, gateway=gateway)
    except Exception as error:
        raise not_started(error, log, environment) from error
    context.pythonExec = sys.executable  # PySpark takes whatever `python3` is
    hush(context)
    context.setLogLevel("WARN")
    return context, getattr(gateway, "proc", None)


def not_started(error: Exception, log: Path, environment: Environment) -> FruitpipeError:
    """Why, and where all that Spark wrote is kept."""
    said = without_secrets(log.read_text(errors="replace")) if log.exists() else ""
    reason = f"Spark did not start: {(cause_of_start(said) or str(error)).rstrip('.')}."
    if not said:  # as with --verbose, which has shown all of it
        return FruitpipeError(reason)
    kept = environment.cache / "spark" / "failed-start.log"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(said)
    except OSError:
        return FruitpipeError(f"{reason} --verbose shows all that it writes.")
    return FruitpipeError(f"{reason} All that it wrote is in {kept}.")


def hush(context: SparkContext) -> None:
    """Keep PySpark from printing stack traces when its JVM dies: the job that fails then says so in one line."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    cast(Any, context)._accumulatorServer.handle_error = lambda request, address: None


def stop(context: SparkContext, process: subprocess.Popen[bytes] | None) -> None:
    """Stop Spark and its JVM, so that the same process can start another.

    SparkContext.stop() would wait a second for its own accumulator server, which ends with the JVM in any case.
    """
    with suppress(Py4JError, OSError):  # the JVM may have died before us
        if (running := cast(Any, context)._jsc) is not None:  # None where the user has stopped it
            running.stop()
            cast(Any, SparkContext._gateway).shutdown()
    SparkContext._active_spark_context = SparkContext._gateway = SparkContext._jvm = None
    if process is not None and process.stdin:
        process.stdin.close()  # the JVM ends when its standard input does


def with_retries(master: str) -> str:
    """local[N] as local[N,4]: without a number of attempts, Spark's local mode does not retry a task."""
    match = re.fullmatch(r"local(?:\[(\*|\d+)\])?", master)
    return f"local[{match[1] or 1},{ATTEMPTS}]" if match else master


def local_settings(config: SparkConfig, environment: Environment, java: Path) -> dict[str, str]:
    """Settings of a Spark that serves one run on one machine."""
    return {
        "spark.driver.memory": config.memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        # The JVM only moves numbers of tasks and small results: the quick compiler and the plain collector are enough.
        "spark.driver.extraJavaOptions": f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {class_archive(environment, java)}",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # TCP on loopback waits for delayed acknowledgements at each task: twice the cost of a Unix socket.
        "spark.python.unix.domain.socket.enabled": "true",
        **{f"spark.executorEnv.{name}": value for name, value in WORKERS.items()},
    }
