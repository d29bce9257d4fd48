"""What surrounds the embedded Spark: it starts with an environment of its own, whatever other Spark the user has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

FOREIGN = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_", "HIVE_")
"""How variables begin that are meant for another Spark, and could lead this one to its settings, jars and servers."""
KEPT = ("SPARK_LOCAL_DIRS",)
"""Where Spark may write; as good a place for this one."""
# The name of a machine may lead nowhere, and Spark asks for it before it listens on loopback only.
OURS = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}


def foreign_variables() -> list[str]:
    """Names of variables that are meant for another Spark."""
    home, ours = os.environ.get("SPARK_HOME"), Path(pyspark.__file__).parent
    own = {"SPARK_HOME"} if home and Path(home).resolve() == ours.resolve() else set()
    return sorted(name for name in os.environ if name.startswith(FOREIGN) and name not in {*KEPT, *own})


@contextmanager
def own_environment() -> Iterator[list[str]]:
    """Within the block, programs start without the variables of another Spark, whose names it is given."""
    foreign = foreign_variables()
    before = {name: os.environ.pop(name) for name in foreign}
    os.environ.update(OURS)
    try:
        yield foreign
    finally:
        for name in OURS:
            os.environ.pop(name, None)
        os.environ.update(before)


def leave_deleted_folder() -> None:
    """Go to the root where the working folder has been deleted: PySpark asks for it, and nothing can lie in it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")
