"""The container image, as it comes out of `make image`: what is in it, who runs in it, and the main job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command import BACKBONE, manifest, one_line_error, same_vectors, vectors
from conftest import unavailable
from containers import Layer, engine, inspect, layers
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow
ROOT, USER, STRANGER = "0", "185", "1000620000:0"  # the last as OpenShift makes them up
SPARK = "org.apache.spark.deploy.SparkSubmit"
CONTENTS = """
import email, json, pathlib, re, zipfile
root = pathlib.Path("/")
found = {"python": [], "jars": [], "within jars": []}
for folder in "opt", "usr":
    for path in root.joinpath(folder).rglob("*.dist-info/METADATA"):
        facts = email.message_from_bytes(path.read_bytes())
        found["python"].append((facts["Name"], facts["Version"]))
for path in root.joinpath("opt/venv").rglob("pyspark/jars/lib/*"):
    found["jars"].append(path.stem)
    with zipfile.ZipFile(path) as jar:
        for name in jar.namelist():
            if (of := re.fullmatch("META-INF/maven/(.+)/(.+)/pom.properties", name)):
                version = re.search("^version=(.+?)\\s*$", jar.read(name).decode(), re.M)[1]
                found["within jars"].append((*of.groups(), version))
print(json.dumps(found))
"""


@cache
def image() -> str:
    if not (name := os.environ.get("FRUITPIPE_IMAGE")):
        unavailable("run `make image` and set FRUITPIPE_IMAGE to the image's name")
    if engine() is None:
        unavailable("install docker or podman")
    return name


def container(
    *arguments: object, user: str = USER, entrypoint: str = "", options: tuple[str, ...] = (), code: int = 0
) -> subprocess.CompletedProcess[str]:
    """The finished container, which may write to /tmp alone and has no network; fails at another exit code."""
    command = [str(engine()), "run", "--rm", "--read-only", "--network=none", "--memory=2g", f"--user={user}", *options]
    if engine() == "podman":
        command.append("--passwd=false")  # which would give every uid a name
    if entrypoint:
        command.append(f"--entrypoint={entrypoint}")
    command += [image(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}:\n{done.stdout}\n{done.stderr}"
    return done


def shell(script: str, user: str = USER) -> str:
    return container("-c", script, entrypoint="bash", user=user).stdout


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = inspect(image())["Config"]
    return found


@pytest.fixture(scope="module")
def built() -> list[Layer]:
    return layers(image())


def test_help_without_arguments():
    assert "Commands:" in container().stdout


def test_runs_as_nobody_special_below_tini(config):
    assert config["User"] == USER
    assert config["Entrypoint"] == ["tini", "-s", "--", "/opt/entrypoint"]
    assert list(config["Volumes"]) == ["/tmp"]
    assert shell("id --user --name; id --group; echo ~").split() == ["spark", "0", "/tmp"]


def test_labels(config):
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items() if "opencontainers" in name}
    assert labels["title"] == "fruitpipe"
    assert labels.keys() >= {"description", "licenses", "version", "revision"}
    versions = json.loads(container("version", "--json").stdout)
    assert versions["fruitpipe"] == labels["version"]
    assert versions["revision"] == labels["revision"]
    assert versions["java"] in shell("ls /opt/fruitpipe/cache/spark")


def test_what_is_not_in_it():
    assert not shell("find / -xdev -perm /6000 -type f", user=ROOT)
    programs = "cc c++ gcc g++ ld make pip pip3 git curl wget apt-key"
    assert not shell(f"type -P {programs} || true")
    folders = "/build /package /root/.cache /run/secrets /tmp /var/cache /var/lib/apt/lists /var/log"
    assert not shell(f"find {folders} -type f 2>/dev/null || true", user=ROOT)


def test_only_root_may_change_what_is_in_it():
    assert not shell("find / -xdev -not -user root -not -path '/proc/*' -o -xdev -type f -perm /022", user=ROOT)


def test_byte_code_is_there_and_holds_whatever_the_time():
    script = """
import pathlib, sys, fruitpipe, numpy, pyspark
codes = list(pathlib.Path(sys.prefix).rglob("*.pyc"))
timed = [code for code in codes if int.from_bytes(code.read_bytes()[4:8], "little") != 1]
assert not timed, timed
for package in fruitpipe, numpy, pyspark:
    assert sum(code.is_relative_to(pathlib.Path(package.__file__).parent) for code in codes) > 20, package
