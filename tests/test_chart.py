"""The Helm chart, as it renders: what is refused, what runs again, what pods may do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from conftest import unavailable
from jsonschema import Draft7Validator

CHART = Path(__file__).parents[1] / "helm/fruitpipe"
PLACES = ("pipeline.input=s3://photos/images", "pipeline.output=s3://photos/out")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        unavailable("install helm")


def options(*settings: str) -> list[str]:
    """Settings for Helm, which takes 0.9 for a word unless it is given as JSON."""
    return [
        part
        for setting in settings
        for part in ("--set-json" if re.search(r"=\d+\.\d+$", setting) else "--set", setting)
    ]


def render(*settings: str, release: str = "fruits") -> list[dict[str, Any]]:
    done = helm("template", release, str(CHART), "--namespace=jobs", *options(*PLACES, *settings))
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def refusal(*settings: str) -> str:
    done = helm("template", "fruits", str(CHART), *options(*settings))
    assert done.returncode
    return done.stderr


def one(objects: list[dict[str, Any]], kind: str, name: str = "fruits") -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod templates by role."""
    spec = one(objects, "SparkApplication")["spec"]
    return {role: spec[role]["template"] for role in ("driver", "executor")}


def test_lint_finds_nothing():
    done = helm("lint", "--strict", str(CHART), *options(*PLACES))
    assert not done.returncode, done.stdout


def test_schema_and_readme_are_those_that_generate_writes():
    assert (CHART / "values.schema.json").read_text() == generate.schema(), "run `python helm/generate.py`"
    assert (CHART / "README.md").read_text() == generate.readme(), "run `python helm/generate.py`"


def test_every_value_is_in_the_readme():
    def leaves(tree: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for name, value in tree.items():
            found |= leaves(value, f"{path}{name}.") if isinstance(value, dict) and value else {f"{path}{name}"}
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(re.findall(r"^\| `([^`]+)`", generate.readme(), re.MULTILINE)) == leaves(values)


def test_the_schema_is_one():
    Draft7Validator.check_schema(json.loads(generate.schema()))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pipeline.pca.varianc=0.9", "at '/pipeline/pca': additional properties 'varianc' not allowed"),
        ("executor.core=2", "at '/executor': additional properties 'core' not allowed"),
        ("executor.memory=1G", "at '/executor/memory'"),
        ("driver.env.AWS_SECRET_ACCESS_KEY=x", "AWS_SECRET_ACCESS_KEY"),
        ("driver.env.NAME=AKIA0123456789ABCDEF", "'not' failed"),
        (r"sparkConf.spark\.hadoop\.fs\.s3a\.secret\.key=x", "fs.s3a.secret.key"),
        ("image.tag=latest", "at '/image/tag'"),
        ("image.digest=sha256:12", "at '/image/digest'"),
    ],
)
def test_a_mistake_is_refused_with_its_key(setting: str, message: str):
    assert message in refusal(*PLACES, setting)


@pytest.mark.parametrize("missing", ["input", "output"])
def test_places_must_be_given(missing: str):
    given = [place for place in PLACES if missing not in place]
    assert f"pipeline.{missing}: say where" in refusal(*given)


def test_the_config_is_carried_as_it_was_given():
    config = one(render("pipeline.pca.variance=0.9"), "ConfigMap")["data"]["run.yaml"]
    assert yaml.safe_load(config)["pca"] == {"variance": 0.9}


def test_a_change_of_the_config_or_a_new_reprocess_changes_the_spec_and_nothing_else_does():
    specs = [
        json.dumps(one(render(*settings), "SparkApplication")["spec"])
        for settings in ((), ("pipeline.pca.variance=0.9",), ("reprocess=again",))
    ]
    assert len(set(specs)) == 3
    assert json.dumps(one(render(), "SparkApplication")["spec"]) == specs[0]


def test_pods_pass_the_restricted_profile_without_a_webhook():
    for template in pods(render()).values():
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert pod["securityContext"] | {"fsGroup": 0} == {
            "runAsNonRoot": True,
            "runAsUser": 185,
            "runAsGroup": 0,
            "fsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_only_the_driver_has_a_token():
    objects = render()
    spec = one(objects, "SparkApplication")["spec"]
    assert [spec[role]["serviceAccount"] for role in ("driver", "executor")] == ["fruits", "fruits-executor"]
    assert pods(objects)["driver"]["spec"]["automountServiceAccountToken"] is True
    assert pods(objects)["executor"]["spec"]["automountServiceAccountToken"] is False
    assert one(objects, "ServiceAccount", "fruits-executor")["automountServiceAccountToken"] is False
    assert [each["name"] for each in one(objects, "RoleBinding")["subjects"]] == ["fruits"]


def test_memory_beside_the_heap_grows_with_the_cores():
    def overhead(*settings: str) -> str:
        return str(one(render(*settings), "SparkApplication")["spec"]["executor"]["memoryOverhead"])

    assert overhead() == "750m"
    assert overhead("executor.cores=4") == "2100m"
    assert overhead("executor.cores=4", "executor.memoryOverhead=3g") == "3g"


def test_keys_come_from_secrets_by_name():
    for template in pods(render("secrets={s3-keys}")).values():
        assert template["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]


def test_spot_executors_with_a_driver_on_demand():
    templates = pods(render(r"executor.nodeSelector.karpenter\.sh/capacity-type=spot"))
    assert templates["executor"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert "nodeSelector" not in templates["driver"]["spec"]


def test_a_schedule_makes_a_scheduled_application_of_the_same_spec():
    scheduled = one(render("schedule.cron=0 3 * * *"), "ScheduledSparkApplication")["spec"]
    assert (scheduled["schedule"], scheduled["concurrencyPolicy"]) == ("0 3 * * *", "Forbid")
    assert scheduled["template"] == one(render(), "SparkApplication")["spec"]


def test_finished_applications_stay_unless_told_otherwise():
    assert "timeToLiveSeconds" not in one(render(), "SparkApplication")["spec"]
    assert one(render("timeToLiveSeconds=60"), "SparkApplication")["spec"]["timeToLiveSeconds"] == 60


@pytest.mark.parametrize(
    ("release", "name"),
    [("fruits", "fruits"), ("4fruits.v2", "fp-4fruits-v2"), ("f" * 50, "f" * 36), ("a" * 35 + "-b", "a" * 35)],
)
def test_names_are_dns_1035_and_leave_room_for_what_is_appended(release: str, name: str):
    assert one(render(release=release), "SparkApplication", name)


def test_network_policies_can_be_left_to_others():
    assert not [each for each in render("networkPolicy.enabled=false") if each["kind"] == "NetworkPolicy"]


def test_an_image_by_digest():
    digest = "sha256:" + "0" * 64
    spec = one(render(f"image.digest={digest}", "image.repository=registry/fruitpipe"), "SparkApplication")["spec"]
    assert spec["image"] == f"registry/fruitpipe@{digest}"
