"""The Helm chart, as it renders: what is refused, what runs again, what pods may do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from chart import CHART, helm
from jsonschema import Draft7Validator, ValidationError
from kubeflow_spark_api import models
from kubernetes_validate import validate
from queries import metric_names, queries

from fruitpipe.cli import kubernetes_access as rights
from fruitpipe.cli.metrics import RunCollector
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.workers.failures import ATTEMPTS

GOLDEN = Path(__file__).parent / "golden"
PROMETHEUS = "--api-versions=monitoring.coreos.com/v1"
PLACES = ("pipeline.input=s3://photos/images", "pipeline.output=s3://photos/out")


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


def shipped(name: str) -> str:
    """What the chart renders for values-`name`.yaml."""
    command = ["template", "fruits", str(CHART), "--namespace=jobs", f"--values={CHART}/values-{name}.yaml", PROMETHEUS]
    done = helm(*command)
    assert not done.returncode, done.stderr
    return done.stdout


def parsed(text: str) -> list[dict[str, Any]]:
    """All objects; what a Secret holds is random."""
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        if each["kind"] == "Secret":
            each["data"] = dict.fromkeys(each["data"], "random")
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.parametrize("name", ["kind", "eks"])
def test_shipped_values_render_what_they_did(name: str):
    golden = GOLDEN / f"{name}.yaml"
    text = shipped(name)
    assert parsed(text) == parsed(golden.read_text()), f"if it is meant, write it to {golden}"


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("schedule.cron=0 3 * * *", "suspend=true", "timeToLiveSeconds=60"),
        ("executor.dynamicAllocation.enabled=true", "eventLog.volume.persistentVolumeClaim.claimName=events"),
        ("batchScheduler.name=volcano", "batchScheduler.options.queue=night", "queue=night", "timeLimitSeconds=60"),
        ("admissionPolicy=true", "executor.scratch.hostPath.path=/scratch", "networkPolicy.egress[0].ports[0].port=80"),
        ("admissionPolicy=true", "executor.scratch.persistentVolumeClaim.claimName=scratch"),
        ("driver.env.A=b", "driver.priorityClassName=high", "secrets={s3-keys}", "image.pullSecrets={pull}"),
    ],
)
def test_all_objects_are_what_the_operator_and_kubernetes_know(settings: tuple[str, ...]):
    """No key is lost on the way through the operator's types, and none is unknown to Kubernetes."""
    for each in render(*settings):
        if each["apiVersion"].startswith("sparkoperator.k8s.io"):
            kind = getattr(models, f"SparkV1beta2{each['kind']}")
            assert json.loads(kind.from_dict(each).to_json()) == each
        else:
            validate(each, "1.34", strict=True)


VOLUMES = (
    "driver.extraVolumes[0].name=ca",
    "driver.extraVolumes[0].secret.secretName=ca",
    "driver.extraVolumeMounts[0].name=ca",
    "driver.extraVolumeMounts[0].mountPath=/etc/ca",
)


@pytest.mark.parametrize("settings", [(), VOLUMES])
def test_pod_templates_are_what_kubernetes_knows(settings: tuple[str, ...]):
    for template in pods(render(*settings)).values():
        is_a_pod(template)


def is_a_pod(template: dict[str, Any]) -> None:
    """Once it has what Spark adds: a name and an image."""
    pod = json.loads(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}))
    pod["metadata"]["name"] = "any"
    pod["spec"]["containers"][0]["image"] = "any"
    validate(pod, "1.34", strict=True)


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


TEXT, COUNT = {"type": "string"}, {"type": "integer"}
RESTART = fields(
    restartPolicy={"enum": ["Always", "Never", "OnFailure", "OnInfrastructureFailure"]},
    maxRestartAttempts=COUNT,
    restartBackoffMillis=COUNT,
)
TOLERATIONS = fields(
    restartConfig=RESTART | {"required": ["restartPolicy"]},
    resourceRetainPolicy={"enum": ["Always", "Never", "OnFailure"]},
    ttlAfterStopMillis=COUNT,
)
ROLE = fields(podTemplateSpec={"type": "object"})
APACHE = fields(
    apiVersion={"const": "spark.apache.org/v1"},
    kind={"const": "SparkApplication"},
    metadata={"type": "object"},
    spec=fields(
        runtimeVersions=fields(sparkVersion=TEXT),
        mainClass=TEXT,
        pyFiles=TEXT,
        driverArgs={"type": "array", "items": TEXT},
        applicationTolerations=TOLERATIONS | {"required": ["restartConfig", "resourceRetainPolicy"]},
        sparkConf={"type": "object", "additionalProperties": TEXT},
        driverSpec=ROLE,
        executorSpec=ROLE,
    ),
)
"""What the chart uses of Apache's SparkApplication: sparkapplications.spark.apache.org-v1.yaml, in the chart of
apache/spark-kubernetes-operator 1.0.0, which no package registry has."""


def apache(*settings: str) -> dict[str, Any]:
    """The application that the chart makes for Apache's operator."""
    (found,) = [
        each for each in render("operator=apache", *settings) if each["apiVersion"].startswith("spark.apache.org")
    ]
    return found


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("restart.retries=2", "timeToLiveSeconds=60", "timeLimitSeconds=60"),
        ("executor.dynamicAllocation.enabled=true", "eventLog.volume.persistentVolumeClaim.claimName=events"),
        ("driver.coreRequest=100m", "executor.coreRequest=200m", "executor.cores=2", "secrets={s3-keys}"),
        VOLUMES,
    ],
)
def test_apaches_operator_knows_the_application_too(settings: tuple[str, ...]):
    application = apache(*settings)
    Draft7Validator(APACHE).validate(application)
    for role in ("driver", "executor"):
        is_a_pod(application["spec"][f"{role}Spec"]["podTemplateSpec"])


GPUS = ("executor.gpu.amount=1", "executor.cores=4", "executor.nodeSelector.gpu=t4", "executor.tolerations[0].key=gpu")


