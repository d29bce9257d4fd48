"""Releases by the command line: what `submit` installs, what `status` and `logs` say, and what ends it."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from cluster import NAMESPACE, kubectl, manifest, parts, wait_for
from command import command, hearing, process
from mishaps import MISHAPS, Mishap, befallen, told
from release import Release, values_for
from seaweed import BUCKET, Server

from fruitpipe.cli.releases import rerun
from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.releases import changes
from fruitpipe.releases.causes import Cause, cause_of, unschedulable
from fruitpipe.releases.connection import Connection, Kind
from fruitpipe.releases.helm import CHART, Helm, refusal
from fruitpipe.releases.logs import kept_lines, lines_as_they_come, lines_until_now
from fruitpipe.releases.observation import Observation, find, find_installed
from fruitpipe.releases.operators import APACHE, KUBEFLOW, Installed
from fruitpipe.releases.plain import Plain
from fruitpipe.releases.progress import metrics, parsed
from fruitpipe.releases.release import submit, values_of
from fruitpipe.releases.status import executors_of, list_releases, phase_of, status_of, stores_of
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore

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


def test_a_file_that_is_no_kubeconfig_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word, wrong = tmp_path / "word", tmp_path / "wrong"
    word.write_text("word\n")
    wrong.write_text(
        'clusters: [{name: a, cluster: {server: "https://127.0.0.1:1", certificate-authority-data: "YWJj"}}]\n'
        "contexts: [{name: c, context: {cluster: a, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {}}]\n"
    )
    for path in (word, wrong, tmp_path):
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        with pytest.raises(UserError, match="the kubeconfig cannot be used"):
            Connection()


def test_a_connection_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system: who follows a log asks nothing more."""
    (file := tmp_path / "kubeconfig").write_text(
        'clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]\ncurrent-context: c\n'
        "contexts: [{name: c, context: {cluster: a, user: u}}]\nusers: [{name: u, user: {token: any}}]\n"
    )
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    settings = Connection().core.api_client.rest_client.pool_manager.connection_pool_kw
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in settings["socket_options"]


def test_only_submit_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []
    answer = CompletedProcess([], 0, '{"chart": "fruitpipe", "manifest": ""}')
    monkeypatch.setattr("subprocess.run", lambda words, **options: given.append(words) or answer)
    Helm(None, NAMESPACE).install("fruits", [Path("a.yaml")], {})
    Helm(None, NAMESPACE).change("fruits", {})
    assert ["--install" in words for words in given if "upgrade" in words] == [True, False]
    said = str(refusal('Error: UPGRADE FAILED: "fruits" has no deployed releases'))
    assert said == "Helm has no release fruits here: change it where it comes from, such as Argo CD."


@pytest.mark.parametrize("chart", ["grafana", "fruitpipe-and-operator"])
def test_a_release_of_another_chart_is_left_alone(chart: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    answer = CompletedProcess([], 0, json.dumps({"chart": chart, "manifest": ""}))
    monkeypatch.setattr("subprocess.run", lambda words, **options: given.append(words[1]) or answer)
    helm = Helm(None, NAMESPACE)
    for act in (lambda: helm.install("a", [], {}), lambda: helm.change("a", {}), lambda: helm.uninstall("a")):
        with pytest.raises(UserError, match=f"release a in namespace {NAMESPACE} is of chart {chart}, not fruitpipe: "):
            act()
    assert set(given) == {"get"}


def test_a_name_that_no_release_has_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "get": CompletedProcess([], 1, stderr="Error: release: not found\n"),
        "upgrade": CompletedProcess([], 0, '{"manifest": "made"}'),
    }
    monkeypatch.setattr("subprocess.run", lambda words, **options: answers[words[1]])
    assert Helm(None, NAMESPACE).install("fruits", [], {}) == "made"


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


