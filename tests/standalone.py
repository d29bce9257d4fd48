"""A standalone cluster of Spark, whose executors have addresses of their own, as pods have."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pyspark
from processes import children_of, kill, wait
from seaweed import free_ports


class Nodes(NamedTuple):
    """Where it is reached, and what starts executors on each machine."""

    master: str
    machines: list[psutil.Process]
    folder: Path

    def failures(self) -> int:
        """Tasks that have failed on executors, as these say."""
        return sum(log.read_text().count("Exception in task") for log in self.folder.glob("*/app-*/*/stderr"))


@contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """Two machines with a core each, by two addresses of this one.

    folder: for what they keep and say.
    """
    port = free_ports(1)
    common = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    spark = Path(pyspark.__file__).parent / "bin/spark-class"

    def start(name: str, host: str, *words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{host}.log").open("wb") as log:
            return subprocess.Popen(
                [spark, f"org.apache.spark.deploy.{name}", "--host", host, "--webui-port", "0", *words],
                env=common | {"SPARK_LOCAL_IP": host},
                stdout=log,
                stderr=log,
            )

    master = f"spark://127.0.0.1:{port}"
    started = [start("master.Master", "127.0.0.1", "--port", str(port))]
    try:
        wait(lambda: listens(port))
        for host in ("127.0.0.2", "127.0.0.3"):
            words = ("--cores", "1", "--memory", "1g", "--work-dir", str(folder / host))
            started.append(start("worker.Worker", host, *words, master))
        yield Nodes(master, [psutil.Process(each.pid) for each in started[1:]], folder)
    finally:
        family = [child for each in started for child in children_of(each.pid)]
        for each in started:
            each.kill()
        kill(family)
        for each in started:
            each.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
