"""Why a Spark job failed, in one line."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark import SparkContext
from pyspark.errors.exceptions.captured import CapturedException

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.redaction import without_secrets
from fruitpipe.workers.failures import failure_of, full_disk, in_times, quoted

KILLED = re.compile(r"Python worker exited unexpectedly|exit code 137|OOMKilled")
"""What Spark says of workers and executors that the kernel killed, as it does where memory runs out."""
EXCEPTION = re.compile(
    r"^(?:Exception in thread \"[^\"]*\" )?((?:[\w$]+\.)+[\w$]*(?:Exception|Error)\b.*)\n"
    r"((?:[ \t].*\n|Caused by: .*\n)*)",
    re.MULTILINE,
)
"""What a Java program says of an exception, and the lines below that belong to it."""
NOISE = re.compile(r"WARNING|Using Spark's default log4j|Setting default log level|To adjust logging level|\s|\.\.\.")
"""Lines that are no cause."""
TEMPORARY = f"the folder for temporary files ({tempfile.gettempdir()})"
KNOWN = {
    r"insufficient memory|Cannot allocate memory|Could not reserve enough space|Invalid (?:maximum|initial) heap size"
    r"|OutOfMemoryError|System memory \d+ must be at least": "there is too little memory for its JVM, or spark.memory "
    "asks for too little: set it to what fits, such as spark.memory=1g",
    r"Too many open files": "too many files are open: raise the limit of open files (ulimit -n 4096)",
    # What Java makes of it where that happens early.
    r"not found on classpath|Error loading java\.security file|NoClassDefFoundError": "Java cannot open all of its own "
    "files and Spark's: raise the limit of open files (ulimit -n 4096) or, where it is as high, install both again",
    r"No space left on device|Disk quota exceeded": f"a disk is full, most likely that of {TEMPORARY}: make room, or "
    "set TMPDIR to another",
    r"failed to map segment from shared object|Operation not permitted \(mmap\)": f"{TEMPORARY} does not let programs "
    "run (noexec): set TMPDIR to another",
    rf"Failed to create a temp directory|{re.escape(tempfile.gettempdir())}\S*.*(?:Permission denied|Read-only)"
    rf"|AccessDeniedException: {re.escape(tempfile.gettempdir())}": f"{TEMPORARY} cannot be written to: set TMPDIR to "
    "another",
    r"(Unrecognized (?:VM )?option:? \S+)": "Java does not know an option ({0}): look at JAVA_TOOL_OPTIONS and "
    "JDK_JAVA_OPTIONS",
    r"UnknownHostException: ([^\s:]+)": "the host name {0} leads nowhere: check it, and the network",
    r"Address already in use: Service '(\w+)' failed .*\(starting from (\d+)\)": "another program has port {1}, which "
    "spark.conf sets for its {0}: set another port, or none",
    r"BindException|could not bind on a random free port|Network is unreachable": "it cannot listen on 127.0.0.1: the "
    "loopback interface is down, most likely: bring it up (ip link set lo up)",
}
"""Causes that a user can do something about, by what Spark, Java and the system say of them."""


OTHER_PYTHON = f"set PYSPARK_PYTHON before the session starts, to a Python that has it all, such as {sys.executable}"
UNFIT = {
    r"ModuleNotFoundError: No module named '([^']+)'": "Spark's Python workers have no module {0}: install fruitpipe, "
    "and what your own classes need, in their Python; or ",
    r"\[PYTHON_VERSION_MISMATCH\]\D+([\d.]*\d)\D+([\d.]*\d)": "Spark's workers run Python {0}, this process {1}: ",
    r"Cannot run program \"([^\"]+)\"": "Spark cannot start {0}, the Python of its workers: ",
}
"""What is wrong with the Python of workers, by what they or Java say."""


@contextmanager
def explained(context: SparkContext, idle: bool = False) -> Iterator[None]:
    """Raises what PySpark raises as a FruitpipeError that names the cause.

    idle: whether it has run nothing yet.
    """
    try:
        yield
    except FruitpipeError:
        raise
    except Exception as error:
        cause = cause_of(error)
        with suppress(Py4JError, OSError):  # the JVM is dead, as `cause` says
            if is_stopped(context):  # what Java says meanwhile depends on how far that has come
                cause = stopped(str(context.master), idle)
        if cause is error:
            raise
        raise cause from error


def stopped(master: str, idle: bool) -> FruitpipeError:
    """What to say of a Spark that is no more."""
    if idle and not master.startswith("local"):
        return UserError(
            f"Spark was stopped before it ran anything, as it is where no cluster answers: check spark.master "
            f"({master}), that its cluster runs, and the network."
        )
    return FruitpipeError(
        "Spark was stopped during the run, by its stop() or by its cluster. What was computed is kept: run again to "
        "continue."
    )


def is_stopped(context: SparkContext) -> bool:
    """Whether Spark was stopped, in Python or in its JVM. Raises Py4JError and OSError where the JVM is dead."""
    running: Any = context._jsc
    return running is None or bool(running.sc().isStopped())


def cause_of(error: Exception) -> Exception:
    """The cause of a failed job as a FruitpipeError; what is none of Spark's stays as it is."""
    # Without a trace, a Py4JError is one of a connection that was lost in the middle of an answer.
    lost = type(error) is Py4JError and "Trace:" not in str(error)
    if lost or isinstance(error, Py4JNetworkError | ConnectionError):
        return FruitpipeError(
            "Spark's JVM died (out of memory, or killed). What was computed is kept: run again to continue, with more "
            "memory (spark.memory; driver.memory of the chart) where it dies again."
        )
    return cause_in(text) if (text := without_secrets(java_says(error))) else error


