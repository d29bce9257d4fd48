"""Who runs the tasks: Spark where there is one or a master is named, else processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.workers.nursery import Nursery
from fruitpipe.workers.runner import Runner

HERE = "local[*]"
"""What `auto` means to Spark."""


@contextmanager
def runner(
    config: SparkConfig, environment: Environment, folder: Path, verbose: bool, first: Callable[[bool], None]
) -> Iterator[Runner]:
    """What runs tasks, and ends with the block. Imports PySpark only where Spark is to start.

    folder: for temporary files and logs.
    first: what each task begins with, given whether it has failed before.

    Raises UserError and FruitpipeError as `cluster` does.
    """
    spark = by_spark(config, environment, folder, verbose, first)
    if is_by_processes(config, environment):
        from fruitpipe.workers.processes import Processes

        processes = Processes(first, spark, folder, verbose)
        try:
            yield processes
        finally:
            processes.end()
    else:
        Nursery.not_wanted()
        with spark as found:
            yield found


@contextmanager
def by_spark(
    config: SparkConfig,
    environment: Environment,
    folder: Path,
    verbose: bool = False,
    first: Callable[[bool], None] = lambda _: None,
) -> Iterator[Runner]:
    """As `runner` has it, but by Spark alone."""
    from fruitpipe.spark.cluster import cluster

    if config.master == "auto":
        config = config.model_copy(update={"master": HERE})
    with cluster(config, environment, folder / "spark.log", verbose, first) as found:
        yield found


def is_by_processes(config: SparkConfig, environment: Environment) -> bool:
    """Whether tasks are run without Spark, at first: nobody names a master, and this process has no Spark."""
    return config.master == "auto" and not environment.submitted and not has_spark()


def has_spark() -> bool:
    """Whether this process has a Spark, somebody's or ours."""
    pyspark = sys.modules.get("pyspark")
    return pyspark is not None and pyspark.SparkContext._active_spark_context is not None
