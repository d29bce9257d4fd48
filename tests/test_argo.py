"""What is for Argo: fields that it knows, values that the chart takes, health as Argo CD sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, helm
from jsonschema import validate
from kubernetes_validate import validate as validate_kubernetes
from lupa.lua51 import LuaRuntime

ROOT = Path(__file__).parents[1]
ARGO_CD = ROOT / "k8s/argocd"
EVENTS = ROOT / "k8s/argo-events"
SCHEMA = json.loads((Path(__file__).parent / "golden/argo-cd.json").read_text())
"""Of Argo CD 3's CRDs, the fields that our manifests use."""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def render(release: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    done = helm("template", release, str(CHART), "--values=-", given=values)
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.mark.parametrize("name", ["application", "applicationset"])
def test_argo_cd_knows_every_field(name: str) -> None:
    manifest = read(ARGO_CD / f"{name}.yaml")
    validate(manifest, SCHEMA[manifest["kind"]])
    assert set(manifest["metadata"]) <= {"name", "namespace", "finalizers"}


def with_events() -> dict[str, Any]:
    """The Application with what the README of Argo Events adds to it."""
    manifest = read(ARGO_CD / "application.yaml")
    (text,) = re.findall(r"```text\n(.*?)```", (EVENTS / "README.md").read_text(), re.DOTALL)
    added = yaml.safe_load(text)["spec"]
    manifest["spec"] |= added | {"syncPolicy": manifest["spec"]["syncPolicy"] | added["syncPolicy"]}
    return manifest


def test_argo_cd_leaves_reprocess_to_events_only_where_that_is_added() -> None:
    """As it then takes none from Git."""
    for spec in applications():
        assert "ignoreDifferences" not in spec
    alone, added = read(ARGO_CD / "application.yaml"), with_events()
    validate(added, SCHEMA["Application"])
    options = [*alone["spec"]["syncPolicy"]["syncOptions"], "RespectIgnoreDifferences=true"]
    assert added["spec"]["syncPolicy"]["syncOptions"] == options


def applications() -> list[dict[str, Any]]:
    """The spec of the Application, and of each that the ApplicationSet makes."""
    made = [read(ARGO_CD / "application.yaml")["spec"]]
    several = read(ARGO_CD / "applicationset.yaml")["spec"]
    for element in several["generators"][0]["list"]["elements"]:
        text = json.dumps(several["template"]["spec"])
        made.append(json.loads(re.sub(r"\{\{ \.(\w+) \}\}", lambda found, each=element: str(each[found[1]]), text)))
    return made


@pytest.mark.parametrize("spec", applications(), ids=lambda spec: spec["destination"]["namespace"])
def test_releases_render_and_hold_still(spec: dict[str, Any]) -> None:
    """Argo CD renders again and again: what differs each time would be a new run each time."""
    given = spec["source"]["helm"]
    objects = render(given["releaseName"], given["valuesObject"])
    assert objects == render(given["releaseName"], given["valuesObject"])
    assert not [each for each in objects if each["kind"] == "Secret"]
    (application,) = [each for each in objects if each["kind"] == "SparkApplication"]
    assert "timeToLiveSeconds" not in application["spec"]


def test_several_releases_share_nothing() -> None:
    _, *several = applications()
    places = [
        (each["destination"]["namespace"], *each["source"]["helm"]["valuesObject"]["pipeline"].values())
        for each in several
    ]
    assert len({each for place in places for each in place}) == 3 * len(several)


def health(name: str, application: dict[str, Any]) -> tuple[str, str]:
    """Status and message, by a Lua with what Argo CD gives to health checks: no libraries but its tables."""
    lua = LuaRuntime(register_eval=False, register_builtins=False)
    lua.execute(
        "string, io, os, math, debug, coroutine, dofile, loadfile, require = nil; getmetatable('').__index = nil"
    )
    lua.globals().obj = lua.table_from(application, recursive=True)
    found = lua.execute((ARGO_CD / name).read_text())
    return found.status, found.message


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("", "Progressing"),
        ("SUBMITTED", "Progressing"),
        ("RUNNING", "Progressing"),
        ("SUCCEEDING", "Progressing"),
        ("COMPLETED", "Healthy"),
        ("FAILING", "Progressing"),
        ("SUBMISSION_FAILED", "Progressing"),
        ("PENDING_RERUN", "Progressing"),
        ("INVALIDATING", "Progressing"),
        ("FAILED", "Degraded"),
        ("SUSPENDING", "Suspended"),
        ("SUSPENDED", "Suspended"),
        ("RESUMING", "Progressing"),
        ("UNKNOWN", "Progressing"),
    ],
)
def test_health_of_each_state(state: str, expected: str) -> None:
    status = {"applicationState": {"state": state, "errorMessage": "driver failed"}}
    found, message = health("spark-application.lua", {"spec": {}, "status": status})
    assert found == expected
    assert ("driver failed" in message) == (state not in {"", "COMPLETED", "SUSPENDING", "SUSPENDED"})