"""
    container("-c", script, entrypoint="python")


def test_resampling_is_compiled():
    container("-c", "from fruitpipe.vision.resampling import library; assert library()", entrypoint="python")


def test_layers_hold_no_secrets(built):
    """Those included that a later layer hides."""
    assert len(built) >= 5
    for path in (Path(name) for layer in built for name in layer.names):
        assert path.name not in {".netrc", "pip.conf", "pip_cert", "pip_index_url"}, path
        assert "secrets" not in path.parts[:2], path


def test_history_holds_no_secrets():
    done = subprocess.run(
        [str(engine()), "history", "--no-trunc", "--format={{.CreatedBy}}", image()],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("PIP_INDEX_URL", "PIP_CERT"):
        assert (value := os.environ.get(name)) is None or value not in done.stdout
    assert "://" not in done.stdout


def test_the_package_is_the_last_layer_and_alone(built):
    files = [name for name in built[-1].names if not Path(name).is_absolute()]
    package = [name for name in files if "fruitpipe" in name]
    assert "opt/fruitpipe/sbom.json" in package
    assert any(name.endswith("site-packages/fruitpipe/cli/app.py") for name in package)
    assert any(re.search(r"fruitpipe-[0-9.]+\.dist-info/licenses/LICENSE$", name) for name in package)
    parents = {parent.as_posix() for name in package for parent in Path(name).parents}
    assert {name.rstrip("/") for name in files} - set(package) <= parents


def test_bill_of_materials():
    """It lists what is there: Python's packages, those that others bring too, Debian's, Spark's jars and theirs."""
    document = json.loads(shell("cat /opt/fruitpipe/sbom.json"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    application = document["metadata"]["component"]
    assert application["name"] == "fruitpipe"
    listed = defaultdict(set)
    for each in [application, *document["components"]]:
        kind = re.match(r"pkg:(\w+)/", each["purl"])[1]
        listed[kind].add((*filter(None, [each["group"]]), each["name"], each["version"]))
    there = json.loads(container("-c", CONTENTS, entrypoint="python", user=ROOT).stdout)
    packages = {(canonicalize_name(name), version) for name, version in there["python"]}
    assert listed["pypi"] == packages
    debian = (line.split() for line in shell("dpkg-query --show").splitlines())
    assert listed["deb"] == {("debian", name.partition(":")[0], version) for name, version in debian}
    jars = set(there["jars"])
    assert len(jars) > 200
    assert listed["maven"] == {tuple(each) for each in there["within jars"]}
    named = {f"{name}-{version}" for *_, name, version in listed["generic"]}
    assert named <= jars
    assert not [name for name, _ in listed["generic"] if re.search(r"-\d", name)], "a part of the version"
    known = named | {f"{name}-{version}" for *_, name, version in listed["maven"]}
    assert not [jar for jar in jars if not f"{jar}-".startswith(tuple(f"{each}-" for each in known))]


def test_the_class_archive_counts_whatever_follows_its_classpath():
    """With -Xshare:on, Java ends where it cannot use the archive."""
    java = "java -Xshare:on -XX:SharedArchiveFile=$(echo /opt/fruitpipe/cache/spark/*.jsa)"
    conf = "mkdir /tmp/conf && touch /tmp/conf/log4j2.properties"
    shell(f'{conf} && {java} -cp "$SPARK_HOME/jars/*:/tmp/conf" {SPARK} --version')
    done = container(
        "-c", f'{conf} && {java} -cp "/tmp/conf:$SPARK_HOME/jars/*" {SPARK} --version', entrypoint="bash", code=1
    )
    assert "Unable to use shared archive" in done.stdout + done.stderr


def test_local_runs_use_the_class_archive():
    script = """
from fruitpipe.config import Environment
from fruitpipe.spark.java import class_archive, find_java
environment = Environment.read()
print(class_archive(environment, find_java(environment)))
"""
    assert container("-c", script, entrypoint="python").stdout.startswith("-Xshare:auto -XX:SharedArchiveFile=/opt/")


@pytest.fixture
def few(fruits, public_folder) -> Path:
    """Some of the drawn pictures, and an empty folder `out` that everybody may write to."""
    for label in sorted(fruits.iterdir())[:4]:
        shutil.copytree(label, public_folder / "in" / label.name)
    (public_folder / "out").mkdir()
    (public_folder / "out").chmod(0o777)
    return public_folder


def run_in_container(folder: Path, user: str, *options: str) -> None:
    mounts = (f"--volume={folder}/in:/in:ro", f"--volume={folder}/out:/out", *options)
    container("run", "/in", "/out", "--set", BACKBONE, user=user, options=mounts)
    assert manifest(folder / "out")["counts"]["by_status"] == {"ok": 160}


def test_main_job_as_any_user_without_tensorflow(few):
    """The job as the image's user and as a stranger, and nobody in it imports TensorFlow."""
    trap = few / "trap"
    trap.mkdir()
    (trap / "tensorflow.py").write_text("raise RuntimeError('TensorFlow is imported')\n")
    blocked = (f"--volume={trap}:/trap:ro", "--env=PYTHONPATH=/trap")
    run_in_container(few, USER, *blocked)
    first = vectors(few / "out")
    shutil.rmtree(few / "out")
    (few / "out").mkdir()
    (few / "out").chmod(0o777)
    run_in_container(few, STRANGER, *blocked)
    assert same_vectors(first, vectors(few / "out"))


def test_a_backbone_that_is_not_in_the_image(few):
    mounts = (f"--volume={few}/in:/in:ro", f"--volume={few}/out:/out")
    done = container("run", "/in", "/out", "--set", "backbone=resnet50", options=mounts, code=2)
    assert "run `fruitpipe convert` where it can be, as in a Dockerfile." in one_line_error(done)


def test_decommissioning_waits_for_the_executor():
    """The script tells the executor and returns when that has ended."""
    script = """
python -c '
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print("ended", flush=True), sys.exit()))
signal.pause()' org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend &
sleep 1
/opt/decom.sh
echo returned
"""
    assert shell(script).split() == ["ended", "returned"]
