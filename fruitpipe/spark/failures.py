"""Why a Spark job failed, in one line."""

from __future__ import annotations

import re
from pathlib import Path

from py4j.protocol import Py4JJavaError, Py4JNetworkError

from fruitpipe import errors
from fruitpipe.errors import FruitpipeError, UserError

ATTEMPTS = 4
"""Of each task."""
KILLED = re.compile(r"Python worker exited unexpectedly|exit code 137|OOMKilled")
"""What Spark says of workers and executors that the kernel killed, as it does where memory runs out."""


def cause_of(error: BaseException) -> BaseException:
    """The cause of a failed job as a FruitpipeError; what is none of Spark's stays as it is."""
    if isinstance(error, Py4JNetworkError | ConnectionError):
        return FruitpipeError(
            "Spark's JVM died (out of memory, or killed). What was computed is kept: run again to continue."
        )
    if not isinstance(error, Py4JJavaError):
        return error
    text = str(error)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return FruitpipeError("the disk is full. What was computed is kept: make room and run again to continue.")
    if KILLED.search(text):
        return FruitpipeError(
            f"Spark's workers were killed {ATTEMPTS} times, most likely for want of memory: give them more "
            "(executor.memoryOverhead of the chart), or run fewer at once (spark.master=local[N]). What was computed "
            "is kept."
        )
    # Spark quotes the worker's tracebacks; the line after the indented ones of the last names the cause.
    causes = re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(\S.*)$", text, re.MULTILINE)
    cause = causes[-1] if causes else text.strip().splitlines()[0]
    name, _, message = cause.partition(": ")
    if (kind := getattr(errors, name.rpartition(".")[2], None)) or name.startswith("fruitpipe."):
        return (kind or UserError)(message)
    return FruitpipeError(f"a Spark task failed {ATTEMPTS} times: {cause[:500]}. What was computed is kept.")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""
