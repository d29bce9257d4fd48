"""The embedded Spark starts whatever surrounds it, or says in one line why it cannot."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import BACKBONE, command, hearing, manifest, one_line_error, process
from conftest import unavailable

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.spark.failures import cause_of_start
from fruitpipe.spark.surroundings import is_this

RUN = ("--set", BACKBONE, "--set", "spark.master=local[2]", "--limit", 20)
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


@pytest.mark.slow
def test_a_run_does_not_take_the_settings_of_another_spark_and_says_so(
    of_a_cluster: dict[str, str], fruits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process("run", fruits / "Apple", out, *RUN, variables=os.environ | of_a_cluster)
    (said,) = manifest(out)["warnings"]
    assert said == f"left aside, as they are for another Spark: {', '.join(sorted(of_a_cluster))}"


def test_a_spark_home_that_is_a_link_to_itself_is_another_spark(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert not is_this("SPARK_HOME", str(tmp_path / "loop"))


@pytest.mark.slow
def test_after_a_run_the_environment_is_as_before_and_the_next_leaves_no_more_aside(
    fruits: Path, tmp_path: Path
) -> None:
    program = f"""
import os, fruitpipe
places = dict(input={str(fruits / "Apple")!r}, output={str(tmp_path / "out")!r})
config = fruitpipe.load_config(**places, backbone="efficientnet_lite0", limit=20, **{{"spark.master": "local[2]"}})
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
    run = command("run", fruits / "Apple", tmp_path / "out", *RUN)
    done = subprocess.run([*words, *run], capture_output=True, text=True, check=False, timeout=300)
    if "Operation not permitted" in done.stderr:
        unavailable("only root may rename a machine")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("run", "in", "out"), ("runs", "out"), ("doctor", "{}", "out")])
def test_a_relative_path_in_a_folder_that_has_been_deleted_is_told(
    words: tuple[str, ...], fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = one_line_error(process(*(word.format(fruits) for word in words), code=2))
    assert "the folder you are in is gone: cd elsewhere, or give absolute paths." in said


@pytest.mark.slow
@pytest.mark.parametrize("master", ["auto", "local[2]"])
def test_a_run_starts_in_a_folder_that_has_been_deleted(master: str, fruits: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = [
        "sh",
        "-c",
        f'cd "{gone}" && rmdir "{gone}" && exec "$@"',
        "sh",
        *command("run", fruits / "Apple", tmp_path / "out", *RUN, "--set", f"spark.master={master}"),
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
        (("--set", "spark.master=yarn"), {}, "SparkException: When running with master 'yarn' either HADOOP_CONF_DIR"),
    ],
)
def test_a_spark_that_does_not_start_says_why_and_where_the_rest_is(
    settings: tuple[str, ...],
    variables: dict[str, str],
    says: str,
    lite0: tuple[Backbone, Path],
    fruits: Path,
    tmp_path: Path,
) -> None:
    where = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    converted = lite0[1].parent
    shutil.copytree(converted, tmp_path / "cache" / "fruitpipe" / "backbones" / converted.name)
    done = process("run", fruits, tmp_path / "out", *RUN, *settings, code=1, variables=os.environ | variables | where)
    line = one_line_error(done)
    assert says in line
    assert (tmp_path / "cache" / "fruitpipe" / "spark" / "failed-start.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prlimit", "--nofile=60:60"), "raise the limit of open files (ulimit -n 4096)"),
        (("unshare", "--net"), "the loopback interface is down, most likely: bring it up (ip link set lo up)"),
    ],
)
def test_a_limit_of_the_system_is_named_with_what_to_do(
    words: tuple[str, ...], says: str, fruits: Path, tmp_path: Path
) -> None:
    run = command("run", fruits / "Apple", tmp_path / "out", *RUN)
    done = subprocess.run([*words, *run], capture_output=True, text=True, check=False, timeout=300)
    if "Operation not permitted" in done.stderr:
        unavailable("only root may take a network away")
    assert done.returncode == 1, done.stderr
    assert says in one_line_error(done)


