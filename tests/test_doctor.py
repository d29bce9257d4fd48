"""`fruitpipe doctor`: what it says of each link between this machine and a result; that it leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import BACKBONE, fruitpipe, process
from faults import Proxy, Response
from kubernetes.client import ApiClient, Configuration
from s3 import Retelling, environment, objects, options, upload
from seaweed import BUCKET, Server

from fruitpipe.backbones.family import WORKER, family_of, worker_memory
from fruitpipe.cli import doctor as diagnosis
from fruitpipe.cli import kubernetes_access
from fruitpipe.config import Config, load_config
from fruitpipe.errors import UserError
from fruitpipe.vision.resampling import compiled_file
from fruitpipe.workers import allowance

IMAGES, OUT = f"s3://{BUCKET}/doctor/images", f"s3://{BUCKET}/doctor/out"
CREDENTIALS, ENDPOINT, CLOCK = (f"s3://{BUCKET} {link}" for link in ("credentials", "endpoint", "clock"))
MACHINE = ["java", "memory", "resampling", "weights", "spark"]


@pytest.fixture(scope="module")
def admin(server: Server, fruits: Path) -> dict[str, str]:
    """The environment of somebody who may do everything; the images are there."""
    identity = server.identities["admin"]
    upload(server.client(identity), fruits / "Apple", "doctor/images/Apple")
    return environment(server, identity)


def hurried(variables: dict[str, str]) -> dict[str, str]:
    """Without Java, so that Spark, which takes seconds, is not looked at."""
    return variables | {"JAVA_HOME": "/nowhere"}


def doctor(variables: dict[str, str], *arguments: object, code: int = 2) -> dict[str, tuple[bool, str]]:
    """What was looked at, in this order: whether it is well, and what is said of it."""
    done = fruitpipe("doctor", *arguments, "--json", code=code, variables=variables)
    return {each["subject"]: (each["ok"], each["message"]) for each in json.loads(done.stdout)}


def unwell(found: dict[str, tuple[bool, str]]) -> dict[str, str]:
    return {subject: message for subject, (ok, message) in found.items() if not ok and subject != "java"}


def unfinished(client: Any) -> set[str]:
    """The ids of uploads in parts that were neither completed nor aborted."""
    return {each["UploadId"] for each in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])}


def test_a_good_bucket_is_well_and_nothing_is_left_there(server: Server, admin: dict[str, str]) -> None:
    client = server.client(server.identities["admin"], attempts=3)  # it is idle during runs
    before = objects(client, ""), unfinished(client)
    found = doctor(admin, IMAGES, OUT, *options(server.endpoint, BACKBONE), code=0)
    assert list(found) == [*MACHINE, CREDENTIALS, ENDPOINT, CLOCK, f"input {IMAGES}", f"output {OUT}"]
    assert not unwell(found)
    key = server.identities["admin"].access_key
    assert found[CREDENTIALS][1] == f"from env, access key …{key[-4:]}"
    assert found[ENDPOINT][1] == f"{server.endpoint}, region us-east-1"
    folded = "keys are paths: a//b is the same as a/b"
    assert found[f"output {OUT}"][1] == f"written, read, deleted; conditional writes work; {folded}"
    assert (objects(client, ""), unfinished(client)) == before


def test_good_folders_are_well_and_nothing_is_left_there(server: Server, fruits: Path, tmp_path: Path) -> None:
    variables = environment(server, None) | {"TMPDIR": str(tmp_path)}
    out = tmp_path / "not" / "there" / "yet"
    settings = ("--set", BACKBONE, "--set", "spark.master=local[1]")
    done = process("doctor", fruits, out, *settings, variables=variables)
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    subjects = [line.removeprefix("ok    ").partition(": ")[0] for line in lines]
    assert subjects == [*MACHINE, f"input {fruits}", f"output {out}"]
    assert list(tmp_path.iterdir()) == []


def offline(folder: Path) -> dict[str, str]:
    """No network, and no backbone converted before."""
    return {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "FRUITPIPE_CACHE": str(folder / "cache")}


def test_failures_are_lines_that_say_what_to_do(server: Server, admin: dict[str, str], tmp_path: Path) -> None:
    """No credentials, no weights that can be read and no Java, at one time."""
    weights = tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    weights.parent.mkdir()
    weights.symlink_to("/proc/self/mem")  # even root cannot read it
    variables = (
        environment(server, None) | {"KERAS_HOME": str(tmp_path), "JAVA_HOME": str(tmp_path)} | offline(tmp_path)
    )
    done = fruitpipe("doctor", IMAGES, OUT, *options(server.endpoint), code=2, variables=variables)
    failures = [line for line in done.stdout.splitlines() if not line.startswith("ok    ")]
    assert [line.partition(": ")[0] for line in failures] == ["FAIL  java", "FAIL  weights", f"FAIL  {CREDENTIALS}"]
    java, keras, keys = failures
    assert "Install Java 17 or newer" in java
    assert "cannot read ImageNet weights for mobilenet_v2" in keras
    assert "none: looked at the environment, profiles in ~/.aws" in keys
    assert "set AWS_PROFILE" in keys
    assert "Traceback" not in done.stderr


def test_without_places_only_the_machine_is_looked_at(server: Server, tmp_path: Path) -> None:
    found = doctor(environment(server, None) | {"KERAS_HOME": str(tmp_path)} | offline(tmp_path))
    assert list(found) == MACHINE
    assert list(unwell(found)) == ["weights"]
    assert "set KERAS_HOME to a folder whose `models` has them, or use" in found["weights"][1]


def test_a_profile_that_is_not_there(server: Server, admin: dict[str, str]) -> None:
    variables = environment(server, None) | {"AWS_PROFILE": "typo"}
    failures = unwell(doctor(hurried(variables), IMAGES, OUT, *options(server.endpoint, BACKBONE)))
    assert failures == {
        CREDENTIALS: "The config profile (typo) could not be found. Log in again, or fix what it names."
    }


def test_a_wrong_key(server: Server, admin: dict[str, str]) -> None:
    wrong = environment(server, replace(server.identities["admin"], secret_key="guessed"))
    failures = unwell(doctor(wrong, IMAGES, OUT, *options(server.endpoint, BACKBONE)))
    assert list(failures) == [f"input {IMAGES}", f"output {OUT}"]
    assert all("the secret key does not fit the access key" in message for message in failures.values())


def test_no_right_to_list(server: Server, admin: dict[str, str]) -> None:
    reader = environment(server, server.identities["reader"])
    failures = unwell(doctor(hurried(reader), IMAGES, OUT, *options(server.endpoint, BACKBONE)))
    assert list(failures) == [f"input {IMAGES}", f"output {OUT}"]
    assert all("no right to list s3://" in message for message in failures.values())
    assert all("(s3:ListBucket): ask for it" in message for message in failures.values())


def test_no_right_to_read_or_write(server: Server, admin: dict[str, str]) -> None:
    lister = environment(server, server.identities["lister"])
    failures = unwell(doctor(lister, IMAGES, OUT, *options(server.endpoint, BACKBONE)))
    assert list(failures) == [f"input {IMAGES}", f"output {OUT}"]
    assert "forbidden: no right to read" in failures[f"input {IMAGES}"]
    assert "(s3:GetObject): ask for it" in failures[f"input {IMAGES}"]
    assert "no right to write" in failures[f"output {OUT}"]
    assert "(s3:PutObject): ask for it" in failures[f"output {OUT}"]


def test_missing_buckets(server: Server, admin: dict[str, str]) -> None:
    places = ("s3://absent/images", IMAGES, "s3://away/out")
    failures = unwell(doctor(hurried(admin), *places, *options(server.endpoint, BACKBONE)))
    assert list(failures) == ["input s3://absent/images", "output s3://away/out"]
    assert f"no bucket absent at {server.endpoint}: check its name" in failures["input s3://absent/images"]
    assert f"no bucket away at {server.endpoint}: check its name" in failures["output s3://away/out"]


def test_what_depends_on_a_server_that_is_down_is_not_looked_at(
    admin: dict[str, str], fruits: Path, tmp_path: Path
) -> None:
    found = doctor(hurried(admin), fruits, IMAGES, OUT, *options("http://127.0.0.1:9", BACKBONE))
    assert list(found) == [*MACHINE[:-1], CREDENTIALS, ENDPOINT, f"input {fruits}"]
    assert unwell(found) == {
        ENDPOINT: "nothing answers at http://127.0.0.1:9: check s3.endpoint, and that the server runs."
    }


def test_a_clock_that_differs(server: Server, admin: dict[str, str]) -> None:
    with Retelling(server.endpoint) as proxy:
        proxy.headers = {"date": "Sat, 01 Jan 2000 00:00:00 GMT"}
        failures = unwell(doctor(hurried(admin), IMAGES, OUT, *options(proxy.endpoint, BACKBONE)))
    assert list(failures) == [CLOCK]
    assert f"s ahead of {proxy.endpoint}: set its clock (NTP)." in failures[CLOCK]


def test_a_bucket_outside_the_region(server: Server, admin: dict[str, str]) -> None:
    with Retelling(server.endpoint) as proxy:
        proxy.headers = {"x-amz-bucket-region": "us-west-2"}
        failures = unwell(
            doctor(hurried(admin), IMAGES, OUT, *options(proxy.endpoint, BACKBONE, "s3.region=eu-west-3"))
        )
    assert list(failures) == [ENDPOINT]
    assert "is in us-west-2, but s3.region is eu-west-3" in failures[ENDPOINT]
    assert {each.method for each in proxy.log} == {"HEAD"}


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        (10_000, r"run fewer at once, such as --set spark\.master=local\[[1-9]\d*\]\.$"),
        (1, "end other programs, or choose a smaller backbone"),
    ],
)
def test_where_memory_is_short_the_advice_is_for_what_is_there(
    workers: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers == 1:
        monkeypatch.setattr(diagnosis, "JVM", psutil.virtual_memory().total)  # not even one worker fits
    config = Config(input="a", output="b", spark={"master": f"local[{workers}]"})
    with pytest.raises(UserError, match=says):
        diagnosis.memory(config)


def test_a_container_has_the_memory_that_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: 512 << 20)
    with pytest.raises(UserError, match=r"^536\.9 MB free, but"):
        diagnosis.memory(Config(input="a", output="b"))


@pytest.mark.parametrize(
    ("master", "workers"), [("local", 1), ("local[3]", 3), ("local-cluster[2, 3, 1024]", 6), ("yarn", 0)]
)
def test_workers_are_as_many_as_a_master_means_for_this_machine(master: str, workers: int) -> None:
    assert diagnosis.workers_here(master) == workers


@pytest.mark.parametrize(("error", "advises"), [(errno.EACCES, True), (errno.ENOSPC, False), (errno.EIO, False)])
def test_rights_are_advised_where_they_are_what_is_missing(error: int, advises: bool) -> None:
    def probe() -> str:
        raise OSError(error, os.strerror(error), "/a/file")

    found = diagnosis.finding_of("spark", probe)
    assert found.message.startswith(f"{os.strerror(error)}: /a/file.")
    assert ("Give rights on it" in found.message) == advises


@pytest.mark.parametrize("given", [True, False])
def test_who_has_set_java_home_is_told_to_set_it_anew(given: bool, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").touch()
    (tmp_path / "release").write_text('JAVA_VERSION="11.0.2"\n')
    (tmp_path / "bin/java").chmod(0o755)
    own = {"JAVA_HOME": str(tmp_path)} if given else {"JAVA_HOME": "", "PATH": f"{tmp_path}/bin"}
    found = doctor(dict(os.environ) | own, "--set", BACKBONE)
    assert "is too old for Spark. Install Java 17 or newer" in found["java"][1]
    assert found["java"][1].endswith(", and set JAVA_HOME to it or unset it." if given else ", or set JAVA_HOME.")


def test_says_what_resamples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resample.so"
    monkeypatch.setattr(diagnosis, "compiled_file", lambda: file)
    found = diagnosis.finding_of("resampling", diagnosis.resampling)
    assert found.ok
    assert found.message.startswith("by Pillow; `python -m fruitpipe.vision.compile`")
    file.touch()
    found = diagnosis.finding_of("resampling", diagnosis.resampling)
    assert not found.ok
    assert found.message.endswith(
        ": compile it again by `python -m fruitpipe.vision.compile`. Until then, Pillow resamples."
    )
    if compiled_file().exists():
        monkeypatch.setattr(diagnosis, "compiled_file", compiled_file)
        assert diagnosis.resampling() == "by compiled code"


def test_memory_is_what_the_chosen_part_of_a_network_needs() -> None:
    """VGG's default features need a tenth of its weights; another layer or a model of one's own may need all."""

    def needed(backbone: str, **keys: str) -> int:
        return family_of(backbone).worker_memory(Config(input="a", output="b", backbone=backbone, **keys))

    assert needed("vgg16") == needed("vgg16", layer="block5_pool") < 600
    for whole in ({"layer": "fc2"}, {"weights": "mine.keras"}, {"weights": "mine/"}):
        assert needed("vgg16", **whole) > 3 * needed("vgg16")
    assert needed("vgg16", weights="mine.weights.h5") == needed("vgg16")
    assert needed("orb") == needed("package.module:Class") < 450


def test_memory_for_several_backbones_is_that_of_all_networks_in_one_worker() -> None:
    entries = ["mobilenet_v2", "orb", {"backbone": "vgg16", "layer": "fc2"}]
    several = load_config(input="a", output="b", backbones=entries).parts.values()
    networks = [family_of(each.backbone).worker_memory(each) - WORKER for each in several]
    assert worker_memory(several) == WORKER + sum(networks)
    assert networks[1] == 0


@pytest.mark.parametrize(
    ("status", "said"), [(401, "with 401 (Unauthorized): `kubectl"), (422, "with 422"), (0, "does not answer")]
)
def test_an_api_server_that_refuses_has_answered(
    status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "namespace").write_text("fruits")
    with Proxy("http://127.0.0.1:9", rewrite=lambda *_: Response(status) if status else None) as proxy:
        configuration = Configuration(host=proxy.endpoint if status else "http://127.0.0.1:9")
        monkeypatch.setattr(kubernetes_access, "from_account", lambda: (ApiClient(configuration), "fruits"))
        with pytest.raises(UserError, match=re.escape(said)):
            kubernetes_access.confirm(tmp_path)