def test_health_before_the_operator_has_seen_it() -> None:
    assert health("spark-application.lua", {"spec": {}})[0] == "Progressing"
    assert health("spark-application.lua", {"spec": {"suspend": True}})[0] == "Suspended"
    assert health("scheduled-spark-application.lua", {"spec": {}})[0] == "Progressing"


def test_health_of_schedules() -> None:
    def of(state: str, suspend: bool = False) -> tuple[str, str]:
        status = {"scheduleState": state, "reason": "no such cron", "nextRun": "2026-11-27T03:00:00Z"}
        return health("scheduled-spark-application.lua", {"spec": {"suspend": suspend}, "status": status})

    assert of("Scheduled") == ("Healthy", "the next run is due at 2026-11-27T03:00:00Z")
    assert of("FailedValidation") == ("Degraded", "the schedule does not hold: no such cron")
    assert of("Validating")[0] == "Progressing"
    assert of("Scheduled", suspend=True)[0] == "Suspended"


def test_argo_cd_finds_the_health_checks() -> None:
    (made,) = read(ARGO_CD / "kustomization.yaml")["configMapGenerator"]
    files = dict(each.split("=") for each in made["files"])
    assert {key.removeprefix("resource.customizations.health.") for key in files} == {
        "sparkoperator.k8s.io_SparkApplication",
        "sparkoperator.k8s.io_ScheduledSparkApplication",
    }
    assert set(files.values()) == {path.name for path in ARGO_CD.glob("*.lua")}


@pytest.mark.parametrize(("name", "kind"), [("event-source", "EventSource"), ("sensor", "Sensor")])
def test_argo_events_knows_every_field(name: str, kind: str) -> None:
    """No key is lost on the way through its types, in which large numbers are texts."""
    from hera.events import models

    manifest = read(EVENTS / f"{name}.yaml")
    for each in manifest["spec"].get("sqs", {}).values():
        each["waitTimeSeconds"] = str(each["waitTimeSeconds"])
    kept = getattr(models, kind).model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")
    manifest = {key: manifest[key] for key in ("metadata", "spec")}  # its types are of one version and one kind
    resource = "spec.triggers.0.template.k8s.source.resource"
    assert without(kept, resource) == without(manifest, resource)


def without(document: Any, path: str) -> Any:
    """A copy; what lies at the path, of any form there, is left out."""
    copied = json.loads(json.dumps(document))
    *folders, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    place = copied
    for each in folders:
        if not isinstance(place, list) and each not in place:
            return copied
        place = place[each]
    place.pop(last, None)
    return copied


def test_a_message_of_s3_is_a_new_reprocess_of_the_release() -> None:
    """Where the sensor puts it is what the chart writes, and it may: no more than that."""
    (spec,) = applications()[:1]
    release = spec["source"]["helm"]
    (application,) = [
        each for each in render(release["releaseName"], release["valuesObject"]) if each["kind"] == "SparkApplication"
    ]
    sensor, source = read(EVENTS / "sensor.yaml")["spec"], read(EVENTS / "event-source.yaml")
    (dependency,), (trigger,) = sensor["dependencies"], sensor["triggers"]
    assert dependency["eventSourceName"] == source["metadata"]["name"]
    assert dependency["eventName"] in source["spec"]["sqs"]
    patched = trigger["template"]["k8s"]["source"]["resource"]
    assert {key: patched[key] for key in ("apiVersion", "kind")} == {
        key: application[key] for key in ("apiVersion", "kind")
    }
    assert patched["metadata"]["name"] == application["metadata"]["name"]
    (parameter,) = trigger["template"]["k8s"]["parameters"]
    found = application
    for word in parameter["dest"].split("."):
        found = found[word]
    assert found == "", "the chart's own, before any event"
    (ignored,) = with_events()["spec"]["ignoreDifferences"]
    assert ignored["jsonPointers"] == ["/" + parameter["dest"].replace("/", "~1").replace(".", "/")]
    access = list(yaml.safe_load_all((EVENTS / "access.yaml").read_text()))
    (rule,) = [rule for each in access if each["kind"] == "Role" for rule in each["rules"]]
    assert rule["resourceNames"] == [application["metadata"]["name"]]
    assert {sensor["template"]["serviceAccountName"], source["spec"]["template"]["serviceAccountName"]} == {
        each["metadata"]["name"] for each in access if each["kind"] == "ServiceAccount"
    }
    for each in access:
        validate_kubernetes(each, "1.34", strict=True)
