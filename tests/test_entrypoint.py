"""What a container of the image starts, by the contract of Spark's Kubernetes backend."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[1] / "docker/entrypoint"


@pytest.fixture
def started(tmp_path):
    """Runs the entrypoint with programs that print their name and arguments, one on a line."""
    home = tmp_path / "spark"
    (home / "bin").mkdir(parents=True)
    for program in (tmp_path / "java", tmp_path / "fruitpipe", home / "bin/spark-submit"):
        program.write_text('#!/bin/bash\nprintf "%s\\n" "${0##*/}" "$SPARK_SUBMIT_OPTS" "$@"\n')
        program.chmod(0o755)

    def run(*arguments: str, **environment: str) -> list[str]:
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SPARK_HOME": str(home), "SPARK_SUBMIT_OPTS": ""}
        command = ["bash", str(ENTRYPOINT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables | environment)
        return done.stdout.splitlines()

    return run


def test_fruitpipe_for_everything_else(started):
    assert started() == ["fruitpipe", "", "--help"]
    assert started("run", "my photos", "out") == ["fruitpipe", "", "run", "my photos", "out"]


def test_driver(started):
    arguments = ["--properties-file", "/opt/spark/conf/spark.properties", "local:///opt/main.py", "run"]
    name, options, *rest = started(
        "driver", *arguments, SPARK_DRIVER_BIND_ADDRESS="10.0.0.7", SPARK_SUBMIT_OPTS="-Da=b"
    )
    assert name == "spark-submit"
    assert "-XX:SharedArchiveFile=" in options
    assert options.endswith(" -Da=b")
    assert rest[-4:] == arguments
    assert "spark.driver.bindAddress=10.0.0.7" in rest
    assert rest[:2] == ["--deploy-mode", "client"]


def test_a_driver_that_is_killed_leaves_the_likely_reason(started, tmp_path):
    (tmp_path / "spark/bin/spark-submit").write_text("#!/bin/bash\nkill -KILL $$\n")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        started("driver", SPARK_DRIVER_BIND_ADDRESS="10.0.0.7", FRUITPIPE_TERMINATION_LOG=str(tmp_path / "log"))
    assert failed.value.returncode == 137
    assert "driver.memoryOverhead" in (tmp_path / "log").read_text()
    assert failed.value.stderr.endswith(f"error: {(tmp_path / 'log').read_text()}\n")


def test_a_driver_that_fails_keeps_its_exit_code(started, tmp_path):
    (tmp_path / "spark/bin/spark-submit").write_text("#!/bin/bash\nexit 3\n")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        started("driver", SPARK_DRIVER_BIND_ADDRESS="10.0.0.7", FRUITPIPE_TERMINATION_LOG=str(tmp_path / "log"))
    assert (failed.value.returncode, failed.value.stderr, (tmp_path / "log").exists()) == (3, "", False)


@pytest.mark.slow
def test_a_driver_that_is_told_to_end_ends_itself(started, tmp_path):
    """The signal reaches Spark, and its exit code comes out."""
    submit = "trap 'sleep 0.2; echo ended; exit 130' TERM\nkill -TERM $PPID\nsleep 9 & wait"
    (tmp_path / "spark/bin/spark-submit").write_text(f"#!/bin/bash\n{submit}\n")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        started("driver", SPARK_DRIVER_BIND_ADDRESS="10.0.0.7")
    assert (failed.value.returncode, failed.value.stdout) == (130, "ended\n")


def test_executor(started):
    options = {f"SPARK_JAVA_OPT_{number}": f"-Dn={number} x" for number in reversed(range(12))}
    names = "DRIVER_URL EXECUTOR_ID EXECUTOR_CORES APPLICATION_ID EXECUTOR_POD_IP RESOURCE_PROFILE_ID EXECUTOR_POD_NAME"
    values = {f"SPARK_{name}": name.lower() for name in names.split()} | {"SPARK_EXECUTOR_MEMORY": "512m"}
    folder = {"SPARK_CONF_DIR": "/opt/spark/conf", "SPARK_CLASSPATH": "mine.jar"}
    _, _, *arguments = started("executor", **options, **values, **folder)
    assert [each for each in arguments if each.startswith("-Dn=")] == [f"-Dn={number} x" for number in range(12)]
    assert {"-Xms512m", "-Xmx512m"} <= set(arguments)
    classpath = arguments[arguments.index("-cp") + 1].split(":")
    assert (classpath[0], classpath[1][-7:], classpath[2]) == ("mine.jar", "/jars/*", "/opt/spark/conf")
    backend = arguments.index("org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend")
    given = dict(zip(arguments[backend + 1 :: 2], arguments[backend + 2 :: 2], strict=True))
    assert given == {
        "--driver-url": "driver_url",
        "--executor-id": "executor_id",
        "--cores": "executor_cores",
        "--app-id": "application_id",
        "--hostname": "executor_pod_ip",
        "--resourceProfileId": "resource_profile_id",
        "--podName": "executor_pod_name",
    }
