"""Write the archive of the classes that Spark loads, for drivers, executors and local runs alike: archive.py FOLDER

One list of classes is made by each kind of JVM at work; Java then reads them all and writes an archive that only itself
will use. Imports nothing of fruitpipe, so that a change of its code leaves the archive as it is.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree, which

import pyspark
from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext

MASTERS = (
    "local[1]",
    "local-cluster[1,1,512]",
    "k8s://https://127.0.0.1:1",  # nobody there: what the driver loads until it notices is nearly all of it
)


def work(master: str, lists: Path) -> None:
    """What a run asks of Spark: numbered tasks in Python, broadcasts, accumulators."""
    conf = SparkConf().setMaster(master).setAppName("archive")
    conf.set("spark.driver.host", "127.0.0.1").set("spark.executor.memory", "512m")
    conf.set("spark.driver.extraJavaOptions", f"-XX:DumpLoadedClassList={lists}/driver-%p")
    conf.set("spark.executor.extraJavaOptions", f"-XX:DumpLoadedClassList={lists}/executor-%p")
    conf.set("spark.kubernetes.container.image", "archive")
    context = SparkContext(conf=conf)
    shared, total = context.broadcast(b"flatbuffer"), context.accumulator(0)
    numbers = context.parallelize(range(4), 4)
    numbers.mapPartitionsWithIndex(lambda number, _: [total.add(len(shared.value)) or number]).collect()
    context.stop()


def classes(lists: Path) -> Iterator[str]:
    """The lines of all lists without what only holds within one: numbers, and classes of other loaders."""
    for path in sorted(lists.iterdir()):
        for line in path.read_text().splitlines():
            if not line.startswith("#") and "source:" not in line:
                yield re.sub(r" id: \d+$", "", line)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    os.environ["SPARK_LOCAL_HOSTNAME"] = "localhost"  # during a build, the machine's own name may lead nowhere
    home = Path(which("java") or "java").resolve().parent.parent
    version = re.search(r'^JAVA_VERSION="(.+)"', (home / "release").read_text(), re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as scratch:
        lists = Path(scratch)
        for master in MASTERS:
            with suppress(Py4JJavaError):
                work(master, lists)
        rmtree(Path(os.environ["SPARK_HOME"], "work"))  # which the second kind of master leaves
        merged = lists / "all"
        merged.write_text("\n".join(dict.fromkeys(classes(lists))))
        jars = Path(os.environ["SPARK_HOME"], "jars")
        archive = folder / f"{pyspark.__version__}-{jars.stat().st_mtime_ns}-java-{version}.jsa"
        jar = jars / "classpath.jar"
        options = [f"-XX:SharedClassListFile={merged}", f"-XX:SharedArchiveFile={archive}", "-cp", str(jar)]
        subprocess.run(["java", "-Xshare:dump", "-Xlog:cds=error", *options], check=True)


if __name__ == "__main__":
    main()
