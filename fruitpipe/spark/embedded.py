"""The embedded Spark: one for all runs of this process that go on at a time."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.redaction import without_secrets
from fruitpipe.spark.failures import ATTEMPTS, cause_of_start, is_stopped, java_says
from fruitpipe.spark.java import class_archive, find_java
from fruitpipe.spark.surroundings import is_nameless, own_environment
from fruitpipe.streams import descriptor

WORKERS = {
    # Huge pages, where the kernel leaves the choice to programs: inference takes up to 3 % less time, the decoding of a
    # photograph of 12 megapixels 20 %.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # A worker has one core: clients of object stores would start a thread in each worker for every core there is.
    "TOKIO_WORKER_THREADS": "1",
}
"""Environment of Python workers."""


@dataclass
class Embedded:
    """A Spark that this process has started."""

    context: SparkContext
    gateway: Any
    """PySpark's connection to its JVM"""
    note: str
    """what of the environment it has left aside, if anything"""
    before: tuple[Any, Any]
    """the same and that JVM, of a Spark that the process had before"""
    messages: threading.Thread | None
    """what shows them, where they are shown"""
    users: int = 0


class Holder:
    """The embedded Spark that runs now, if one does; whoever looks holds the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.embedded: Embedded | None = None


HOLDER = Holder()


@contextmanager
def running(
    config: SparkConfig, environment: Environment, log: Path, verbose: bool
) -> Iterator[tuple[SparkContext, str]]:
    """Somebody's Spark where this process has one, else the embedded one, and what that has left aside, if anything.

    The first that needs the embedded one starts it, with its own config, and the last one stops it.

    Raises UserError where somebody's cannot be used or there is no Java, FruitpipeError where Spark does not start.
    """
    with HOLDER.lock:
        somebodys = None if HOLDER.embedded else theirs(environment)
        if somebodys is None:
            ours = HOLDER.embedded = HOLDER.embedded or start(config, environment, log, verbose)
            ours.users += 1
    if somebodys is not None:
        yield somebodys, ""
        return
    try:
        yield ours.context, ours.note
    finally:
        with HOLDER.lock:
            ours.users -= 1
            if not ours.users:
                HOLDER.embedded = None
                stop(ours)


def theirs(environment: Environment) -> SparkContext | None:
    """The Spark that this process has. Raises UserError where nothing can be run on it any more."""
    if environment.submitted:
        context = SparkContext.getOrCreate()
        context.environment = WORKERS | context.environment
    elif (found := SparkContext._active_spark_context) is not None:
        context = found  # somebody's, who may have other jobs for it
    else:
        return None
    try:
        stopped = is_stopped(context)
    except (Py4JError, OSError) as error:
        raise UserError(
            "the Spark session of this process has lost its JVM, which died or was killed: restart Python, in a "
            "notebook the kernel."
        ) from error
    if stopped:
        raise UserError(
            "the Spark session of this process was stopped, but not by its stop(): call spark.stop(), then start "
            "another, or none, to run on this machine."
        )
    hush(context)
    return context


def start(config: SparkConfig, environment: Environment, log: Path, verbose: bool) -> Embedded:
    """Start Spark and its JVM, which writes its noise to `log`, or to standard error. Raises UserError and
    FruitpipeError."""
    java = find_java(environment)
    before = SparkContext._gateway, SparkContext._jvm
    SparkContext._gateway = SparkContext._jvm = None  # or PySpark would go on with a JVM of other settings
    surroundings = own_environment() if config.master.startswith("local") else nullcontext("")
    gateway: Any = None
    try:
        screen = descriptor(sys.stderr) if verbose else None
        messages, noise = (None, log.open("ab")) if screen is None else shown(screen)
        with surroundings as note, noise:
            conf = SparkConf().setAppName("fruitpipe").setMaster(with_retries(config.master))
            for key, value in (local_settings(config, environment, java) | config.conf).items():
                conf.set(key, value)
            gateway = launch_gateway(conf, {"stdout": noise, "stderr": noise})
            context = SparkContext(conf=conf, gateway=gateway)
    except Exception as error:
        failure = not_started(error, log, environment)  # asks the JVM
        forget(gateway, before)
        raise failure from error
    context.pythonExec = sys.executable  # PySpark takes whatever `python3` is
    hush(context)
    context.setLogLevel("WARN")
    return Embedded(context, gateway, note, before, messages)


def shown(screen: int) -> tuple[threading.Thread, IO[bytes]]:
    """A file whose lines come to a screen without secrets, and what brings them until all that write have ended."""
    reading, writing = os.pipe()

    def show() -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                os.write(screen, without_secrets(line).encode())

    thread = threading.Thread(target=show, name="spark-messages", daemon=True)
    thread.start()
    return thread, os.fdopen(writing, "wb")


def not_started(error: Exception, log: Path, environment: Environment) -> FruitpipeError:
    """Why, and where all that Spark wrote is kept."""
    said = without_secrets(log.read_text(errors="replace")) if log.exists() else ""
    told = java_says(error) or said
    reason = f"Spark did not start: {(cause_of_start(told) or str(error)).rstrip('.')}."
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
    logging.getLogger().addFilter(is_not_py4js)  # which it uses too, once
    cast(Any, context)._accumulatorServer.handle_error = lambda request, address: None


def is_not_py4js(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "py4j"


def stop(embedded: Embedded) -> None:
    """Stop Spark and its JVM, so that the same process can start another.

    SparkContext.stop() would wait a second for its own accumulator server, which ends with the JVM in any case.
    """
    with suppress(Py4JError, OSError):  # the JVM may have died before us
        if (running := cast(Any, embedded.context)._jsc) is not None:  # None where the user has stopped it
            running.stop()
            embedded.gateway.shutdown()
    SparkContext._active_spark_context = None
    forget(embedded.gateway, embedded.before)
    if embedded.messages:
        embedded.messages.join(1)


def forget(gateway: Any, before: tuple[Any, Any]) -> None:
    """End the JVM of a connection, if there is one, and have PySpark know the connection of before."""
    SparkContext._gateway, SparkContext._jvm = before
    process = getattr(gateway, "proc", None)
    if process is not None and process.stdin:
        process.stdin.close()  # the JVM ends when its standard input does


def with_retries(master: str) -> str:
    """local[N] as local[N,4]: without a number of attempts, Spark's local mode does not retry a task."""
    match = re.fullmatch(r"local(?:\[(\*|\d+)\])?", master)
    return f"local[{match[1] or 1},{ATTEMPTS}]" if match else master


def local_settings(config: SparkConfig, environment: Environment, java: Path) -> dict[str, str]:
    """Settings of a Spark that serves the runs of one process on one machine."""
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
        # For Java packages, of which there are none; but Spark asks for the place, by default in Java's home.
        **({"spark.jars.ivy": str(environment.cache / "ivy")} if is_nameless() else {}),
        **{f"spark.executorEnv.{name}": value for name, value in WORKERS.items()},
    }
