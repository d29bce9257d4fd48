"""The files for AWS in examples/aws: rights that are enough and none too many, names that agree with the chart's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, helm
from command import BACKBONE, fruitpipe
from jsonschema import validate
from s3 import environment, options, upload
from seaweed import BUCKET, Identity, Server

ROOT = Path(__file__).parents[1]
AWS = ROOT / "examples/aws"
SCHEMA = json.loads((Path(__file__).parent / "golden/karpenter.json").read_text())
"""Of Karpenter 1's CRDs, the fields that our node pools use."""


def read(name: str) -> Any:
    return json.loads((AWS / name).read_text())


def without(action: str, sid: str) -> dict[str, Any]:
    policy = deepcopy(read("policy.json"))
    for each in policy["Statement"]:
        if each["Sid"] == sid:
            each["Action"].remove(action)
    policy["Statement"] = [each for each in policy["Statement"] if each["Action"]]
    return policy


NEEDED = [(action, each["Sid"]) for each in read("policy.json")["Statement"] for action in each["Action"]]
POLICIES = {"all": read("policy.json")} | {f"{sid}-{action}": without(action, sid) for action, sid in NEEDED}


class Guarded(Server):
    """An S3 server with a role for each of POLICIES, as AWS would read it."""

    def _roles(self) -> dict[str, Any]:
        roles = super()._roles()
        for each in roles["policies"]:
            if each["name"] in POLICIES:
                text = json.dumps(POLICIES[each["name"]])
                each["document"] = json.loads(text.replace("my-photos", BUCKET).replace("my-results", "results"))
        return roles


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, fruits: Path) -> Iterator[Server]:
    server = Guarded(tmp_path_factory.mktemp("guarded"))
    for name in POLICIES:
        server.identities[name] = Identity.new(name, ())
    with server:
        client = server.client(server.identities["admin"])
        client.create_bucket(Bucket="results")
        upload(client, fruits / "Apple", "images/Apple")
        upload(client, fruits / "Apple", "private")
        yield server


IMAGES, OUT = f"s3://{BUCKET}/images", "s3://results/fruits"


def as_role(server: Server, policy: str, monkeypatch: pytest.MonkeyPatch, *command: str, code: int = 0) -> str:
    """What a command prints that has the rights of a policy."""
    for name, value in environment(server, server.session(server.identities[policy], 900)).items():
        monkeypatch.setenv(name, value)
    done = fruitpipe(*command, *options(server.endpoint), code=code)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_rights_are_enough(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a run, for one that finds all features, to look at it and to clear away what it left."""
    for components in (16, 8):
        command = ["run", IMAGES, f"{OUT}/all", "--set", BACKBONE, f"--components={components}"]
        said = as_role(guarded, "all", monkeypatch, *command)
        assert f"40 images to vectors of {components} components" in said
    as_role(guarded, "all", monkeypatch, "show", f"{OUT}/all")
    as_role(guarded, "all", monkeypatch, "gc", f"{OUT}/all", "--delete")
    as_role(guarded, "all", monkeypatch, "doctor", IMAGES, f"{OUT}/all", "--set", BACKBONE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "out", "code"),
    [
        (f"s3://{BUCKET}/private", f"{OUT}/b", 3),
        (IMAGES, "s3://results/elsewhere", 2),
        (IMAGES, f"s3://{BUCKET}/out", 2),
    ],
)
def test_the_rights_end_at_the_prefixes(
    source: str, out: str, code: int, guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = as_role(guarded, "all", monkeypatch, "run", source, out, "--set", BACKBONE, code=code)
    assert "no right to" in said


@pytest.mark.slow
@pytest.mark.parametrize(("action", "sid"), NEEDED)
def test_none_of_the_rights_is_too_many(
    action: str, sid: str, guarded: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it no run ends well: none begins, or no image can be read."""
    policy = f"{sid}-{action}"
    code = 3 if sid == "ReadImages" else 2
    said = as_role(guarded, policy, monkeypatch, "run", IMAGES, f"{OUT}/{policy}", "--set", BACKBONE, code=code)
    assert action in said


def rendered(*further: Path) -> list[dict[str, Any]]:
    """The release `fruits` of values-eks.yaml, and of further values, in the namespace `fruits`."""
    values = [f"--values={file}" for file in (CHART / "values-eks.yaml", *further)]
    done = helm("template", "fruits", str(CHART), "--namespace=fruits", *values)
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def test_the_role_is_for_both_accounts_of_the_release() -> None:
    accounts = {each["metadata"]["name"] for each in rendered() if each["kind"] == "ServiceAccount"}
    (pods,) = read("trust-pod-identity.json")["Statement"]
    tags = pods["Condition"]["StringEquals"]
    assert set(tags["aws:RequestTag/kubernetes-service-account"]) == accounts
    assert tags["aws:RequestTag/kubernetes-namespace"] == "fruits"
    (web,) = read("trust-irsa.json")["Statement"]
    (subjects,) = [value for key, value in web["Condition"]["StringEquals"].items() if key.endswith(":sub")]
    assert set(subjects) == {f"system:serviceaccount:fruits:{name}" for name in accounts}


def test_the_places_are_those_of_the_values() -> None:
    pipeline = yaml.safe_load((CHART / "values-eks.yaml").read_text())["pipeline"]
    granted = {place for each in read("policy.json")["Statement"] for place in each["Resource"] if place.endswith("/*")}
    assert granted == {f"arn:aws:s3:::{pipeline[key].removeprefix('s3://')}/*" for key in ("input", "output")}


@pytest.mark.parametrize(
    ("further", "executors"), [((), "fruitpipe-executors"), ((AWS / "values-gpu.yaml",), "fruitpipe-gpus")]
)
def test_node_pools_are_where_pods_want_to_be(further: tuple[Path, ...], executors: str) -> None:
    """Each role's pods have one pool whose nodes they ask for and whose taints they bear."""
    pools = {}
    for each in (part for file in sorted(AWS.glob("karpenter*.yaml")) for part in yaml.safe_load_all(file.read_text())):
        validate(each, SCHEMA[each["kind"]])
        if each["kind"] == "NodePool":
            name = each["metadata"]["name"]
            pools[name] = each["spec"]["template"]["spec"]
            pools[name]["requirements"].append({"key": "karpenter.sh/nodepool", "values": [name]})  # as its nodes say
    (application,) = [each for each in rendered(*further) if each["kind"] == "SparkApplication"]
    for role in ("driver", "executor"):
        pod = application["spec"][role]["template"]["spec"]
        borne = {(each["key"], each["effect"]) for each in pod.get("tolerations", [])}
        fit = [
            name
            for name, pool in pools.items()
            if all(
                value in requirement["values"]
                for key, value in pod["nodeSelector"].items()
                for requirement in pool["requirements"]
                if requirement["key"] == key
            )
            and {(each["key"], each["effect"]) for each in pool.get("taints", [])} <= borne
        ]
        assert fit == ["fruitpipe-driver" if role == "driver" else executors]