@pytest.mark.parametrize("settings", [(), ("executor.dynamicAllocation.enabled=true", "driver.coreRequest=100m"), GPUS])
def test_both_operators_run_the_same(settings: tuple[str, ...]):
    """Of Kubeflow's fields, those that are settings of Spark for Apache's."""
    theirs, ours = apache(*settings)["spec"], one(render(*settings), "SparkApplication")["spec"]
    conf, allocation = theirs["sparkConf"], ours.get("dynamicAllocation", {})
    assert ours["sparkConf"].items() <= conf.items()
    assert theirs["driverArgs"] == ours["arguments"]
    assert theirs["pyFiles"] == ours["mainApplicationFile"]
    assert theirs["runtimeVersions"]["sparkVersion"] == ours["sparkVersion"]
    assert conf["spark.kubernetes.container.image"] == ours["image"]
    assert conf["spark.kubernetes.container.image.pullPolicy"] == ours["imagePullPolicy"]
    for role in ("driver", "executor"):
        template = ours[role]["template"]
        assert theirs[f"{role}Spec"]["podTemplateSpec"] == template
        for name in ("cores", "memory", "memoryOverhead"):
            assert conf[f"spark.{role}.{name}"] == str(ours[role][name])
        assert conf.get(f"spark.kubernetes.{role}.request.cores") == ours[role].get("coreRequest")
        assert conf[f"spark.kubernetes.authenticate.{role}.serviceAccountName"] == ours[role]["serviceAccount"]
        (container,) = template["spec"]["containers"]
        assert conf[f"spark.kubernetes.{role}.podTemplateContainerName"] == container["name"]
    assert conf.get("spark.executor.instances", "None") == str(ours["executor"].get("instances"))
    assert conf.get("spark.dynamicAllocation.enabled") == ("true" if allocation else None)
    for name in ("initialExecutors", "minExecutors", "maxExecutors"):
        assert conf.get(f"spark.dynamicAllocation.{name}", "None") == str(allocation.get(name))


@pytest.mark.parametrize(
    ("settings", "each", "task"),
    [
        (("amount=1",), "1", "0.25"),
        (("amount=2",), "2", "0.5"),
        (("amount=3",), "3", "0.5"),
        (("amount=4",), "4", "1"),
        (("amount=1", "taskAmount=1"), "1", "1"),
        (("amount=1", "taskAmount=0.2"), "1", "0.2"),
    ],
)
def test_executors_have_gpus_that_their_tasks_share(settings: tuple[str, ...], each: str, task: str):
    """By Spark's settings, with either operator; `tests/test_gpu.py` shows them to Spark."""
    given = ("executor.cores=4", *(f"executor.gpu.{setting}" for setting in settings))
    for spec in (one(render(*given), "SparkApplication")["spec"], apache(*given)["spec"]):
        assert {name: value for name, value in spec["sparkConf"].items() if ".gpu." in name} == {
            "spark.executor.resource.gpu.amount": each,
            "spark.executor.resource.gpu.vendor": "nvidia.com",
            "spark.executor.resource.gpu.discoveryScript": "/opt/gpus.sh",
            "spark.task.resource.gpu.amount": task,
        }
    assert "gpu" not in json.dumps(render("executor.cores=4"))


def test_a_part_of_a_gpu_is_rounded_so_that_all_cores_have_one():
    """Spark has as many tasks for one as their parts go into it."""
    for cores in (3, 7, 48):
        conf = one(render("executor.gpu.amount=1", f"executor.cores={cores}"), "SparkApplication")["spec"]["sparkConf"]
        assert int(1 / float(conf["spark.task.resource.gpu.amount"])) == cores


def test_gpus_that_no_task_would_use_are_refused():
    assert "executor.gpu.amount: 2 GPUs for the tasks of executor.cores" in refusal(*PLACES, "executor.gpu.amount=2")


def test_apaches_operator_runs_another_config_as_another_application():
    """It leaves alone what has run; a name with a second's number is to stay within the 46 signs that it takes."""
    names = [
        apache(*settings)["metadata"]["name"] for settings in ((), ("pipeline.pca.variance=0.9",), ("reprocess=a",))
    ]
    assert len(set(names)) == 3
    assert apache()["metadata"]["name"] == names[0]
    done = helm("template", "f" * 50, str(CHART), *options(*PLACES, "operator=apache"))
    (long,) = [each for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "SparkApplication"]
    assert len(f"{long['metadata']['name']}-0") <= 46


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("schedule.cron=0 3 * * *", "reprocess"),
        ("queue=night", "operator"),
        ("batchScheduler.name=volcano", "spark.kubernetes.scheduler.name"),
    ],
)
def test_what_apaches_operator_has_nothing_for_is_refused_with_what_to_do(setting: str, instead: str):
    (line,) = [
        each for each in refusal(*PLACES, "operator=apache", setting).splitlines() if "Apache's operator" in each
    ]
    key, _, advice = line.partition(": Apache's operator")
    assert key.endswith(setting.partition("=")[0])
    assert instead in advice


def test_apaches_operator_holds_nothing_back_so_what_is_suspended_has_no_application():
    going, suspended = render("operator=apache"), render("operator=apache", "suspend=true")
    assert {key(each) for each in going} - {key(each) for each in suspended} == {key(apache())}
    labels = (one(each, "ConfigMap")["metadata"]["labels"].get("fruitpipe/suspended") for each in (going, suspended))
    assert [*labels] == [None, "true"]


def key(each: dict[str, Any]) -> tuple[str, str]:
    return each["kind"], each["metadata"]["name"]


def test_what_failed_is_not_tried_again_unless_it_is_asked_for():
    """Operators cannot tell a mistake from a lost driver; a submission that fails has begun nothing."""
    never, twice = (
        (one(render(*settings), "SparkApplication")["spec"]["restartPolicy"])
        for settings in ((), ("restart.retries=2",))
    )
    assert (never["onFailureRetries"], twice["onFailureRetries"]) == (0, 2)
    assert (never["onSubmissionFailureRetries"], twice["onSubmissionFailureRetries"]) == (2, 2)
    never, twice = (
        apache(*settings)["spec"]["applicationTolerations"]["restartConfig"]
        for settings in ((), ("restart.retries=2",))
    )
    assert never == {"restartPolicy": "Never"}
    assert twice == {"restartPolicy": "OnFailure", "maxRestartAttempts": 2, "restartBackoffMillis": 10_000}


