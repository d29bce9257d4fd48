"""The embedded Spark: one for all runs of this process that go on at a time."""

from __future__ import annotations

import logging
import os
import re
import shlex
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.redaction import without_secrets
from fruitpipe.scratch import private_folder
from fruitpipe.spark.failures import cause_of_start, is_stopped, java_says, start_refused
from fruitpipe.spark.java import class_archive, find_java
from fruitpipe.spark.surroundings import is_nameless, local_folder, own_environment, submitted_with
from fruitpipe.streams import descriptor, shown
from fruitpipe.workers.failures import ATTEMPTS
from fruitpipe.workers.runner import WORKERS

NAMELESS = "anybody on this machine can reach Spark's ports meanwhile, as this user has no name in /etc/passwd"
"""What is to be known of a Spark without a secret of its own, which Java keeps by the user's name."""
LONGEST = 60
"""Bytes of the path of a folder for Unix sockets: of the 103 that every system takes, PySpark's names need 43."""


@dataclass
class Embedded:
    """A Spark that this process starts or has started."""

    before: tuple[Any, Any]
    """PySpark's connection to the JVM of a Spark that the process had before, and that JVM"""
    gateway: Any = None
    """the same to its own JVM, once that runs"""
    context: SparkContext | None = None
    """once it has started"""
    note: str = ""
    """what of the environment it has left aside, if anything"""
    messages: threading.Thread | None = None
    """what shows its messages, where they are shown"""
    at_end: ExitStack = field(default_factory=ExitStack)
    """what goes with it: its files"""


class Holder:
    """The embedded Spark that runs now, if one does; whoever looks holds the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.embedded: Embedded | None = None
        self.users = 0
        """of it, or of somebody's"""
        self.at_end = ExitStack()
        """what the last user leaves as it was"""


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
        context, note = None if HOLDER.embedded else theirs(environment), ""
        if context is None:
            HOLDER.embedded = HOLDER.embedded or start(config, environment, log, verbose)
            context, note = cast(SparkContext, HOLDER.embedded.context), HOLDER.embedded.note
        hush(context)
        HOLDER.users += 1
    try:
        yield context, note
    finally:
        with HOLDER.lock:
            HOLDER.users -= 1
            if not HOLDER.users:
                ours, HOLDER.embedded = HOLDER.embedded, None
                with HOLDER.at_end:
                    if ours:
                        stop(ours)


def theirs(environment: Environment) -> SparkContext | None:
    """The Spark that this process has. Raises UserError where nothing can be run on it any more."""
    if environment.submitted:
        try:
            context = SparkContext.getOrCreate()
        except Py4JJavaError as error:
            raise start_refused(java_says(error)) from error
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
    return context


def start(config: SparkConfig, environment: Environment, log: Path, verbose: bool) -> Embedded:
    """Start Spark and its JVM, which writes its noise to `log`, and to standard error where that is wanted.

    Raises UserError and FruitpipeError.
    """
    java = find_java(environment)
    ours = Embedded((SparkContext._gateway, SparkContext._jvm))
    SparkContext._gateway = SparkContext._jvm = None  # or PySpark would go on with a JVM of other settings
    surroundings = own_environment() if config.master.startswith("local") else nullcontext("")
    try:
        noise: IO[bytes] = log.open("ab")
        if verbose and (screen := descriptor(sys.stderr)) is not None:
            ours.messages, noise = shown(screen, noise, "spark-messages")
        with noise, surroundings as left_aside:
            ours.note = "; ".join(filter(None, [left_aside, NAMELESS if is_nameless() else ""]))
            folder = ours.at_end.enter_context(private_folder(local_folder()))
            conf = SparkConf().setAppName("fruitpipe").setMaster(with_retries(config.master))
            for key, value in (local_settings(config, environment, java, folder) | config.conf).items():
                conf.set(key, value)
            with submitted_with(written(conf, folder / "spark.properties")):
                ours.gateway = launch_gateway(popen_kwargs={"stdout": noise, "stderr": noise})
            ours.context = context = SparkContext(conf=conf, gateway=ours.gateway)
    except BaseException as error:
        told = java_says(error)  # asks the JVM
        forget(ours)
        if isinstance(error, FruitpipeError) or not isinstance(error, Exception):
            raise
        raise not_started(error, told, log, environment) from error
    context.pythonExec = sys.executable  # PySpark takes whatever `python3` is
    context.setLogLevel("WARN")
    return ours


def not_started(error: Exception, told: str, log: Path, environment: Environment) -> FruitpipeError:
    """Why, and where all that Spark wrote is kept. told: what Java says of the error."""
    said = without_secrets(log.read_text(errors="replace")) if log.exists() else ""
    reason = f"Spark did not start: {(cause_of_start(told or said) or cause_of_start(str(error))).rstrip('.')}."
    if not said:
        return FruitpipeError(reason)
    kept = environment.cache / "spark" / "failed-start.log"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(said)
    except OSError:
        return FruitpipeError(f"{reason} --verbose shows all that it writes.")
    return FruitpipeError(f"{reason} All that it wrote is in {kept}.")


