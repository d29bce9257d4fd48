"""Choices in how Spark is used, each against its alternative: time to the first job done, and the cost of a task.

python benchmarks/spark_start.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import output

QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
PROGRAM = """
import sys, time
started = time.perf_counter()
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession
api, options, sockets, secret = sys.argv[1:]
conf = SparkConf().setMaster("local[2]").setAppName("start").set("spark.ui.enabled", "false")
conf.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
conf.set("spark.driver.extraJavaOptions", options).set("spark.python.unix.domain.socket.enabled", sockets)
conf.set("spark.authenticate", secret)
context = SparkContext(conf=conf)
def job(tasks):
    if api == "numbers":
        context.parallelize(range(tasks), tasks).mapPartitionsWithIndex(lambda i, _: [i]).collect()
    else:
        session = SparkSession(context)
        session.range(0, tasks, 1, tasks).mapInArrow(lambda batches: batches, "id long").collect()
job(2)
first = time.perf_counter() - started
started = time.perf_counter()
job(64)
print(first, time.perf_counter() - started)
context.stop()
"""


def measure(api: str, options: str, sockets: bool, secret: bool = True) -> tuple[float, float]:
    """Seconds to the first job done, and of a job of 64 empty tasks after it."""
    command = [sys.executable, "-c", PROGRAM, api, options, str(sockets).lower(), str(secret).lower()]
    first, tasks = output(command, PYSPARK_PYTHON=sys.executable).split()[-2:]
    return float(first), float(tasks)


def archive(api: str, folder: Path) -> str:
    """JVM options with an archive of the classes that a job of this kind loads, made now."""
    path = folder / f"{api}.jsa"
    measure(api, f"{QUICK} -XX:ArchiveClassesAtExit={path} -Xlog:disable -Xlog:all=off", sockets=True)
    while not (path.exists() and any(path.open("rb").read(4))):  # the JVM writes the header last, as it ends
        time.sleep(0.2)
    return f"{QUICK} -XX:SharedArchiveFile={path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ.pop("PYSPARK_SUBMIT_ARGS", None)
    with tempfile.TemporaryDirectory() as folder:
        arrow, numbers = archive("mapInArrow", Path(folder)), archive("numbers", Path(folder))
        variants = {
            "mapInArrow, JVM as it comes": ("mapInArrow", "", True),
            "mapInArrow, class archive": ("mapInArrow", arrow, True),
            "numbers, class archive, loopback TCP": ("numbers", numbers, False),
            "numbers, class archive, no authentication": ("numbers", numbers, True, False),
            "numbers, class archive": ("numbers", numbers, True),
        }
        times = {name: [measure(*variant) for _ in range(rounds)] for name, variant in variants.items()}
    best_first, best_tasks = (
        statistics.median(column) for column in zip(*times["numbers, class archive"], strict=True)
    )
    print(f"{'':<42}{'first job':>10}{'ratio':>7}{'64 tasks':>10}{'ratio':>7}")
    for name, pairs in times.items():
        first, tasks = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<42}{first:>8.1f} s{first / best_first:>7.2f}{tasks:>8.2f} s{tasks / best_tasks:>7.2f}")


if __name__ == "__main__":
    main()