def packed(version: str, folder: Path) -> list[dict[str, Any]]:
    """What the chart renders in another version of it, with the image of this one."""
    done = helm("package", str(CHART), f"--version={version}", f"--app-version={version}", f"--destination={folder}")
    assert not done.returncode, done.stderr
    (chart,) = folder.glob(f"fruitpipe-{version}.tgz")
    done = helm("template", "fruits", str(chart), "--namespace=jobs", *options(*PLACES, "image.tag=any"))
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.mark.parametrize("version", ["9.9.9", "9.9.9+0123456789ab.1", f"9.9.9+{'0123456789abcdef' * 4}"])
def test_another_version_of_the_chart_runs_nothing_again(version: str, tmp_path: Path):
    """Flux makes one with a + of every commit, which no label may have."""
    objects = packed(version, tmp_path)
    application = one(objects, "SparkApplication")
    assert application["spec"] == one(render("image.tag=any"), "SparkApplication")["spec"]
    assert one(objects, "ConfigMap")["data"]["revision"] == version.partition("+")[2].partition(".")[0]
    for each in objects:
        for value in each["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value)


def test_a_commit_that_is_given_goes_before_that_of_the_version_and_runs_nothing_again():
    objects = render("image.tag=any", "revision=0123456")
    assert one(objects, "ConfigMap")["data"]["revision"] == "0123456"
    assert one(objects, "SparkApplication") == one(render("image.tag=any"), "SparkApplication")


def test_lint_finds_nothing():
    done = helm("lint", "--strict", str(CHART), *options(*PLACES))
    assert not done.returncode, done.stdout


def test_schema_and_readme_are_those_that_generate_writes():
    assert (CHART / "values.schema.json").read_text() == generate.schema(), "run `python helm/generate.py`"
    assert (CHART / "README.md").read_text() == generate.readme(), "run `python helm/generate.py`"
    assert (CHART / "files/workers.yaml").read_text() == generate.workers(), "run `python helm/generate.py`"
    assert (CHART / "files/presets.yaml").read_text() == generate.presets(), "run `python helm/generate.py`"


def test_every_value_is_in_the_readme():
    documented = set(re.findall(r"^\| `([^`]+)`", generate.readme(), re.MULTILINE))

    def missing(tree: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for name, value in tree.items():
            if f"{path}{name}" not in documented:
                found |= missing(value, f"{path}{name}.") if isinstance(value, dict) and value else {f"{path}{name}"}
        return found

    assert not missing(yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_schema_is_one():
    Draft7Validator.check_schema(json.loads(generate.schema()))


@pytest.mark.parametrize(
    ("setting", "place", "word"),
    [
        ("pipeline.pca.varianc=0.9", "pipeline/pca", "varianc"),
        ("pipeline.preset=vgg16", "pipeline/preset", "vgg16-csv"),
        ("pipeline.backbones[0].layr=fc2", "pipeline/backbones/0", "layr"),
        ("pipeline.backbones={mobilenet_v3}", "pipeline/backbones/0", "mobilenet_v3_small"),
        ("executor.core=2", "executor", "core"),
        ("pipline.output=s3://photos/out", "pipline", '"pipeline"'),
        ("executor.core=2", "executor", '"cores"'),
        ("pipeline.pca.varianc=0.9", "pipeline/pca", '"variance"'),
        ("operator=spark", "operator", "kubeflow"),
        ("executor.memory=1G", "executor/memory", "pattern"),
        ("executor.dynamicAllocation.maximum=0", "executor/dynamicAllocation/maximum", "1"),
        ("driver.env.AWS_SECRET_ACCESS_KEY=x", "driver/env/AWS_SECRET_ACCESS_KEY", "not"),
        ("driver.env.NAME=AKIA0123456789ABCDEF", "driver/env/NAME", "not"),
        (r"sparkConf.spark\.hadoop\.fs\.s3a\.secret\.key=x", "sparkConf", "spark/hadoop/fs/s3a/secret/key"),
        ("pipeline.s3.endpoint=https://me:key@host", "pipeline/s3/endpoint", "not"),
        ("pipeline.input=s3://photos/images?X-Amz-Signature=5ec2e7", "pipeline/input", "not"),
        ("pipeline.s3.tags.a=https://token@host", "pipeline/s3/tags/a", "not"),
        ("image.tag=latest", "image/tag", "another image tomorrow"),
        ("schedule.cron=nonsense", "schedule/cron", "pattern"),
        ("schedule.cron=0 3 * *", "schedule/cron", "pattern"),
        ("pipeline.output=/data/out", "pipeline/output", "give a bucket"),
        ("pipeline.output=file:///data/out", "pipeline/output", "give a bucket"),
        ("image.digest=sha256:12", "image/digest", "pattern"),
        ("executor.gpu.resource=nvidia.com/mig-1g.5gb", "executor/gpu/resource", "pattern"),
        ("executor.gpu.taskAmount=0.7", "executor/gpu/taskAmount", "0.5"),
        ("executor.gpu.amount=-1", "executor/gpu/amount", "0"),
        ("executor.gracePeriodSeconds=-1", "executor/gracePeriodSeconds", "0"),
        ("restart.interval=0", "restart/interval", "1"),
        ("restart.retries=-1", "restart/retries", "0"),
    ],
)
def test_a_mistake_is_refused_with_its_key(setting: str, place: str, word: str):
    """As '/image/tag' or image.tag, by the age of Helm."""
    said = refusal(*PLACES, setting).replace(".", "/")
    assert place in said
    assert word.replace(".", "/") in said


OPEN = {"spark", "global", "fieldsV1"}
"""Values without a type: the first is refused in words, the second is Helm's, the third is what Kubernetes itself
writes into the metadata of a volume."""
Node = tuple[tuple[str | int, ...], dict[str, Any]]


def nodes(whole: dict[str, Any]) -> Iterator[Node]:
    """All values that a schema describes, by their keys, with their own schemas; those of a type of Kubernetes once."""
    seen: set[str] = set()

    def below(path: tuple[str | int, ...], schema: dict[str, Any]) -> Iterator[Node]:
        if name := schema.get("$ref"):
            if name in seen:
                return
            seen.add(name)
            yield from below(path, whole["$defs"][name.removeprefix("#/$defs/")])
            return
        yield path, schema
        for alternative in schema.get("anyOf", []):
            yield from below(path, alternative)
        for key, each in schema.get("properties", {}).items():
            yield from below((*path, key), each)
        if isinstance(others := schema.get("additionalProperties"), dict):
            yield from below((*path, "any"), others)
        if isinstance(item := schema.get("items"), dict):
            yield from below((*path, 0), item)

    yield from below((), whole)


def values_with(path: tuple[str | int, ...], value: Any) -> Any:
    """Values that hold one at a path."""
    for key in reversed(path):
        value = {key: value} if isinstance(key, str) else [value]
    return value


def places(errors: Iterable[ValidationError]) -> Iterator[tuple[str | int, ...]]:
    """Where a value is wrong; what is missing beside it does not count."""
    for error in errors:
        if error.validator != "required":
            yield tuple(error.absolute_path)
            yield from places(error.context or [])


def test_every_value_is_refused_where_its_type_is_wrong():
    """None is a mapping of mappings of lists or a list of lists of lists, and few are a truth."""
    schema = json.loads(generate.schema())
    validator = Draft7Validator(schema)
    found = [(path, own) for path, own in nodes(schema) if not path or path[-1] not in OPEN]
    assert {path[0] for path, _ in found if path} == schema["properties"].keys() - {"global"}
    truths = {path for path, own in found if "boolean" in own.get("type", "")}
    for path in dict(found):
        for wrong in ({"no": {"such": [{}]}}, [[[]]], "no truth" if path in truths else True):
            errors = validator.iter_errors(values_with(path, wrong))
            assert any(place[: len(path)] == path for place in places(errors)), (path, wrong)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("executor.tolerations[0].value=true", "executor/tolerations/0/value"),
        ("executor.nodeSelector.gpu=1", "executor/nodeSelector/gpu"),
        ("driver.annotations.scrape=true", "driver/annotations/scrape"),
        ("driver.labels.number=7", "driver/labels/number"),
        ("serviceAccount.annotations.number=7", "serviceAccount/annotations/number"),
        ("image.pullSecrets[0].name=keys", "image/pullSecrets/0"),
        ("secrets[0].name=keys", "secrets/0"),
        ("executor.affinity.nodeAffinity=7", "executor/affinity/nodeAffinity"),
        ("executor.topologySpreadConstraints[0].maxSkew=one", "executor/topologySpreadConstraints/0/maxSkew"),
        ("executor.tolerations[0].efect=NoSchedule", "executor/tolerations/0"),
        ("executor.scratch.emptyDir.sizeLimit=true", "executor/scratch/emptyDir/sizeLimit"),
        ("eventLog.volume.name=mine", "eventLog/volume"),
        ("metrics.labels.release=7", "metrics/labels/release"),
        ("metrics.from[0].podSelector=all", "metrics/from/0/podSelector"),
        ("batchScheduler.options.queue=7", "batchScheduler/options/queue"),
        ("networkPolicy.storePorts[0]=true", "networkPolicy/storePorts/0"),
        ("networkPolicy.stores[0]=7", "networkPolicy/stores/0"),
        ("networkPolicy.egress[0].ports[0].port=true", "networkPolicy/egress/0/ports/0/port"),
    ],
)
def test_helm_refuses_what_kubernetes_would_with_its_key(setting: str, place: str):
    assert place in refusal(*PLACES, setting).replace(".", "/")


def test_null_in_what_kubernetes_is_given_is_what_is_not_there():
    """As Helm renders it where there is no default to leave out; a whole value may not be null."""
    executor = {
        "affinity": {"nodeAffinity": None, "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}},
        "tolerations": [{"key": "a", "operator": "Exists", "value": None, "tolerationSeconds": None}],
        "scratch": {"emptyDir": {"sizeLimit": None}, "hostPath": None},
    }
    places = {"input": "s3://photos/images", "output": "s3://photos/out"}
    done = helm("template", "fruits", str(CHART), "--values=-", given={"pipeline": places, "executor": executor})
    assert not done.returncode, done.stderr
    template = one([each for each in yaml.safe_load_all(done.stdout) if each], "SparkApplication")["spec"]["executor"]
    pod = template["template"]["spec"]
    assert (pod["affinity"], pod["tolerations"]) == (executor["affinity"], executor["tolerations"])
    assert "executor/tolerations/0" in refusal(*PLACES, "executor.tolerations[0]=null").replace(".", "/")


def test_a_value_that_is_empty_may_be_null():
    """Helm then takes its default away."""

    def nulls(tree: dict[str, Any]) -> dict[str, Any]:
        several = {name: each for name, each in tree.items() if each == [] or isinstance(each, dict)}
        return {name: nulls(each) if each else None for name, each in several.items()}

    given = nulls(yaml.safe_load((CHART / "values.yaml").read_text())) | {"admissionPolicy": True}
    assert given["executor"]["extraVolumes"] is given["podLabels"] is None
    given["pipeline"] = {"input": "s3://photos/images", "output": "s3://photos/out"}
    for operator in ("kubeflow", "apache"):
        done = helm("template", "fruits", str(CHART), PROMETHEUS, "--values=-", given=given | {"operator": operator})
        assert not done.returncode, done.stderr


def test_texts_and_large_numbers_reach_kubernetes_as_what_they_are():
    """YAML would take "1" for a number and "y" for a truth, and Helm writes a million as 1e+06."""
    texts = {name: {"a": "1", "b": "true"} for name in ("labels", "annotations", "nodeSelector")}
    pod: dict[str, Any] = texts | {"priorityClassName": "1", "env": {"y": "1", "B": "true"}, "coreRequest": "1"}
    pod |= {"tolerations": [{"key": "1", "value": "true", "tolerationSeconds": 2_000_000}]}
    given = {
        "pipeline": {"input": "s3://photos/images", "output": "s3://photos/out", "image": {"max_pixels": 200_000_000}},
        "image": {"pullSecrets": ["1"]}, "secrets": ["1", "true"], "queue": "1", "reprocess": "1",
        "schedule": {"cron": "0 3 * * *", "timeZone": "1"}, "serviceAccount": {"annotations": {"a": "1"}},
        "restart": {"retries": 2_000_000, "interval": 2_000_000}, "timeLimitSeconds": 2_000_000,
        "timeToLiveSeconds": 2_000_000, "batchScheduler": {"name": "1", "options": {"queue": "1"}},
        "driver": pod, "executor": pod | {"gracePeriodSeconds": 2_000_000}, "sparkConf": {"a": "1", "b": "true"},
    }  # fmt: skip
    done = helm("template", "123", str(CHART), "--values=-", given=given)
    assert not done.returncode, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    scheduled = one(objects, "ScheduledSparkApplication", "fp-123")
    assert json.loads(models.SparkV1beta2ScheduledSparkApplication.from_dict(scheduled).to_json()) == scheduled
    for each in objects:
        if not each["apiVersion"].startswith("sparkoperator.k8s.io"):
            validate(each, "1.34", strict=True)
    config = yaml.safe_load(one(objects, "ConfigMap", "fp-123")["data"]["run.yaml"])
    assert config["image"]["max_pixels"] == 200_000_000


@pytest.mark.parametrize("missing", ["input", "output"])
def test_places_must_be_given(missing: str):
    given = [place for place in PLACES if missing not in place]
    assert f"pipeline.{missing}: say where" in refusal(*given)


@pytest.mark.parametrize("key", ["memory=2g", "master=local[2]", r"conf.spark\.task\.cpus=1", "memori=2g"])
def test_what_a_config_says_of_spark_is_refused_with_the_value_that_does_it(key: str):
    said = refusal(*PLACES, f"pipeline.spark.{key}")
    for word in ("pipeline.spark: has no effect", "sparkConf", "driver.memory"):
        assert word in said


def test_names_that_packages_in_the_image_add_are_taken_where_it_is_said_to_have_some():
    added = ("pipeline.backbone=tiles", "pipeline.formats={sqlite}", "executor.memoryOverhead=900m")
    for setting in added[:2]:
        assert setting.split("=")[0] in refusal(*PLACES, setting)
    config = one(render(*added, "image.extended=true"), "ConfigMap")["data"]["run.yaml"]
    assert yaml.safe_load(config) | {"input": "", "output": ""} == {
        "input": "", "output": "", "backbone": "tiles", "formats": ["sqlite"],
    }  # fmt: skip
    assert "tiles" in refusal(*PLACES, *added[:2], "image.extended=true"), "the memory that it needs is not known"


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

    assert overhead() == "1362m"
    assert overhead("executor.cores=4") == "4548m"
    large = ("executor.cores=4", "pipeline.backbone=vgg16", "pipeline.layer=fc2")
    assert overhead(*large) == "10708m", "weights of half a gigabyte"
    assert overhead(*large[:2], "pipeline.weights=s/mine.keras") == "10708m", "which may be cut anywhere"
    assert overhead("executor.cores=4", "pipeline.backbone=vgg16") == "5028m", "its features need a tenth of them"
    assert overhead("executor.cores=4", "pipeline.preset=vgg16-csv") == "5028m", "a preset's backbone"
    assert overhead("executor.cores=4", "pipeline.layer=global_average_pooling2d") == "4548m"
    assert overhead("executor.cores=4", "pipeline.preset=vgg16-csv", "pipeline.backbone=mobilenet_v2") == "4548m"
    assert overhead("executor.cores=4", "executor.memoryOverhead=3g") == "3g"
    assert overhead("executor.cores=4", "pipeline.backbones={mobilenet_v2}") == "4548m"
    several = ("pipeline.backbones[0]=mobilenet_v2", "pipeline.backbones[1].backbone=vgg16")
    assert overhead("executor.cores=4", *several) == "5228m", "both networks beside what any worker needs"
    assert overhead("executor.cores=4", *several, "pipeline.backbones[1].layer=fc2") == "10908m"
    assert overhead(f"pipeline.image.max_memory={64 << 20}") == "914m", "what an image may take"


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
    [
        ("fruits", "fruits"),
        ("4fruits.v2", "fp-4fruits-v2"),
        ("f" * 50, "f" * 36),
        *(("a" * 35 + each, "a" * 35) for each in ("-b", "--b")),
    ],
)
def test_names_are_dns_1035_and_leave_room_for_what_is_appended(release: str, name: str):
    assert one(render(release=release), "SparkApplication", name)


def test_network_policies_can_be_left_to_others():
    assert not [each for each in render("networkPolicy.enabled=false") if each["kind"] == "NetworkPolicy"]


def policy(name: str, *settings: str) -> dict[str, Any]:
    found: dict[str, Any] = one(render(*settings), "NetworkPolicy", name)["spec"]
    return found


def test_the_network_policies_restrict_what_they_speak_of():
    for name in ("fruits", "fruits-driver"):
        assert policy(name)["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy("fruits-driver")["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [each["port"] for each in rule["ports"]] == [8090, 4040]


def test_nobody_is_not_everybody():
    """As which Kubernetes takes an empty list of peers."""
    assert "ingress" not in policy("fruits-driver", "metrics.from=null")
    for none in ("networkPolicy.stores=null", "networkPolicy.storePorts=null"):
        assert len(policy("fruits", none)["egress"]) == 2
    assert "egress" not in policy("fruits-driver", "networkPolicy.apiServerPorts=null")


def test_names_are_asked_for_where_clusters_have_them_answered():
    """By pods, by NodeLocal DNSCache on the node, by Google's Cloud DNS; not by whatever else is at these addresses."""
    (rule,) = [each for each in policy("fruits")["egress"] if {"port": 53, "protocol": "UDP"} in each["ports"]]
    assert {each["port"] for each in rule["ports"]} == {53}
    assert [each["ipBlock"]["cidr"] for each in rule["to"][1:]] == ["169.254.20.10/32", "169.254.169.254/32"]


def test_stores_are_where_it_is_said():
    settings = ("networkPolicy.stores={10.0.0.0/8,192.0.2.1/32}", "networkPolicy.storePorts={8333}")
    (*_, stores) = policy("fruits", *settings)["egress"]
    assert stores == {
        "to": [{"ipBlock": {"cidr": cidr}} for cidr in ("10.0.0.0/8", "192.0.2.1/32")],
        "ports": [{"port": 8333}],
    }


def test_by_default_nothing_depends_on_the_version_of_ip():
    (*_, stores), (api_server,) = policy("fruits")["egress"], policy("fruits-driver")["egress"]
    assert [each["ipBlock"]["cidr"] for each in stores["to"]] == ["0.0.0.0/0", "::/0"]
    assert api_server == {"ports": [{"port": 443}, {"port": 6443}]}
    (api_server,) = policy("fruits-driver", "networkPolicy.apiServer=fd00::1/128")["egress"]
    assert api_server["to"] == [{"ipBlock": {"cidr": "fd00::1/128"}}]


def test_on_eks_port_80_is_open_to_pod_identity_alone():
    rules = one(parsed(shipped("eks")), "NetworkPolicy")["spec"]["egress"]
    with_port_80 = [rule for rule in rules if 80 in [port["port"] for port in rule["ports"]]]
    agent = [{"ipBlock": {"cidr": cidr}} for cidr in ("169.254.170.23/32", "fd00:ec2::23/128")]
    assert with_port_80 == [{"to": agent, "ports": [{"port": 80}]}]


def test_notes_say_what_to_do_and_what_is_open(tmp_path: Path):
    """Helm itself renders them only with a cluster at hand."""
    templates = shutil.copytree(CHART, tmp_path / "chart") / "templates"
    text = (templates / "NOTES.txt").read_text()
    (templates / "notes.yaml").write_text(
        f'{{{{ define "notes" }}}}{text}{{{{ end }}}}\nnotes: {{{{ include "notes" . | toJson }}}}'
    )

    def notes(*settings: str) -> str:
        command = ["template", "fruits", str(tmp_path / "chart"), "--namespace=jobs", "-s=templates/notes.yaml"]
        done = helm(*command, *options(*PLACES, *settings))
        assert not done.returncode, done.stderr
        return str(yaml.safe_load(done.stdout)["notes"])

    assert """containerStatuses[?(@.name=="spark-kubernetes-driver")].state""" in notes()
    assert "networkPolicy.stores" in notes()
    assert "networkPolicy.stores" in notes("networkPolicy.stores={192.0.2.0/24,::/0}")
    assert "networkPolicy.stores" not in notes("networkPolicy.stores={192.0.2.0/24}")
    assert "networkPolicy.apiServer" in notes("networkPolicy.stores={192.0.2.0/24}")
    assert "networkPolicy.apiServer" not in notes("networkPolicy.apiServer=192.0.2.1/32")
    assert "networkPolicy." not in notes("networkPolicy.enabled=false")
    assert "namespace of its own" in notes().replace("\n", " ")
    assert "namespace of its own" not in notes("admissionPolicy=true").replace("\n", " ")
    there = "pipeline.s3.endpoint=http://s3:8333"
    assert "fruitpipe show s3://photos/out --set s3.endpoint=http://s3:8333\n" in notes(there)
    assert "port-forward" in notes(there)
    assert "port-forward" not in notes()
    assert "waits for the next one: @daily" in notes("schedule.cron=@daily").replace("\n", " ")
    assert "spark.jobNamespaces" in notes()
    assert " get sparkapplication.sparkoperator.k8s.io fruits\n" in notes()
    assert " get scheduledsparkapplication.sparkoperator.k8s.io fruits\n" in notes("schedule.cron=@daily")
    name = apache()["metadata"]["name"]
    assert f" get sparkapplication.spark.apache.org {name}\n" in notes("operator=apache")
    assert "spark.jobNamespaces" not in notes("operator=apache")


def test_pods_of_a_run_know_each_other_by_a_secret_that_only_its_file_has():
    objects = render()
    secret = one(objects, "Secret", "fruits-authentication")["data"]["secret"]
    assert len(b64decode(secret)) == 32
    assert one(render(), "Secret", "fruits-authentication")["data"]["secret"] != secret
    assert [each["kind"] for each in objects if secret in json.dumps(each)] == ["Secret"]
    for template in pods(objects).values():
        volume = {"secretName": "fruits-authentication", "defaultMode": 0o440}
        assert {"name": "authentication", "secret": volume} in template["spec"]["volumes"]
        (mount,) = [
            each for each in template["spec"]["containers"][0]["volumeMounts"] if each["name"] == "authentication"
        ]
        assert mount == {"name": "authentication", "mountPath": "/etc/spark-authentication", "readOnly": True}


def test_a_secret_of_ones_own_takes_the_place_of_the_charts():
    objects = render("authenticationSecret=mine")
    assert not [each for each in objects if each["kind"] == "Secret"]
    for template in pods(objects).values():
        assert "mine" in [each.get("secret", {}).get("secretName") for each in template["spec"]["volumes"]]


def test_spark_listens_to_its_own_alone_and_its_interface_kills_nothing():
    expected = {
        "spark.authenticate": "true",
        "spark.authenticate.secret.file": "/etc/spark-authentication/secret",
        "spark.network.crypto.enabled": "true",
        "spark.network.crypto.saslFallback": "false",
        "spark.network.crypto.authEngineVersion": "2",
        "spark.network.crypto.cipher": "AES/GCM/NoPadding",
        "spark.io.encryption.enabled": "true",
        "spark.ui.killEnabled": "false",
    }
    by_hand = yaml.safe_load((CHART.parents[1] / "k8s/application.yaml").read_text())["spec"]
    for spec in (one(render(), "SparkApplication")["spec"], by_hand):
        assert expected.items() <= spec["sparkConf"].items()


def test_the_application_by_hand_needs_no_webhook_either():
    """What pods have is in templates, under names that Spark is told; the operator's other fields are its webhook's."""
    application = yaml.safe_load((CHART.parents[1] / "k8s/application.yaml").read_text())
    assert json.loads(models.SparkV1beta2SparkApplication.from_dict(application).to_json()) == application
    assert "backbone=efficientnet_lite0" in application["spec"]["arguments"]
    theirs = one(render("pipeline.backbone=efficientnet_lite0"), "SparkApplication")["spec"]
    ours = application["spec"]
    assert ours.keys() <= theirs.keys()
    assert ours["sparkConf"].items() <= theirs["sparkConf"].items()
    for role in ("driver", "executor"):
        for memory in ("memory", "memoryOverhead"):
            assert ours[role][memory] == theirs[role][memory]
        assert ours[role].keys() <= theirs[role].keys() | {"coreRequest"}
        is_a_pod(ours[role]["template"])
        (container,) = ours[role]["template"]["spec"]["containers"]
        assert container["name"] == theirs[role]["template"]["spec"]["containers"][0]["name"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]


def test_an_admission_policy_is_made_where_it_is_asked_for():
    """`tests/test_cluster_neighbours.py` asks a cluster what it allows."""
    assert not [each for each in render() if "AdmissionPolicy" in each["kind"]]
    objects = render("admissionPolicy=true", "secrets={s3-keys}")
    found = one(objects, "ValidatingAdmissionPolicy", "fruitpipe.jobs.fruits")["spec"]
    (condition,) = found["matchConditions"]
    assert condition["expression"] == "request.userInfo.username == 'system:serviceaccount:jobs:fruits'"
    assert found["matchConstraints"]["resourceRules"][0]["operations"] == ["CREATE", "UPDATE", "DELETE"]
    assert '["s3-keys","fruits-authentication"]' in json.dumps(found).replace('\\"', '"')
    volumes = ("executor.extraVolumes[0].name=ca", "executor.extraVolumes[0].secret.secretName=ca")
    found = json.dumps(
        one(render("admissionPolicy=true", *volumes), "ValidatingAdmissionPolicy", "fruitpipe.jobs.fruits")
    )
    assert '["fruits-authentication","ca"]' in found.replace('\\"', '"')
    binding = one(objects, "ValidatingAdmissionPolicyBinding", "fruitpipe.jobs.fruits")["spec"]
    assert binding == {"policyName": "fruitpipe.jobs.fruits", "validationActions": ["Deny"]}


def test_policies_of_two_releases_are_two():
    """Objects of the whole cluster, where names of releases are unique in a namespace only."""
    names = []
    for namespace, release in (("a", "b-c"), ("a-b", "c")):
        command = [
            "template",
            release,
            str(CHART),
            f"--namespace={namespace}",
            *options(*PLACES, "admissionPolicy=true"),
        ]
        objects = [each for each in yaml.safe_load_all(helm(*command).stdout) if each]
        names += [each["metadata"]["name"] for each in objects if each["kind"] == "ValidatingAdmissionPolicy"]
    assert len({*names}) == 2


def test_a_digest_makes_any_tag_good():
    assert render("image.tag=latest", "image.digest=sha256:" + "0" * 64)


def test_the_admission_policy_asks_for_what_the_charts_own_executors_have():
    objects = render("admissionPolicy=true", "nameOverride=vision")
    found = one(objects, "ValidatingAdmissionPolicy", "fruitpipe.jobs.fruits")["spec"]
    (mine, *others) = [each["expression"] for each in found["validations"]]
    for label, value in pods(objects)["executor"]["metadata"]["labels"].items():
        assert f"""[?"{label}"].orValue('') == "{value}\"""" in mine
    words = ("?allowPrivilegeEscalation", "?capabilities.?add", "hostPort", "?runAsNonRoot", "?seccompProfile")
    assert not [word for word in words if word not in " ".join(others)]
    assert "object.spec.?ephemeralContainers" in json.dumps(found["variables"])


def test_the_admission_policy_takes_what_is_null_for_what_is_not_there():
    volume = ("executor.extraVolumes[0].name=a", "executor.extraVolumes[0].projected=null")
    kind, name = "ValidatingAdmissionPolicy", "fruitpipe.jobs.fruits"
    assert one(render("admissionPolicy=true", *volume), kind, name) == one(render("admissionPolicy=true"), kind, name)


def test_the_workflow_names_the_image_of_a_release_as_the_chart_asks_for_it(tmp_path: Path):
    """Its last step, with a docker that says what it is told."""
    steps = yaml.safe_load((CHART.parents[1] / ".github/workflows/image.yaml").read_text())["jobs"]["push"]["steps"]
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "docker").chmod(0o755)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": "/dev/null", "DIGEST": "sha256:0"}
    variables |= {"IMAGE_REPOSITORY": "fruitpipe", "GITHUB_REF_NAME": f"v{version}"}
    said = subprocess.check_output(["bash", "-c", steps[-1]["run"]], env=variables, text=True)
    assert f"--tag {one(render(), 'SparkApplication')['spec']['image']} " in said


def test_an_image_by_digest():
    digest = "sha256:" + "0" * 64
    spec = one(render(f"image.digest={digest}", "image.repository=registry/fruitpipe"), "SparkApplication")["spec"]
    assert spec["image"] == f"registry/fruitpipe@{digest}"


def test_the_driver_has_the_rights_that_doctor_asks_for_and_no_others():
    rules = one(render(), "Role")["rules"]
    granted = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert granted == {resource: set(verbs) for resource, verbs in rights.NEEDED.items()}
    assert not granted.keys() & rights.FOREIGN.keys()


def test_helm_test_looks_from_where_the_driver_would():
    objects = render("secrets={s3-keys}", "metrics.port=9000")
    pod, driver = one(objects, "Pod", "fruits-test"), pods(objects)["driver"]
    (container,), (theirs,) = pod["spec"]["containers"], driver["spec"]["containers"]
    same = ("securityContext", "env")
    assert {name: container[name] for name in same} == {name: theirs[name] for name in same}
    mounted = len(theirs["volumeMounts"])
    assert container["volumeMounts"][:mounted] == theirs["volumeMounts"]
    assert pod["spec"]["serviceAccountName"] == one(objects, "SparkApplication")["spec"]["driver"]["serviceAccount"]
    assert "\n/opt/entrypoint doctor --config /etc/fruitpipe/run.yaml " in container["command"][2]
    assert "ports" not in container


def test_helm_test_has_what_webhooks_know_the_driver_by():
    given = (r"driver.labels.azure\.workload\.identity/use=true", r"driver.annotations.inject=no")
    done = helm("template", "fruits", str(CHART), *options(*PLACES), *(f"--set-string={each}" for each in given))
    metadata = one([each for each in yaml.safe_load_all(done.stdout) if each], "Pod", "fruits-test")["metadata"]
    assert metadata["labels"]["azure.workload.identity/use"] == "true"
    assert metadata["labels"]["app.kubernetes.io/component"] == metadata["annotations"]["helm.sh/hook"] == "test"
    assert metadata["annotations"]["inject"] == "no"


def test_helm_test_says_which_secret_is_missing(tmp_path: Path):
    """It starts without any; the folder of one that is not there is empty."""
    (pod,) = [each for each in render(*VOLUMES, "secrets={s3-keys,others}") if each["kind"] == "Pod"]
    (container,) = pod["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": name, "optional": True}} for name in ("s3-keys", "others")]
    secrets = {each["name"]: each["secret"] for each in pod["spec"]["volumes"] if "secret" in each}
    assert all(each["optional"] for each in secrets.values())
    folders = {
        each["mountPath"]: secrets[each["name"]]["secretName"]
        for each in container["volumeMounts"]
        if each["mountPath"].startswith("/secrets/")
    }
    assert folders == {f"/secrets/{name}": name for name in ("s3-keys", "others", "fruits-authentication", "ca")}
    for name in folders.values():
        (tmp_path / name).mkdir()
    for name in ("others", "fruits-authentication", "ca"):
        (tmp_path / name / "key").touch()
    script = container["command"][2].replace("/secrets/", f"{tmp_path}/").replace("/opt/entrypoint", "true")
    done = subprocess.run([*container["command"][:2], script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("Secret s3-keys: not in namespace jobs")
    (tmp_path / "s3-keys/key").touch()
    done = subprocess.run([*container["command"][:2], script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    failing = script.replace("true doctor", "exit 2; true doctor")
    assert subprocess.run([*container["command"][:2], failing], check=False).returncode == 2


def test_accounts_may_be_ones_own():
    objects = render("serviceAccount.create=false", "serviceAccount.name=mine")
    assert not [each for each in objects if each["kind"] == "ServiceAccount"]
    spec = one(objects, "SparkApplication")["spec"]
    assert [spec[role]["serviceAccount"] for role in ("driver", "executor")] == ["mine", "mine-executor"]
    assert [each["name"] for each in one(objects, "RoleBinding")["subjects"]] == ["mine"]
    assert one(objects, "Pod", "fruits-test")["spec"]["serviceAccountName"] == "mine"
    made = [each["metadata"]["name"] for each in render("serviceAccount.name=mine") if each["kind"] == "ServiceAccount"]
    assert made == ["mine", "mine-executor"]
    assert "serviceAccount.name: say which" in refusal(*PLACES, "serviceAccount.create=false")


def test_names_may_be_others():
    objects = render(
        "fullnameOverride=Oranges.1", "nameOverride=vision", "podLabels.team=red", "driver.labels.team=blue"
    )
    for each in objects:
        assert each["metadata"]["name"].startswith("oranges-1")
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "vision"
    spec = one(objects, "SparkApplication", "oranges-1")["spec"]
    labels = {role: spec[role]["template"]["metadata"]["labels"] for role in ("driver", "executor")}
    assert {role: each["team"] for role, each in labels.items()} == {"driver": "blue", "executor": "red"}
    selector = one(objects, "NetworkPolicy", "oranges-1")["spec"]["podSelector"]["matchLabels"]
    for each in labels.values():
        assert selector.items() <= each.items()
    assert one(objects, "Pod", "oranges-1-test")["metadata"]["labels"]["team"] == "blue"


def test_labels_by_which_policies_select_pods_are_the_charts():
    ours = {"name": "fruitpipe", "instance": "fruits", "component": "none"}
    theirs = [rf"{each}.app\.kubernetes\.io/{name}=mine" for each in ("podLabels", "driver.labels") for name in ours]
    objects = render(*theirs)
    templates = pods(objects) | {"test": one(objects, "Pod", "fruits-test")}
    for role, template in templates.items():
        labels = template["metadata"]["labels"].items()
        assert {
            f"app.kubernetes.io/{name}": each for name, each in (ours | {"component": role}).items()
        }.items() <= labels


def test_executors_may_have_no_time_to_end():
    for seconds in (0, 60):
        pod = pods(render(f"executor.gracePeriodSeconds={seconds}"))["executor"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == seconds


def test_further_volumes_are_mounted():
    templates = pods(render(*VOLUMES, *(each.replace("driver.", "executor.").replace("ca", "cb") for each in VOLUMES)))
    for role, name in (("driver", "ca"), ("executor", "cb")):
        pod = templates[role]["spec"]
        assert {"name": name, "secret": {"secretName": name}} in pod["volumes"]
        assert {"name": name, "mountPath": f"/etc/{name}"} in pod["containers"][0]["volumeMounts"]


def test_executors_come_and_go_with_the_work():
    spec = one(render("executor.dynamicAllocation.enabled=true"), "SparkApplication")["spec"]
    assert spec["dynamicAllocation"] == {
        "enabled": True,
        "initialExecutors": 1,
        "minExecutors": 1,
        "maxExecutors": 8,
        "shuffleTrackingEnabled": True,
    }
    assert "instances" not in spec["executor"]
    message = "executor.dynamicAllocation.minimum: more than the maximum"
    assert message in refusal(
        *PLACES, "executor.dynamicAllocation.enabled=true", "executor.dynamicAllocation.minimum=9"
    )


def test_executors_that_fail_or_stand_still_hold_no_run_up():
    """`tests/test_executors.py` shows Spark such ones; what a user sets goes before."""
    first, second = (
        one(render(*settings), "SparkApplication")["spec"]["sparkConf"]
        for settings in ((), (r"sparkConf.spark\.speculation\.minTaskRuntime=60s",))
    )
    assert first["spark.excludeOnFailure.enabled"] == first["spark.speculation"] == "true"
    assert int(first["spark.excludeOnFailure.task.maxTaskAttemptsPerExecutor"]) < ATTEMPTS
    assert second == first | {"spark.speculation.minTaskRuntime": "60s"}


def test_a_queue_of_kueue_is_a_label_of_the_application():
    for schedule, kind in (((), "SparkApplication"), (("schedule.cron=0 3 * * *",), "ScheduledSparkApplication")):
        labels = one(render("queue=night", *schedule), kind)["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "night"
    assert "kueue.x-k8s.io/queue-name" not in one(render(), "SparkApplication")["metadata"]["labels"]


def test_only_what_is_suspended_says_so():
    """Kueue suspends what it queues, and what heals itself would set back whatever else stood there."""
    assert "suspend" not in one(render("queue=night"), "SparkApplication")["spec"]
    assert one(render("suspend=true"), "SparkApplication")["spec"]["suspend"] is True


def test_spark_and_fruitpipe_share_a_volume_of_temporary_files():
    for settings, source in (
        ((), {"emptyDir": {}}),
        (("executor.scratch.emptyDir.sizeLimit=9Gi",), {"emptyDir": {"sizeLimit": "9Gi"}}),
    ):
        pod = pods(render(*settings))["executor"]["spec"]
        assert {"name": "spark-local-dir-1", **source} in pod["volumes"]
        assert {"name": "spark-local-dir-1", "mountPath": "/tmp"} in pod["containers"][0]["volumeMounts"]


def test_an_event_log_goes_to_a_volume():
    objects = render("eventLog.volume.persistentVolumeClaim.claimName=events")
    conf = one(objects, "SparkApplication")["spec"]["sparkConf"]
    driver = pods(objects)["driver"]["spec"]
    assert (conf["spark.eventLog.enabled"], conf["spark.eventLog.dir"]) == ("true", "file:///var/spark-events")
    assert {"name": "events", "persistentVolumeClaim": {"claimName": "events"}} in driver["volumes"]
    assert {"name": "events", "mountPath": "/var/spark-events"} in driver["containers"][0]["volumeMounts"]
    assert "spark.eventLog.enabled" not in one(render(), "SparkApplication")["spec"]["sparkConf"]


def test_a_time_limit_is_the_drivers():
    templates = pods(render("timeLimitSeconds=60"))
    assert templates["driver"]["spec"]["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in templates["executor"]["spec"]


def test_what_watches_a_run_is_made_only_where_its_kinds_are_known():
    kinds = {"PodMonitor", "PrometheusRule"}
    assert not kinds & {each["kind"] for each in render()}
    objects = parsed(shipped("kind"))
    assert kinds <= {each["kind"] for each in objects}
    ports = {each["port"] for each in one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    own = {each["name"] for each in pods(objects)["driver"]["spec"]["containers"][0]["ports"]}
    assert ports == own | {"spark-ui"}, "which Spark gives its driver itself"


def test_what_watches_a_run_is_its_own_beside_a_release_of_the_same_name():
    """Names of releases are unique in a namespace only, and Grafana has one folder for all."""
    dashboards = []
    for namespace in ("jobs", "n" * 63):
        done = helm("template", "fruits", str(CHART), f"--namespace={namespace}", PROMETHEUS, *options(*PLACES))
        objects = [each for each in yaml.safe_load_all(done.stdout) if each]
        ((file, text),) = one(objects, "ConfigMap", "fruits-dashboard")["data"].items()
        dashboards.append((file, json.loads(text)))
        assert f'namespace="{namespace}"' in json.dumps(one(objects, "PrometheusRule")).replace('\\"', '"')
    (file, first), (other_file, other) = dashboards
    assert file != other_file
    assert first["title"] == "fruitpipe: jobs/fruits"
    assert first["uid"] != other["uid"]
    assert len(other["uid"]) <= 40


def test_what_watches_a_run_has_each_label_once():
    """Those by which it is found before the chart's own."""
    theirs = r"metrics.labels.app\.kubernetes\.io/instance=prometheus"
    done = helm("template", "fruits", str(CHART), PROMETHEUS, *options(*PLACES, theirs), "-s=templates/monitoring.yaml")
    (monitor,) = [each.partition("spec:")[0] for each in done.stdout.split("---\n") if "kind: PodMonitor" in each]
    assert re.findall("kubernetes.io/instance: (.*)", monitor) == ["prometheus"]


def test_alerts_take_the_limit_of_failures_from_the_config():
    command = ["template", "fruits", str(CHART), PROMETHEUS, *options(*PLACES, "pipeline.failures.max_rate=0.2")]
    rule = one([each for each in yaml.safe_load_all(helm(*command).stdout) if each], "PrometheusRule")
    assert rule["spec"]["groups"][0]["rules"][0]["expr"].endswith("> 0.2")


def test_no_metrics_no_port():
    objects = render("metrics.enabled=false")
    assert "ports" not in pods(objects)["driver"]["spec"]["containers"][0]
    assert "--metrics" not in one(objects, "SparkApplication")["spec"]["arguments"]
    assert "ingress" not in one(objects, "NetworkPolicy", "fruits-driver")["spec"]


def test_queries_ask_for_metrics_that_there_are():
    """Those of fruitpipe; the tests of releases look at Spark's, too, on a running driver."""
    reporter = Reporter()
    with reporter.stage("list"):
        served = {sample.name for metric in RunCollector(reporter).collect() for sample in metric.samples}
    asked = {name for query in queries(CHART) for name in metric_names(query)}
    assert {name for name in asked if name.startswith("fruitpipe_")} == served


@pytest.mark.parametrize("queried", queries(CHART))
def test_queries_ask_for_this_release_alone(queried: str):
    for name in metric_names(queried):
        assert re.search(rf'{name}{{namespace="@namespace@", app_kubernetes_io_instance="@release@"', queried), name