def hush(context: SparkContext) -> None:
    """Keep PySpark from printing stack traces when its JVM dies, as long as it has users: the job that fails then says
    so in one line."""
    logger, root = logging.getLogger("py4j"), logging.getLogger()
    server = cast(Any, context)._accumulatorServer
    if not HOLDER.users:
        HOLDER.at_end.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        HOLDER.at_end.callback(root.removeFilter, is_not_py4js)
        root.addFilter(is_not_py4js)  # which py4j uses too, once
    if server and "handle_error" not in vars(server):
        server.handle_error = lambda request, address: None
        if not HOLDER.embedded:
            HOLDER.at_end.callback(unhush, context, server)


def unhush(context: SparkContext, server: Any) -> None:
    """Let PySpark print what goes wrong again, in a session whose JVM lives: of a death it learns later than we do."""
    with suppress(Py4JError, OSError):
        if not is_stopped(context):
            del server.handle_error


def is_not_py4js(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "py4j"


def stop(embedded: Embedded) -> None:
    """Stop Spark and its JVM, so that the same process can start another."""
    try:
        with suppress(Py4JError, OSError):  # the JVM may have died before us
            if (running := cast(Any, embedded.context)._jsc) is not None:  # None where the user has stopped it
                running.stop()
    finally:
        forget(embedded)


def forget(embedded: Embedded) -> None:
    """End the JVM, if there is one, and have PySpark know the connection of before.

    SparkContext.stop() would wait a second for its own accumulator server.
    """
    SparkContext._active_spark_context = None
    SparkContext._gateway, SparkContext._jvm = embedded.before
    if server := getattr(embedded.context, "_accumulatorServer", None):
        threading.Thread(target=server.shutdown, name="spark-accumulators", daemon=True).start()
    if gateway := embedded.gateway:
        gateway.shutdown()
        if gateway.proc:
            gateway.proc.stdin.close()  # the JVM ends when its standard input does
    if embedded.messages:
        embedded.messages.join(5)
    embedded.at_end.close()


def with_retries(master: str) -> str:
    """local[N] as local[N,4]: without a number of attempts, Spark's local mode does not retry a task."""
    match = re.fullmatch(r"local(?:\[(\*|\d+)\])?", master)
    return f"local[{match[1] or 1},{ATTEMPTS}]" if match else master


def written(conf: SparkConf, path: Path) -> Path:
    """A file of settings, which only this user can read, in the way of Java's properties."""
    lines = [f"{in_properties(key)} {in_properties(value)}\n" for key, value in conf.getAll()]
    path.touch(0o600)
    path.write_text("".join(lines))
    return path


def in_properties(text: str) -> str:
    """A text as one word of a file of Java's properties: UTF-16 code units, but for letters and figures."""

    def units(match: re.Match[str]) -> str:
        found = struct.iter_unpack(">H", match[0].encode("utf-16-be", "surrogatepass"))
        return "".join(f"\\u{unit:04x}" for (unit,) in found)

    return re.sub(r"[^a-zA-Z0-9.]+", units, text)


def local_settings(config: SparkConfig, environment: Environment, java: Path, folder: Path) -> dict[str, str]:
    """Settings of a Spark that serves the runs of one process on one machine.

    folder: for all files that it and its workers need for a while.
    """
    return {
        "spark.driver.memory": config.memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        # The JVM only moves numbers of tasks and small results: the quick compiler and the plain collector are enough.
        "spark.driver.extraJavaOptions": f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {class_archive(environment, java)}",
        # Or any user of this machine could tell it what to do. In local mode Spark makes its secret itself, which never
        # leaves the JVM; elsewhere it asks for one, which is the cluster's. Java keeps it for its user, by name.
        **({"spark.authenticate": "true"} if re.match(r"local(\[|$)", config.master) and not is_nameless() else {}),
        # In which Spark has its own files and sockets, too.
        "spark.driver.defaultJavaOptions": f"-Djava.io.tmpdir={shlex.quote(str(folder))}",
        "spark.executorEnv.TMPDIR": str(folder),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # TCP on loopback waits for delayed acknowledgements at each task: twice the cost of a Unix socket.
        "spark.python.unix.domain.socket.enabled": str(len(os.fsencode(folder)) <= LONGEST).lower(),
        # For Java packages, of which there are none; but Spark asks for the place, by default in Java's home.
        **({"spark.jars.ivy": str(environment.cache / "ivy")} if is_nameless() else {}),
        **{f"spark.executorEnv.{name}": value for name, value in WORKERS.items()},
    }
