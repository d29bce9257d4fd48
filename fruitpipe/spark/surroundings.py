"""What surrounds the embedded Spark: it runs in an environment of its own, whatever other Spark the user has."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fruitpipe.redaction import variables

FOREIGN = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_", "HIVE_")
"""How variables begin that are meant for another Spark, and could lead this one to its settings, jars and servers."""
PLACES = "SPARK_LOCAL_DIRS"
KEPT = (PLACES, "SPARK_USER", "HADOOP_USER_NAME")
"""Where Spark may write, and as whom it runs, which are as good for this one."""
SUBMIT = "PYSPARK_SUBMIT_ARGS"
# The name of a machine may lead nowhere, and Spark asks for it before it listens on loopback only.
LOOPBACK = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}


@contextmanager
def submitted_with(settings: Path) -> Iterator[None]:
    """Have a Spark that starts read its settings from a file: all users see what is on a command line.

    The environment is the process's, as with `own_environment`.
    """
    before = {name: value for name in (SUBMIT, PLACES) if (value := os.environ.pop(name, None)) is not None}
    words = ["--properties-file", shlex.quote(str(settings)), "--load-spark-defaults"]
    os.environ[SUBMIT] = " ".join([*words, before.get(SUBMIT, "pyspark-shell")])
    try:
        yield
    finally:
        del os.environ[SUBMIT]
        os.environ.update(before)


@contextmanager
def own_environment() -> Iterator[str]:
    """Hide what is meant for another Spark from one that starts; gives a sentence that names it, empty for nothing.

    The environment is the process's: nobody else may start a Spark meanwhile.
    """
    before = {name: value for name, value in variables() if name.startswith(FOREIGN)}
    hidden = [name for name, value in before.items() if is_foreign(name) and not is_this(name, value)]
    for name in filter(is_foreign, before):
        os.environ.pop(name, None)
    os.environ.update(LOOPBACK)
    if is_nameless():
        os.environ.setdefault("SPARK_USER", f"user{os.getuid()}")
    try:
        yield f"left aside, as they are for another Spark: {', '.join(sorted(hidden))}" if hidden else ""
    finally:
        for name in [name for name, _ in variables() if name.startswith(FOREIGN)]:  # PySpark has set some meanwhile
            os.environ.pop(name, None)
        os.environ.update(before)


def is_nameless() -> bool:
    """Whether this user is a number only, as in some containers: Java then knows neither a name nor a home."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return True
    return False


def is_foreign(name: str) -> bool:
    return name.startswith(FOREIGN) and name not in KEPT


def is_this(name: str, value: str) -> bool:
    """Whether a variable names the Spark that is embedded."""
    import pyspark

    return name == "SPARK_HOME" and os.path.realpath(value) == str(Path(pyspark.__file__).resolve().parent)


def local_folder() -> Path | None:
    """Where the user wants Spark to write, made if it is not there; None for where this system has temporary files."""
    named = os.environ.get(PLACES, "").split(",")[0]
    if not named:
        return None
    Path(named).mkdir(parents=True, exist_ok=True)
    return Path(named)