def test_what_has_a_schedule_runs_again_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "spec": {"schedule": "0 3 * * *", "suspend": True}}
    seen = Observation("fruits", NAMESPACE, None, nightly)
    assert str(cause_of(seen)) == "it is suspended: `fruitpipe rerun fruits` lets its schedule go on"
    monkeypatch.setattr("fruitpipe.releases.release.observe", lambda *_: seen)
    monkeypatch.setattr("fruitpipe.releases.connection.Connection", lambda *_: Recorded())
    monkeypatch.setattr(Helm, "change", lambda *_: "")
    rerun("fruits")
    said = "it runs again when its schedule says so: 0 3 * * *. next: fruitpipe status fruits"
    assert capsys.readouterr().out.strip() == said


def test_an_image_that_is_named_wins_over_the_digest_in_a_file_of_values(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(f"image: {{repository: elsewhere, digest: 'sha256:{'0' * 64}'}}\n")
    given = values_of(Config(input="s3://a/b", output="s3://a/c"), (), "reg/fruitpipe:2.0")
    made = Helm(None, "default")(
        "template", "fruits", str(CHART), f"--values={file}", "--values=-", given=yaml.safe_dump(given)
    )
    assert set(re.findall(r"image: (\S+)", made)) == {"reg/fruitpipe:2.0"}


def test_assignments_are_not_lost_on_a_config_that_is_made() -> None:
    with pytest.raises(UserError, match="say them in the Config itself"):
        values_of(Config(input="s3://a/b", output="s3://a/c"), ["limit=3"], None)


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


APACHES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden/apache.json").read_text())
"""Applications as version 1.0.0 of Apache's operator wrote them, with their pods, whose states were set by hand."""


@pytest.mark.parametrize(
    ("recorded", "phase", "code", "cause"),
    [
        ("running", "running", None, ""),
        ("image", "starting", None, "the image registry.example/fruitpipe:1.0 cannot be pulled ("),
        ("done", "done", 0, ""),
        ("quick", "done", 0, ""),  # which the operator calls failed: it saw no session of Spark
        ("failed", "failed", 2, "no images in s3://photos/images: looked for .jpg there"),
        ("refused", "failed", 1, "quota tight leaves no room for the driver (it asks for requests.memory=2Gi; "),
        ("account", "failed", 1, "there is no service account not-there: make it"),
        ("priority", "failed", 1, "there is no PriorityClass none-such: make it"),
        ("to-be-tried-again", "failed, to be tried again", None, "no images in s3://photos/images: looked for"),
        ("given-up", "failed", 2, "no bucket photos at http://s3:8333: check its name"),
    ],
)
def test_what_apaches_operator_says_is_told_as_what_kubeflows_does(
    recorded: str, phase: str, code: int | None, cause: str
) -> None:
    seen = Observation("fruits", NAMESPACE, **APACHES[recorded])
    assert phase_of(seen) == (phase, code)
    if phase != "done":
        assert str(cause_of(seen) or "").startswith(cause)
    assert executors_of(seen).wanted == 2
    begun = seen.submitted
    assert begun
    assert begun.isoformat() >= APACHES[recorded]["application"]["metadata"]["creationTimestamp"].removesuffix("Z")


def driver_that_ended(code: int, said: str) -> Plain:
    """Its pod, in which a mesh has put a container besides, which ended well."""
    statuses = [
        {"name": name, "state": {"terminated": {"exitCode": code, "message": said}}}
        for name, code, said in (("istio-proxy", 0, ""), ("spark-kubernetes-driver", code, said))
    ]
    labels = {"app.kubernetes.io/component": "driver"}
    return {
        "metadata": {"creationTimestamp": "2026-11-27T09:45:46Z", "labels": labels},
        "status": {"containerStatuses": statuses},
    }


@pytest.mark.parametrize("said", ["Permission denied: /tmp/x.", "no TLS: set s3.allow_http: true, or fix the server."])
def test_a_driver_s_own_words_are_told_whole(said: str) -> None:
    driver = driver_that_ended(2, said)
    cause = cause_of(Observation("fruits", NAMESPACE, APACHES["failed"]["application"], pods=[driver]))
    assert str(cause) == f"{said} `fruitpipe logs fruits` shows more"


def test_a_container_beside_spark_s_own_says_nothing_of_the_run() -> None:
    """Neither of a pod nor of what Apache's operator remembers of one."""
    failed = deepcopy(APACHES["failed"]["application"])
    ended = failed["status"]["stateTransitionHistory"]["5"]["lastObservedDriverStatus"]
    pods = [driver_that_ended(3, "too many failures")]
    assert phase_of(Observation("fruits", NAMESPACE, failed, pods=pods)) == ("failed", 3)
    ended["containerStatuses"].insert(0, {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0}}})
    assert phase_of(Observation("fruits", NAMESPACE, failed)) == ("failed", 2)