def java_says(error: BaseException) -> str:
    """What Java says of an exception of its own, its causes included; empty for others."""
    if isinstance(error, CapturedException):  # as which PySpark raises some of them once there is a SparkSession
        return f"{error._desc}\n{error._stackTrace}"
    return str(error).partition("\n: ")[2] if isinstance(error, Py4JJavaError) else ""


def cause_in(text: str) -> FruitpipeError:
    """The cause of a failed job, of what Java says."""
    if full := full_disk(text):
        return full
    times = in_times(int(match[1]) if (match := re.search(r"failed (\d+) times", text)) else 1)
    if KILLED.search(text):
        return FruitpipeError(
            f"Spark's workers were killed {times}, most likely for want of memory: give them more "
            "(executor.memoryOverhead of the chart), or run fewer at once (spark.master=local[N]). What was computed "
            "is kept."
        )
    found = quoted(text)  # Spark quotes the worker's tracebacks
    for pattern, words in UNFIT.items():
        if match := re.search(pattern, found[-1] if found else text):
            return UserError(f"{words.format(*match.groups())}{OTHER_PYTHON}.")
    causes = found or re.findall(r"^Caused by: (.+)$", text, re.MULTILINE)
    return failure_of(causes[-1] if causes else text.strip().splitlines()[0], times)


def start_refused(text: str) -> FruitpipeError:
    """Why a Spark that was submitted did not start, of what Java says."""
    if denied := re.search(r"Message: (.*? is forbidden: .*?)(?:\. Received status|$)", text, re.MULTILINE):
        return UserError(
            f"Kubernetes refuses what the driver asks for ({without_secrets(denied[1])}): its account needs the rights "
            "of the chart's Role. Install the chart again."
        )
    return FruitpipeError(f"Spark did not start: {cause_of_start(text)}. What was computed is kept.")


def cause_of_start(log: str) -> str:
    """Why Spark did not start, of what it wrote meanwhile; empty where it does not say."""
    lines = [line for line in log.strip().splitlines() if not NOISE.match(line)]
    first = EXCEPTION.search(f"{log}\n")
    # What was said before an exception, or after it, need not have to do with it.
    said = first[0] if first else "\n".join(lines)
    for pattern, words in KNOWN.items():
        if match := re.search(pattern, said):
            return words.format(*match.groups())
    if first is None:
        return lines[-1] if lines else ""
    causes = re.findall(r"^Caused by: (.+)$", first[2], re.MULTILINE)
    return str(causes[-1] if causes else first[1])
