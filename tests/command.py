"""The command line, in this process and in one of its own.

Most tests give a command in their own process: arguments, output, errors and exit codes are what a user's would be, but
Python's imports and a JVM, which take seconds, are there already. Where the process itself is what is tested, such as
how it dies, which Spark it starts or what it imports, it is one of its own.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import SparkContext

from fruitpipe.cli.app import main
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.spark.cluster import cluster

BACKBONE = "backbone=efficientnet_lite0"  # its weights are wherever pip is
ANEW = "image.max_seconds=21"
"""Makes a config of its own, of the same result: the same config again would be no run."""
AT_FIRST = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
"""The environment that Spark's JVM has, whichever test it starts in."""
at_end = ExitStack()
"""What goes when the tests of this process are done."""


@functools.cache
def jvm() -> tuple[SparkContext, dict[str, str]]:
    """A Spark for all runs of this process, and what it adds to the environment of workers."""
    folder = at_end.enter_context(TemporaryDirectory())
    with patch.dict(os.environ, AT_FIRST, clear=True):
        at_end.enter_context(cluster(SparkConfig(master="local[2]"), Environment.read(), Path(folder, "spark.log")))
    context = SparkContext.getOrCreate()
    return context, dict(context.environment)


def spark() -> SparkContext:
    """That Spark. Its workers will have the environment of now, as those of a new one: it keeps some for each."""
    context, ours = jvm()
    changed = {name: value for name, value in os.environ.items() if AT_FIRST.get(name) != value}
    context.environment = ours | {name: value for name, value in changed.items() if not name.startswith("PYTEST_")}
    return context


def fruitpipe(
    *arguments: object, code: int = 0, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished command, in this process; fails where it ends with another exit code.

    What asks for a Spark of its own, by its settings or to see its messages, is a process of its own too.

    variables: its whole environment, else that of the test.
    """
    words = ["fruitpipe", *map(str, arguments)]
    if any(word.startswith(("spark.", "--verbose")) for word in words) and "run" in words[1:2]:
        return process(*arguments, code=code, variables=variables)
    with patch.dict(os.environ, os.environ if variables is None else variables, clear=True), patch("sys.argv", words):
        if {"run", "doctor", "neighbours"} & set(words[1:2]):
            spark()
        forget()
        with output() as streams:
            ended = exit_code()
        forget()
    return finished(words, ended, *streams, code=code)


def exit_code() -> object:
    """With which `main` ends; signals are handled as before."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        main()
    except SystemExit as end:
        return end.code
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


@contextmanager
def output() -> Iterator[list[str]]:
    """All that this process writes to standard output and standard error meanwhile, libraries in C included."""
    texts: list[str] = []
    with ExitStack() as stack:
        files = []
        for number, redirect in ((1, redirect_stdout), (2, redirect_stderr)):
            file = stack.enter_context(TemporaryFile("w+"))
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
            stack.enter_context(redirect(file))
            files.append(file)
        yield texts
        for file in files:
            file.seek(0)
            texts.append(file.read())


def forget() -> None:
    """What a new process would not know, such as who it was to a server."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fruitpipe"):
            for each in vars(module).values():
                if isinstance(each, functools._lru_cache_wrapper):
                    each.cache_clear()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fruitpipe", *map(str, arguments)]


def hearing(words: list[str]) -> list[str]:
    """A command that Ctrl-C and a closed terminal reach: what a shell runs in the background, or by `nohup`, is deaf to
    them, and so are its children.
    """
    return ["env", "--default-signal=INT,HUP", *words]


def process(
    *arguments: object, code: int = 0, variables: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """The finished command, in a process of its own; fails where it ends with another exit code."""
    words = command(*arguments)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout, env=variables)
    return finished(words, done.returncode, done.stdout, done.stderr, code=code)


def finished(words: list[str], ended: object, out: str, err: str, code: int) -> subprocess.CompletedProcess[str]:
    assert ended == code, f"exit code {ended}, expected {code}:\n{out}\n{err}"
    return subprocess.CompletedProcess(words, code, out, err)


def run(images: Path, out: Path, *assignments: str, code: int = 0) -> dict[str, Any]:
    """The manifest of a new run, or {} where it is to fail."""
    options = [part for assignment in (BACKBONE, *assignments) for part in ("--set", assignment)]
    done = fruitpipe("run", images, out, *options, "--json", code=code)
    return manifest(out, json.loads(done.stdout)["run"]) if code == 0 else {}


def manifest(out: Path, run_id: str = "") -> dict[str, Any]:
    name = run_id or json.loads((out / "latest.json").read_text())["run"]
    document: dict[str, Any] = json.loads((out / "runs" / name / "manifest.json").read_text())
    return document


def vectors(out: Path, run_id: str = "") -> pa.Table:
    """Published vectors, as any reader of Parquet sees them."""
    return pq.read_table(out / "runs" / manifest(out, run_id)["run"] / "vectors")


def same_vectors(one: pa.Table, other: pa.Table) -> bool:
    """Equal to the last bit, images and labels included."""
    return bool(one.replace_schema_metadata(None).equals(other.replace_schema_metadata(None)))


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The only line of an error; fails where there is a stack trace or more than one line of it."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.strip().endswith(lines[0]), done.stderr
    return lines[0]