def test_a_driver_that_is_gone_has_started_all_the_same() -> None:
    """As after its node is lost, by the operator's words."""
    state = {"state": "FAILED", "errorMessage": "driver pod not found"}
    application = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "status": {"applicationState": state}}
    cause = str(cause_of(Observation("fruits", NAMESPACE, application)))
    assert cause.startswith("the driver's pod is gone, with its node or deleted: run it again")


@pytest.mark.parametrize(
    ("state", "phase", "code"),
    [
        ("SUBMISSION_FAILED", "failed, to be tried again", None),
        ("FAILING", "failed, to be tried again", None),
        ("FAILED", "failed", 1),
    ],
)
def test_only_what_kubeflows_operator_gives_up_is_the_end(state: str, phase: str, code: int | None) -> None:
    application = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "status": {"applicationState": {"state": state}}}
    assert phase_of(Observation("fruits", NAMESPACE, application)) == (phase, code)


@pytest.mark.parametrize(
    ("change", "runs"),
    [({"suspend": False}, False), ({"timeToLiveSeconds": 60}, False), ({"image": "another"}, True)],
)
def test_what_the_operator_runs_nothing_for_is_not_waited_for(
    change: Plain, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Plain = {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "metadata": {"uid": "a", "generation": 1},
        "spec": {"image": "one"},
        "status": {"lastSubmissionAttemptTime": "2026-11-27T09:45:46Z"},
    }
    later = done | {"metadata": {"uid": "a", "generation": 2}, "spec": done["spec"] | change}
    seen = (Observation("fruits", NAMESPACE, each) for each in (done, later))
    monkeypatch.setattr("fruitpipe.releases.release.find", lambda *_: next(seen))
    monkeypatch.setattr(Helm, "install", lambda *_: "")
    monkeypatch.setattr("fruitpipe.releases.release.Connection", lambda *_: Recorded())
    release = submit(Config(input="s3://a/b", output="s3://a/c"), "fruits")
    assert (release.earlier is not None) == runs


def rendered(*settings: str) -> dict[changes.Key, Plain]:
    """Objects of a release."""
    given = ("authenticationSecret=mine", "pipeline.input=s3://a/b", "pipeline.output=s3://a/c", *settings)
    options = (f"--set={each}" for each in given)
    return changes.objects(Helm(None, "default")("template", "fruits", str(CHART), *options))


NIGHTLY, LATER = ("schedule.cron=0 3 * * *",), ("schedule.cron=0 4 * * *",)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, (), "a run would start"),
        ((), (), "nothing would change"),
        ((), ("networkPolicy.enabled=false",), "no run would start"),
        ((), ("reprocess=a",), "a run would start"),
        ((), ("timeToLiveSeconds=60",), "no run would start"),
        ((), ("suspend=true",), "no run would start"),
        ((), ("suspend=true", "reprocess=a"), "no run would start"),
        (None, ("suspend=true",), "no run would start"),
        (("suspend=true",), (), "a run would start"),
        (NIGHTLY, LATER, "no run would start before its schedule says so: 0 4 * * *"),
        (None, NIGHTLY, "no run would start before its schedule says so: 0 3 * * *"),
        (NIGHTLY, (*NIGHTLY, "suspend=true"), "no run would start"),
        (NIGHTLY, (), "a run would start"),
        ((), ("operator=apache",), "a run would start"),
        (("operator=apache",), ("operator=apache", "suspend=true"), "no run would start"),
    ],
)
def test_whether_a_run_would_start(before: tuple[str, ...] | None, after: tuple[str, ...], said: str) -> None:
    there = {} if before is None else rendered(*before)
    assert changes.outcome(there, rendered(*after)) == said