@pytest.mark.slow
def test_a_port_that_another_program_has_is_named(fruits: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = (f"spark.conf.spark.driver.port={port}", "spark.conf.spark.port.maxRetries=0")
        options = [part for each in settings for part in ("--set", each)]
        done = process("run", fruits, tmp_path / "out", *RUN, *options, code=1)
    assert f"another program has port {port}, which spark.conf sets for its sparkDriver" in one_line_error(done)


STARTS = """
import logging, os, signal, socket, sys, threading, time
from dataclasses import replace
from pathlib import Path
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.spark.embedded import running
from pyspark import SparkContext

environment, one = Environment.read(), SparkConfig(master="local[1]")
PY4J = logging.getLogger("py4j")

def start(config=one, environment=environment, verbose=False, inside=lambda: None):
    log = Path(sys.argv[1], f"{time.monotonic_ns()}.log")
    with running(config, environment, log, verbose) as (context, _):
        assert context.parallelize([1], 1).collect() == [1]
        inside()

def refused(kind, *given, **named):
    try:
        start(*given, **named)
    except FruitpipeError as error:
        assert type(error) is kind, repr(error)
        return str(error)
    raise AssertionError("it started")

def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))

def require_as_before():
    assert SparkContext._active_spark_context is SparkContext._gateway is SparkContext._jvm is None
    assert PY4J.level == logging.NOTSET
    end = time.monotonic() + 60
    while held() != before:
        assert time.monotonic() < end, (held(), before, threading.enumerate())
        time.sleep(0.1)

before = held()
"""


def in_a_process(program: str, folder: Path) -> str:
    """What a program says on standard error, which ends well."""
    words = hearing([sys.executable, "-c", STARTS + program, str(folder)])
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_spark_that_has_ended_or_not_started_leaves_nothing_behind(tmp_path: Path) -> None:
    in_a_process(
        """
for _ in range(2):
    start()
    require_as_before()
with socket.create_server(("127.0.0.1", 0)) as other:
    port = str(other.getsockname()[1])
    taken = SparkConfig(master="local[1]", conf={"spark.driver.port": port, "spark.port.maxRetries": "0"})
    assert port in refused(FruitpipeError, taken)
require_as_before()
said = refused(UserError, environment=replace(environment, cache_folder=None, home=None))
assert "set FRUITPIPE_CACHE" in said and "Spark" not in said, said
require_as_before()
start(inside=lambda: SparkContext._gateway.proc.kill())
require_as_before()
""",
        tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("master", "options", "cause"),
    [
        ("local[1]", "-XX:+NoSuchThing", "NoSuchThing"),
        ("yarn", "", "either HADOOP_CONF_DIR or YARN_CONF_DIR must be set"),
    ],
)
def test_a_start_whose_messages_are_shown_fails_with_its_cause(
    master: str, options: str, cause: str, tmp_path: Path
) -> None:
    """Whether Java ends before PySpark reaches it, or Spark does not like what it is given."""
    said = in_a_process(
        f"""
os.environ["JDK_JAVA_OPTIONS"] = {options!r}
print(refused(FruitpipeError, SparkConfig(master={master!r}), verbose=True), file=sys.stderr)
require_as_before()
""",
        tmp_path,
    )
    shown, _, line = said.strip().rpartition("\n")
    assert cause in shown
    assert cause in line
    assert "failed-start.log" in line


@pytest.mark.slow
def test_a_spark_that_is_interrupted_as_it_stops_is_gone(tmp_path: Path) -> None:
    """Its JVM is held, so that it is interrupted in the middle."""
    in_a_process(
        """
def interrupt():
    main, place = threading.main_thread().ident, ""
    while "stop" not in place or "readinto" not in place:
        time.sleep(0.1)
        frame, place = sys._current_frames()[main], ""
        while frame:
            place, frame = f"{place} {frame.f_code.co_name}", frame.f_back
    signal.pthread_kill(main, signal.SIGINT)
    os.kill(jvm.pid, signal.SIGCONT)

def hold():
    global jvm
    jvm = SparkContext._gateway.proc
    os.kill(jvm.pid, signal.SIGSTOP)
    threading.Thread(target=interrupt).start()

try:
    start(inside=hold)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("it was not interrupted")
assert jvm.wait(60) is not None
del jvm
require_as_before()
""",
        tmp_path,
    )


@pytest.mark.slow
def test_somebody_s_session_is_as_before_when_the_last_run_on_it_has_ended(tmp_path: Path) -> None:
    in_a_process(
        """
PY4J.setLevel(logging.WARNING)
context = SparkContext("local[1]", "somebody's")
server = context._accumulatorServer
def look():
    assert PY4J.level == logging.CRITICAL
    assert "handle_error" in vars(server)
start(inside=lambda: (start(inside=look), look()))
assert PY4J.level == logging.WARNING
assert "handle_error" not in vars(server)
context.stop()
""",
        tmp_path,
    )


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
