"""The embedded Spark starts whatever surrounds it, or says in one line why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import BACKBONE, command, manifest, one_line_error, process
from conftest import unavailable

from fruitpipe.spark.failures import cause_of_start

RUN = ("--set", BACKBONE, "--limit", 20)
CLUSTER = {
    "spark-defaults.conf": "spark.eventLog.enabled true\nspark.eventLog.dir hdfs://nowhere/logs\nspark.master yarn\n"
    "spark.plugins org.example.Nothing\n",
    "spark-env.sh": "exit 3\n",
    "core-site.xml": "<configuration><property><name>hadoop.security.authentication</name><value>kerberos</value>"
    "</property></configuration>\n",
}


@pytest.fixture
def of_a_cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine at the edge of a cluster, whose Spark has been deleted."""
    folder = tmp_path / "conf"
    folder.mkdir()
    for name, content in CLUSTER.items():
        (folder / name).write_text(content)
    return {
        "SPARK_HOME": str(tmp_path / "deleted"),
        "SPARK_CONF_DIR": str(folder),
        "HADOOP_CONF_DIR": str(folder),
        "YARN_CONF_DIR": str(folder),
        "PYSPARK_SUBMIT_ARGS": "--master yarn --packages org.example:nothing:1.0 pyspark-shell",
        "PYSPARK_PYTHON": "/nowhere/python",
        "SPARK_SUBMIT_OPTS": "-Xmx1k",
        "SPARK_LOCAL_IP": "192.0.2.1",
    }


def test_a_run_does_not_take_the_settings_of_another_spark_and_says_so(
    of_a_cluster: dict[str, str], fruits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process("run", fruits, out, *RUN, variables=os.environ | of_a_cluster)
    (said,) = manifest(out)["warnings"]
    assert said == f"left aside, as they are for another Spark: {', '.join(sorted(of_a_cluster))}"


@pytest.mark.slow
def test_after_a_run_the_environment_is_as_before_and_the_next_leaves_no_more_aside(
    fruits: Path, tmp_path: Path
) -> None:
    program = f"""
import os, fruitpipe
places = dict(input={str(fruits)!r}, output={str(tmp_path / "out")!r})
config = fruitpipe.load_config(**places, backbone="efficientnet_lite0", limit=20)
for _ in range(2):
    (said,) = fruitpipe.run(config).manifest.warnings
    assert said.endswith(": SPARK_HOME"), said
found = {{name: value for name, value in os.environ.items() if name.startswith(("SPARK_", "PYSPARK_"))}}
assert found == {{"SPARK_HOME": "/nowhere"}}, found
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"SPARK_HOME": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_starts_where_the_name_of_the_machine_leads_nowhere(fruits: Path, tmp_path: Path) -> None:
    """In a namespace of its own, in which the machine has another name; that takes rights of root."""
    words = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    run = command("run", fruits, tmp_path / "out", *RUN)
    done = subprocess.run([*words, *run], capture_output=True, text=True, check=False, timeout=300)
    if "Operation not permitted" in done.stderr:
        unavailable("only root may rename a machine")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_starts_in_a_folder_that_has_been_deleted(fruits: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = [
        "sh",
        "-c",
        f'cd "{gone}" && rmdir "{gone}" && exec "$@"',
        "sh",
        *command("run", fruits, tmp_path / "out", *RUN),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "variables", "says"),
    [
        (("--set", "spark.memory=900t"), {}, "too little memory"),
        (("--set", "spark.memory=32m"), {}, "too little memory"),
        ((), {"JDK_JAVA_OPTIONS": "-XX:+NoSuchThing"}, "does not know an option"),
        (("--set", "spark.master=nonsense"), {}, "SparkException: Master must either be yarn or start with"),
    ],
)
def test_a_spark_that_does_not_start_says_why_and_where_the_rest_is(
    settings: tuple[str, ...], variables: dict[str, str], says: str, fruits: Path, tmp_path: Path
) -> None:
    where = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = process("run", fruits, tmp_path / "out", *RUN, *settings, code=1, variables=os.environ | variables | where)
    line = one_line_error(done)
    assert says in line
    assert (tmp_path / "cache" / "fruitpipe" / "spark" / "failed-start.log").read_text()


LOGS = {
    """Exception in thread "main" java.lang.IllegalStateException: no
\tat a.B.c(B.java:1)
Caused by: x.YException: inner
\t... 17 more
26/11/26 WARN later
""": "x.YException: inner",
    """WARNING: Using incubator modules
java.net.UnknownHostException: box: box: Name or service not known
\tat a.b(c)
""": "the host name box leads nowhere: check it, and the network",
    """Setting default log level to "WARN".
To adjust logging level use sc.setLogLevel(newLevel).
""": "",
    """26/11/26 WARN x: Permission denied on foo
Exception in thread "main" a.b.C$DException: boo

Caused by: another matter
""": "a.b.C$DException: boo",
    "/usr/bin/java: Permission denied\n": "/usr/bin/java: Permission denied",
    "Error: something plain\n": "Error: something plain",
    "": "",
}


@pytest.mark.parametrize("log", LOGS)
def test_the_cause_is_the_innermost_of_the_first_exception(log: str) -> None:
    assert cause_of_start(log) == LOGS[log]