@pytest.mark.parametrize(
    ("reasons", "advice"),
    [
        ("3 Insufficient nvidia.com/gpu", "lower executor.gpu.amount, or add nodes with free GPUs"),
        ("1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint {nvidia.com/gpu: true}", "add a toleration"),
        ("1 Insufficient memory, 2 Insufficient cpu", "lower executor.memory or executor.cores"),
        ("1 node(s) had untolerated taint {a: b}, 2 Insufficient memory", "add a toleration"),
        (
            "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient memory",
            "lower executor.memory",
        ),
        ("1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }", "add a toleration"),
        ("1 node(s) had untolerated taint {node-role.kubernetes.io/infra: }, 2 Insufficient cpu", "add a toleration"),
        ("pod has unbound immediate PersistentVolumeClaims", "check the volumes of executor.scratch"),
        ("2 node(s) had volume node affinity conflict", "check the volumes of executor.scratch"),
        ("2 node(s) didn't match Pod's node affinity/selector", "check executor.nodeSelector and executor.affinity"),
        ("2 Too many pods", "see `kubectl describe pod`"),
        ("2 node(s) were unschedulable", "see `kubectl describe pod`"),
        ("2 node(s) didn't match pod topology spread constraints", "see `kubectl describe pod`"),
    ],
)
def test_what_no_node_has_is_told_with_the_value_that_asks_for_it(reasons: str, advice: str) -> None:
    cause = unschedulable("executor", f"0/3 nodes are available: {reasons}. preemption: 0/3 nodes are available.")
    assert cause.what == f"no node takes the executor ({reasons})"
    assert cause.advice.startswith(advice)


@pytest.mark.parametrize(("memory", "fits"), [("3g", True), ("3GB", True), ("3G", True), ("5Gb", False), ("5g", False)])
def test_a_quota_is_compared_with_sizes_as_spark_takes_them(memory: str, fits: bool) -> None:
    going = deepcopy(APACHES["running"]["application"])
    going["spec"]["sparkConf"] |= {"spark.executor.memory": memory, "spark.executor.memoryOverhead": "1073741824b"}
    status = {"hard": {"requests.memory": "4Gi"}, "used": {"requests.memory": "0"}}
    quota = {"metadata": {"name": "tight"}, "status": status}
    said = str(cause_of(Observation("fruits", NAMESPACE, going, quotas=[quota])) or "")
    assert said.startswith("quota tight leaves no room for executors (requests.memory: 0 of 4Gi") == (not fits)


class Recorded(Connection):
    """A cluster that has these objects, and knows no kinds but those of Apache's operator."""

    def __init__(self, *objects: Plain) -> None:
        self.context, self.namespace, self.objects = None, NAMESPACE, objects

    def custom(self, kind: Kind, selector: str = "", everywhere: bool = False) -> list[Plain] | None:
        return self._of("SparkApplication") if kind == APACHE.kind else None

    def config_maps(self, selector: str, everywhere: bool = False) -> list[Plain]:
        return self._of("ConfigMap")

    def deployments(self, selector: str) -> list[Plain]:
        return self._of("Deployment")

    def pods(self, selector: str = "", name: str | None = None) -> list[Plain]:
        return self._of("Pod")

    def events(self) -> list[Plain]:
        return []

    def quotas(self) -> list[Plain]:
        return []

    def _of(self, kind: str) -> list[Plain]:
        return [each for each in self.objects if each["kind"] == kind]


