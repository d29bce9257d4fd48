"""Releases by the command line: what `submit` installs, what `status` and `logs` say, and what ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import NAMESPACE, kubectl, manifest, parts, wait_for
from command import command, process
from mishaps import MISHAPS, Mishap, befallen, told
from release import Release, values_for
from seaweed import BUCKET, Server

from fruitpipe.errors import UserError
from fruitpipe.releases.causes import Cause
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.helm import CHART, Helm
from fruitpipe.releases.progress import metrics, parsed

NAME = "by-hand"
IN = f"--namespace={NAMESPACE}"


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("pipline.input=x", "pipline: no such value; did you mean pipeline?"),
        ("driver.memry=1g", "driver.memry: no such value; did you mean driver.memory?"),
        ("pipeline.s3.endpont=x", "pipeline.s3.endpont: no such value; did you mean pipeline.s3.endpoint?"),
        ("driver.cores=x", "driver.cores: "),
        ("pipeline.output=out", "pipeline.output: out is a folder, and the pods of a run share none: give a bucket"),
    ],
)
def test_a_value_that_the_chart_refuses_is_named_with_the_one_that_was_meant(setting: str, meant: str) -> None:
    """By the words of the Helm that is here."""
    given = ["--set", "pipeline.input=s3://a/b", "--set", "pipeline.output=s3://a/c", "--set", setting]
    with pytest.raises(UserError) as caught:
        Helm(None, "default")("template", "fruits", str(CHART), *given)
    assert str(caught.value).startswith(meant)


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("[", "the kubeconfig cannot be used (while parsing"),
        (
            "{exec: {command: no-such-login, apiVersion: client.authentication.k8s.io/v1}}",
            "way to log in fails ([Errno 2]",
        ),
        ("{token: any}", "the cluster does not answer ("),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_one_line(tmp_path: Path, user: str, said: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        'clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]\ncurrent-context: c\n'
        f"contexts: [{{name: c, context: {{cluster: a, user: u}}}}]\nusers: [{{name: u, user: {user}}}]\n"
    )
    code = 1 if "answer" in said else 2
    done = process("status", "fruits", variables=os.environ | {"KUBECONFIG": str(file)}, code=code)
    (line,) = done.stderr.splitlines()
    assert said in line


def test_figures_are_those_of_the_metrics() -> None:
    text = (
        "# TYPE fruitpipe_images counter\n"
        'fruitpipe_images_total{status="ok"} 30.0\nfruitpipe_images_total{status="undecodable"} 2.0\n'
        "# TYPE fruitpipe_backlog_images gauge\nfruitpipe_backlog_images 68.0\n"
        "# TYPE fruitpipe_images_per_second gauge\nfruitpipe_images_per_second 17.0\n"
        '# TYPE fruitpipe_stage gauge\nfruitpipe_stage{stage="featurize"} 1.0\n'
    )
    progress = parsed(text)
    assert progress == ("featurize", 32, 100, 2, 17.0)
    assert progress.remaining == 4.0


def test_without_a_cluster_there_is_one_line(tmp_path: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "KUBECONFIG": str(tmp_path / "none")}
    (line,) = process("status", "fruits", variables=variables, code=2).stderr.splitlines()
    assert line.startswith("error: no cluster is configured: there is no kubeconfig")


@pytest.fixture
def submitted(places: Server, cluster_image: str, tmp_path: Path) -> Iterator[list[object]]:
    """Arguments that submit a release of the large images, which is deleted in the end."""
    values = values_for(NAME, cluster_image, places, "heap")
    values["executor"] = {"instances": 1, "cores": 2, "coreRequest": "100m"}
    config, file = tmp_path / "run.yaml", tmp_path / "values.yaml"
    config.write_text(yaml.safe_dump(values.pop("pipeline")))
    file.write_text(yaml.safe_dump(values))
    try:
        yield [config, NAME, IN, "--values", file, "--set", "limit=400"]
    finally:
        Release(NAME).uninstall()
        kubectl("delete", "--ignore-not-found", "rolebinding", f"{NAME}-executor")


def shown() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(process("list", IN, "--json").stdout)
    return [row for row in rows if row["name"] == NAME]


def status() -> dict[str, Any]:
    now: dict[str, Any] = json.loads(process("status", NAME, IN, "--json").stdout)
    return now


@pytest.mark.cluster
def test_a_release_from_submit_to_delete(
    submitted: list[object], many: int, places: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = places.client(places.identities["admin"])
    planned = process("submit", *submitted, "--dry-run").stdout
    assert planned.endswith(f"SparkApplication {NAME}: new\na run would start\n")
    assert not shown(), "nothing was installed"
    process("submit", *submitted)
    assert process("submit", *submitted, "--dry-run").stdout == "nothing would change\n"

    wait_for(lambda: parts(client, NAME), 180)
    with Release(NAME).standing_still():
        now = status()
        assert (now["phase"], now["cause"]) == ("running", None)
        assert now["executors"] == {"wanted": 1, "running": 1, "pending": 0}
        progress = now["progress"]
        assert (progress["stage"], progress["total"]) == ("featurize", 400)
        assert (progress["done"], progress["total"]) == figures_of_the_driver()
        seen = parsed(metrics(by_token(tmp_path), f"{NAME}-driver", 8090))
        assert (seen.done, seen.total) == figures_of_the_driver()
        said = process("logs", NAME, IN, "--executor", "all").stdout
        assert pods_in(said) > {f"{NAME}-driver"}, "and the executor"
        assert re.search(rf"^\S+Z {NAME}-driver  list: ", said, re.MULTILINE)

    process("cancel", NAME, IN)
    wait_for(lambda: status()["phase"] == "suspended", 60)
    assert status()["cause"] == {"what": "it is suspended", "advice": f"`fruitpipe rerun {NAME}` starts it again"}
    kept = len(parts(client, NAME))
    assert kept

    # A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that.
    words = ["env", "--default-signal=INT", *command("rerun", NAME, IN, "--wait")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert any(line.startswith("running") for line in waiting.stderr), "it tells how it goes"
        waiting.send_signal(signal.SIGINT)
        assert "the run goes on" in waiting.stderr.read()
    assert waiting.returncode == 130
    Release(NAME).completed()
    assert manifest(client, NAME)["plan"]["known"], "what was computed before it was cancelled"
    now = status()
    assert (now["phase"], now["exit_code"]) == ("done", 0)
    assert re.fullmatch(r"published run \S+: 400 images, 0 failed", now["said"])

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", places.identities["admin"].access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", places.identities["admin"].secret_key)
    reach = ("--set", f"s3.endpoint={places.endpoint}", "--set", "s3.allow_http=true")
    process("delete", NAME, IN)
    assert process("status", NAME, IN, code=2).stderr.startswith(f"error: no release {NAME} in namespace {NAMESPACE}")
    said = process("logs", f"s3://{BUCKET}/{NAME}", *reach).stdout
    assert pods_in(said) > {f"{NAME}-driver"}, "pods are gone, logs are not"
    assert "project: " in said
    assert client.list_objects_v2(Bucket=BUCKET, Prefix=f"{NAME}/latest.json")["KeyCount"] == 1, "results stay"


def pods_in(log: str) -> set[str]:
    return set(re.findall(r"^\d{4}-\S+Z (\S+) ", log, re.MULTILINE))


def by_token(folder: Path) -> Connection:
    """The cluster as somebody reaches it who has a token, as on EKS, and no certificate."""
    account, file = f"{NAME}-executor", folder / "kubeconfig"
    kubectl("create", "rolebinding", account, "--clusterrole=edit", f"--serviceaccount={NAMESPACE}:{account}")
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--output=json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", account).strip()}
    file.write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        return Connection(namespace=NAMESPACE)


def figures_of_the_driver() -> tuple[int, int]:
    """Images done and all, as the driver itself serves them."""
    program = "import urllib.request; print(urllib.request.urlopen('http://localhost:8090/metrics').read().decode())"
    progress = parsed(kubectl("exec", f"{NAME}-driver", "--", "python", "-c", program))
    return progress.done, progress.total


AT_ONCE = [each for each in MISHAPS if not each.runs]


@pytest.mark.cluster
def test_what_goes_wrong_is_named_with_the_next_step(places: Server, cluster_image: str) -> None:
    """Those for which no driver has to start. `benchmarks/causes.py` has all, and how soon."""

    def one(number: int) -> tuple[Mishap, Cause | None]:
        mishap, name = AT_ONCE[number], f"mishap-{number}"

        def right(cause: Cause) -> bool:
            return bool(re.search(mishap.what, cause.what) and re.search(mishap.advice, cause.advice))

        with befallen(mishap, name, values_for(name, cluster_image, places, "images")) as release:
            return mishap, told(release, right).cause

    with ThreadPoolExecutor(3) as pool:
        for mishap, cause in pool.map(one, range(len(AT_ONCE))):
            assert cause, mishap.name
            assert re.search(mishap.what, cause.what), f"{mishap.name}: {cause}"
            assert re.search(mishap.advice, cause.advice), f"{mishap.name}: {cause}"