def test_of_two_applications_the_one_that_stays_is_the_release() -> None:
    """Apache's operator clears away the earlier one, while the later one starts; a cancelled release has none."""
    going, done = APACHES["running"]["application"], APACHES["done"]["application"]
    earlier = done | {"metadata": done["metadata"] | {"deletionTimestamp": going["metadata"]["creationTimestamp"]}}
    labels = going["metadata"]["labels"] | {"fruitpipe/suspended": "true"}
    config = {"kind": "ConfigMap", "metadata": {"name": "fruits", "namespace": NAMESPACE, "labels": labels}}
    for objects, phase in (((going, earlier), "running"), ((earlier, config), "suspended")):
        (row,) = list_releases(Recorded(*objects))
        assert (row.name, row.phase) == ("fruits", phase)
        seen = find(Recorded(*objects), "fruits")
        assert seen
        assert phase_of(seen) == (phase, None)
    assert find(Recorded(earlier), "fruits") is None


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--namespaces=elsewhere"], "the Spark operator does not watch namespace fruits, but elsewhere: add it to"),
        (["--namespaces=elsewhere,fruits"], ""),
        (['--namespaces=""'], ""),
        ([], ""),
        (
            ["--namespaces=elsewhere", "--namespace-selector=team=a"],
            "no operator has taken the application up for 60 s",
        ),
        (["--namespaces=elsewhere", '--namespace-selector=""'], "the Spark operator does not watch namespace fruits"),
    ],
)
def test_kubeflows_operator_says_in_its_arguments_what_it_watches(arguments: list[str], cause: str) -> None:
    spec = {"template": {"spec": {"containers": [{"args": ["controller", "start", *arguments]}]}}}
    operator = {"kind": "Deployment", "metadata": {}, "spec": spec, "status": {"readyReplicas": 1}}
    made = datetime(2026, 11, 27, 9, tzinfo=UTC)
    application = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "metadata": {"creationTimestamp": made.isoformat()}}
    seen = Observation(
        "fruits",
        "fruits",
        application,
        installed=find_installed(Recorded(operator), KUBEFLOW),
        moment=made + timedelta(minutes=1),
    )
    said = str(cause_of(seen) or "")
    assert said.startswith(cause)
    assert bool(said) == bool(cause)


def with_config(**said: object) -> Recorded:
    """The cluster of a release with this config."""
    labels = {"fruitpipe/suspended": "true", "app.kubernetes.io/instance": "fruits"}
    place = {"name": "fruits", "namespace": NAMESPACE, "labels": labels}
    return Recorded({"kind": "ConfigMap", "metadata": place, "data": {"run.yaml": yaml.safe_dump(said)}})


def test_a_config_that_this_machine_does_not_know_hides_the_result_alone(tmp_path: Path) -> None:
    LocalStore(str(tmp_path)).put("latest.json", b"{}")
    said = {"input": "s3://photos/images", "output": str(tmp_path), "formats": ["of-the-image-alone"]}
    now = status_of(with_config(**said), "fruits")
    assert (now.phase, now.output) == ("suspended", str(tmp_path))
    assert now.unseen
    now = status_of(with_config(**said, of_a_newer_chart=1), "fruits")
    assert now.phase == "suspended"
    assert now.unseen == "this fruitpipe cannot read the config of release fruits: take the version of its image."


def test_logs_of_several_backbones_are_those_of_their_results(tmp_path: Path) -> None:
    cluster = with_config(input="a", output=str(tmp_path / "out"), backbones=["orb", "sift"])
    for backbone, run_id in (("orb", "20261128-000002-aaaa"), ("sift", "20261128-000001-aaaa")):
        store = LocalStore(str(tmp_path / "out" / backbone))
        store.put(layout.MARKER, b'{"layout": 1}')
        store.put(layout.log(run_id), gzip.compress(f"{backbone} said\n".encode()))
    stores = stores_of(cluster, "fruits")
    assert list(kept_lines(stores)) == ["orb said"], "the newest"
    assert list(kept_lines(stores, "20261128-000001-aaaa")) == ["sift said"]
    with pytest.raises(UserError, match=r"no log of run x in .*/orb, .*/sift: "):
        list(kept_lines(stores, "x"))


class Talking(Recorded):
    """A driver that says something all the time, until an executor, which comes later, is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.pods_there, self.heard = ["driver"], threading.Event()

    def pods(self, selector: str = "", name: str | None = None) -> list[Plain]:
        there = list(self.pods_there)
        self.pods_there = ["driver", "executor"]
        return [
            {"metadata": {"name": each, "uid": each, "labels": {"app.kubernetes.io/component": each}}} for each in there
        ]

    def log(self, pod: str, container: str, follow: bool = False, last: int | None = None) -> Iterator[bytes]:
        if pod == "executor":
            self.heard.set()
        for _ in range(500):
            yield b"2026-11-27T09:45:46Z something"
            if self.heard.wait(0.01):
                return


def test_an_executor_is_heard_while_the_driver_never_stops_talking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fruitpipe.releases.logs.LOOK", 0.05)
    cluster = Talking()
    lines = Counter(line.pod for line in lines_as_they_come(cluster, "fruits", "all", cluster.heard.is_set))
    assert lines["executor"] == 1
    assert lines["driver"] < 500


class Breaking(BaseHTTPRequestHandler):
    """An API server: a driver with a container beside Spark's, of whose log it sends a line, and is gone."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.endswith("/resourcequotas"):
            self._answer(200, b'{"items": []', missing=1)
        elif path.endswith("/pods"):
            place = {"name": "fruits-driver", "uid": "a", "labels": {"app.kubernetes.io/component": "driver"}}
            self._answer(200, json.dumps({"items": [{"metadata": place}]}).encode())
        elif "container=spark-kubernetes-driver" not in query:
            self._answer(400, b"a container name must be specified")
        else:
            self._answer(200, b"2026-11-27T09:45:46Z list: 3 images\n", missing=1)

    def _answer(self, code: int, body: bytes, missing: int = 0) -> None:
        self.send_response(code)
        self.send_header("content-length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = tmp_path / "kubeconfig"
        file.write_text(
            f'clusters: [{{name: a, cluster: {{server: "http://127.0.0.1:{server.server_port}"}}}}]\n'
            "current-context: c\ncontexts: [{name: c, context: {cluster: a, user: u}}]\nusers: [{name: u, user: {}}]\n"
        )
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        yield Connection()
        server.shutdown()


def test_a_list_that_breaks_off_is_told(breaking: Connection) -> None:
    with pytest.raises(FruitpipeError, match="the cluster does not answer"):
        breaking.quotas()


@pytest.mark.parametrize("follow", [True, False])
def test_a_log_that_breaks_off_is_told_after_its_lines(follow: bool, breaking: Connection) -> None:
    """Of Spark's container, beside which there may be others."""
    lines = (
        lines_as_they_come(breaking, "fruits", None, lambda: False) if follow else lines_until_now(breaking, "fruits")
    )
    assert str(next(lines)) == "2026-11-27T09:45:46Z fruits-driver  list: 3 images"
    with pytest.raises(FruitpipeError, match="the cluster does not answer") as caught:
        next(lines)
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("settings", "namespaces"),
    [
        ("", ("default",)),
        ("=fruits, apples", ("fruits", "apples")),
        ("=fruits\nX=*", ()),
        ("=*\nX=fruits", ("fruits",)),
    ],
)
def test_apaches_operator_says_in_its_settings_what_it_watches(settings: str, namespaces: tuple[str, ...]) -> None:
    """By the last line, as Java reads them."""
    key = "spark.kubernetes.operator.watchedNamespaces"
    text = f"# Overrides\n{key}{settings.replace('X', key)}\n" if settings else ""
    place = {"namespace": "operators"}
    objects: tuple[Plain, ...] = (
        {"kind": "ConfigMap", "metadata": place, "data": {"spark-operator.properties": text}},
        {"kind": "Deployment", "metadata": place, "status": {"readyReplicas": 1}},
    )
    assert find_installed(Recorded(*objects), APACHE) == [Installed(namespaces, True)]


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

    words = hearing(command("rerun", NAME, IN, "--wait"))
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert any(line.startswith("running") for line in waiting.stderr), "it tells how it goes"
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read()
        assert "the run goes on" in said
        assert "error" not in said
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
        with befallen(mishap, name, values_for(name, cluster_image, places, "images")) as release:
            return mishap, told(release, mishap.is_told_by).cause

    with ThreadPoolExecutor(3) as pool:
        for mishap, cause in pool.map(one, range(len(AT_ONCE))):
            assert cause, mishap.name
            assert re.search(mishap.what, cause.what), f"{mishap.name}: {cause}"
            assert re.search(mishap.advice, cause.advice), f"{mishap.name}: {cause}"
