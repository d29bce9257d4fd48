"""Write the chart's values.schema.json, README.md, files/workers.yaml and files/presets.yaml: generate.py

Types come from values.yaml's own defaults, those of `pipeline` from fruitpipe's config, those of what pods and other
objects are given as it is from Kubernetes and the operator, descriptions from comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from kubeflow_spark_api.models import SparkV1beta2BatchSchedulerConfiguration

from fruitpipe.backbones.family import DECODER, WORKER, all_families
from fruitpipe.config import PRESETS, Config, ImageConfig
from fruitpipe.config.secrets import SECRET_FREE, SETTING_NAME
from fruitpipe.secret_patterns import SECRET_NAME

CHART = Path(__file__).parent / "fruitpipe"
KEY = re.compile(r"^((?: *# .*\n)*)( *)([A-Za-z]+):", re.MULTILINE)
MEMORY = {"type": "string", "pattern": "^[1-9][0-9]*[kmgt]$"}
VARIABLES = {
    "type": "object",
    "patternProperties": {SECRET_NAME.pattern: {"not": {}}},
    "additionalProperties": SECRET_FREE,
}
SETTINGS = {"type": "object", "propertyNames": SETTING_NAME, "additionalProperties": SECRET_FREE}
"""Any names and values but those that are credentials."""
NUMBER = {"type": "integer", "minimum": 1}
COUNT = NUMBER | {"minimum": 0}
TASK_AMOUNTS = [{"exclusiveMinimum": 0, "maximum": 0.5}, {"const": 1}, {"const": None}]
"""Of a GPU: as much as several tasks share, or a whole one."""
FIELD = "[0-9A-Za-z*/,?-]+"
CRON = rf"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every [0-9hms.]+|({FIELD} +){{4}}{FIELD})?$"
"""As github.com/robfig/cron takes it, by which the operator starts schedules."""
SPECIAL: dict[str, dict[str, Any]] = {
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "operator": {"enum": ["kubeflow", "apache"]},
    "restart.retries": COUNT,
    "restart.interval": NUMBER,
    "schedule.cron": {"type": "string", "pattern": CRON},
    "schedule.concurrencyPolicy": {"enum": ["Allow", "Forbid", "Replace"]},
    "driver.cores": NUMBER,
    "driver.memory": MEMORY,
    "driver.memoryOverhead": MEMORY,
    "driver.env": VARIABLES,
    "executor.instances": NUMBER,
    "executor.cores": NUMBER,
    "executor.memory": MEMORY,
    "executor.memoryOverhead": {"anyOf": [MEMORY, {"const": ""}]},
    "executor.env": VARIABLES,
    "executor.gracePeriodSeconds": COUNT,
    "executor.gpu.amount": COUNT,
    "executor.gpu.resource": {"type": "string", "pattern": "^[a-z0-9.-]+/gpu$"},
    "executor.gpu.taskAmount": {"type": ["number", "null"], "anyOf": TASK_AMOUNTS},
    "sparkConf": SETTINGS,
    "executor.dynamicAllocation.minimum": NUMBER,
    "executor.dynamicAllocation.maximum": NUMBER,
    "metrics.port": NUMBER | {"maximum": 65535},
    "timeLimitSeconds": NUMBER | {"type": ["integer", "null"]},
    "timeToLiveSeconds": NUMBER | {"type": ["integer", "null"]},
}
"""Where a default says too little."""
EXTENSIBLE: dict[str, dict[str, Any]] = {
    "backbone": {"type": ["string", "null"]},
    "backbones": {"type": ["array", "null"], "items": {"type": ["string", "object"]}},
    "formats": {"type": "array", "items": {"type": "string"}},
}
KUBERNETES = "1.36"
"""The version whose types these are."""
CORE, META, NETWORK, QUANTITY = (
    f"io.k8s.{group}"
    for group in ("api.core.v1", "apimachinery.pkg.apis.meta.v1", "api.networking.v1", "apimachinery.pkg.api.resource")
)
GIVEN = {
    "annotations": (f"{META}.ObjectMeta", "annotations"),
    "labels": (f"{META}.ObjectMeta", "labels"),
    "podLabels": (f"{META}.ObjectMeta", "labels"),
    "dashboardLabels": (f"{META}.ObjectMeta", "labels"),
    "extraVolumes": (f"{CORE}.PodSpec", "volumes"),
    "extraVolumeMounts": (f"{CORE}.Container", "volumeMounts"),
    "affinity": (f"{CORE}.PodSpec", "affinity"),
    "nodeSelector": (f"{CORE}.PodSpec", "nodeSelector"),
    "tolerations": (f"{CORE}.PodSpec", "tolerations"),
    "topologySpreadConstraints": (f"{CORE}.PodSpec", "topologySpreadConstraints"),
    "from": (f"{NETWORK}.NetworkPolicyIngressRule", "from"),
    "egress": (f"{NETWORK}.NetworkPolicySpec", "egress"),
}
"""Values that objects are given as they are, by the last part of their keys: of which objects, as what."""
ITEMS = {
    "secrets": (f"{CORE}.SecretEnvSource", "name"),
    "pullSecrets": (f"{CORE}.LocalObjectReference", "name"),
    "apiServerPorts": (f"{NETWORK}.NetworkPolicyPort", "port"),
    "stores": (f"{NETWORK}.IPBlock", "cidr"),
    "storePorts": (f"{NETWORK}.NetworkPolicyPort", "port"),
}
"""Lists of such."""
NOT_EXTENDED = {"properties": {"image": {"properties": {"extended": {"const": False}}}}}
TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}


def schema() -> str:
    """JSON Schema of the values."""
    pipeline = Config.model_json_schema()
    definitions = pipeline.pop("$defs")
    # What follows, the templates say themselves, in words.
    del pipeline["required"], definitions["SparkConfig"]
    pipeline["properties"]["spark"] = {"description": "Has no effect on Kubernetes, and is refused."}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = {"$schema": "http://json-schema.org/draft-07/schema#", **of(values)}
    described["properties"] |= {"pipeline": pipeline, "global": {"type": "object"}}
    described |= {"if": NOT_EXTENDED, "then": {"properties": {"pipeline": {"properties": named(pipeline)}}}}
    for each in (described, definitions):
        name_keys(each)
    needed = sorted(mentioned(described["properties"]))
    described["$defs"] = definitions | {name: with_nulls(kubernetes()[name]) for name in needed}
    return json.dumps(described, indent=2) + "\n"


def name_keys(schema: Any) -> None:
    """Let what refuses other keys name those that there are: Helm then shows them beside a mistyped one."""
    for each in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(each, dict | list):
            name_keys(each)
    if isinstance(schema, dict) and schema.get("additionalProperties") is False and "properties" in schema:
        schema["propertyNames"] = {"enum": [*schema["properties"]]}


def named(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Schemas of the keys whose values other packages may add to; `pipeline` is left with any text for them."""
    own = {key: pipeline["properties"][key] for key in EXTENSIBLE}
    for key, text in EXTENSIBLE.items():
        pipeline["properties"][key] = {"description": own[key]["description"], **text}
    return own


def of(value: Any, path: str = "") -> dict[str, Any]:
    """Of values below a dotted key."""
    if path in SPECIAL:
        return SPECIAL[path]
    if known := passed_on(path.rpartition(".")[2]):
        return {"type": TYPES[type(value)]} | with_nulls(known)
    if not isinstance(value, dict):
        return {"type": TYPES[type(value)]}
    properties = {name: of(each, f"{path}.{name}".lstrip(".")) for name, each in value.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


@cache
def kubernetes() -> dict[str, Any]:
    """Kubernetes' types by their names; none has keys that it does not know."""
    file = files("kubernetes_validate") / f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json"
    return {name: bare(each) for name, each in json.loads(file.read_text())["$defs"].items()}


def bare(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with nothing but types: no words, nothing that validators differ in, and no null."""
    kinds = [each for each in ("anyOf", "oneOf") if each in schema]
    if kinds:
        several = [bare(each) for each in schema[kinds[0]] if each != {"type": "null"}]
        return several[0] if len(several) == 1 else {"type": [each["type"] for each in several]}
    made = {key: schema[key] for key in ("$ref", "required", "enum") if key in schema}
    if "type" in schema:
        types = [each for each in [schema["type"]] if isinstance(each, str)] or [*schema["type"]]
        (made["type"],) = [each for each in types if each != "null"]
    if "properties" in schema:
        made["properties"] = {name: bare(each) for name, each in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            made[key] = bare(schema[key]) if isinstance(schema[key], dict) else schema[key]
    return made


def with_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose properties may be null, as which Kubernetes takes what is not there."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: or_null(with_nulls(each)) for name, each in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = with_nulls(schema[key])
    return made


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    types = schema["type"]
    return schema | {"type": [*([types] if isinstance(types, str) else types), "null"]}


def given(kind: str, name: str) -> dict[str, Any]:
    """A property of a type of Kubernetes, itself no reference."""
    schema: dict[str, Any] = kubernetes()[kind]["properties"][name]
    return dict(kubernetes()[schema["$ref"].rpartition("/")[2]]) if "$ref" in schema else dict(schema)


def passed_on(name: str) -> dict[str, Any] | None:
    """Of a value that objects are given as it is, by the last part of its key."""
    if name in GIVEN:
        return given(*GIVEN[name])
    if name in ITEMS:
        return {"items": given(*ITEMS[name])}
    return {"scratch": volume, "volume": volume, "options": options}.get(name, lambda: None)()


def volume() -> dict[str, Any]:
    """Of a volume, but for its name, which the templates give; none of its kinds where it is empty."""
    properties = {name: each for name, each in kubernetes()[f"{CORE}.Volume"]["properties"].items() if name != "name"}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def options() -> dict[str, Any]:
    """Of a batch scheduler, as the operator knows them."""
    text = json.dumps(bare(SparkV1beta2BatchSchedulerConfiguration.model_json_schema()))
    known: dict[str, Any] = json.loads(text.replace("IoK8sApimachineryPkgApiResourceQuantity", f"{QUANTITY}.Quantity"))
    return known | {"additionalProperties": False}


def mentioned(schema: Any) -> set[str]:
    """Names of Kubernetes' types in a schema and in these themselves."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        new = set(re.findall(r'"#/\$defs/(io\.k8s\.[^"]+)"', json.dumps(waiting.pop()))) - found
        found |= new
        waiting += [kubernetes()[name] for name in new]
    return found


def comments() -> Iterator[tuple[str, str]]:
    """Dotted keys of values.yaml and what is said of each."""
    path: list[str] = []
    for comment, indent, name in KEY.findall((CHART / "values.yaml").read_text()):
        path[len(indent) // 2 :] = [name]
        lines = [line.strip(" #") for line in comment.splitlines()]
        if lines:
            yield ".".join(path), " ".join(lines).removeprefix("-- ")


def readme() -> str:
    """The chart's README: all values with defaults."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = []
    for key, said in comments():
        value = values
        for name in key.split("."):
            value = value[name]
        rows.append(f"| `{key}` | `{json.dumps(value)}` | {said} |")
    return "\n".join([HEAD, "| value | default | |", "|---|---|---|", *rows, ""])


def config(**values: str) -> Config:
    return Config(input="IMAGES", output="OUT", **values)


def workers() -> str:
    """Memory of a Python worker by backbone, MiB; of some, also where it may be used as a whole. And of any worker, and
    of its decoder, MiB, with the most that an image may take there unless the config says otherwise, bytes."""
    needed = {"worker": WORKER, "decoder": DECODER, "max_memory": ImageConfig().max_memory}
    for family in all_families():
        for name in family.names:
            needed[name] = family.worker_memory(config(backbone=name))
            if "weights" in family.keys:
                whole = family.worker_memory(config(backbone=name, weights="whole.keras"))
                needed |= {f"{name} as a whole": whole} if whole != needed[name] else {}
    return "".join(f"{name}: {needed[name]}\n" for name in sorted(needed))


def presets() -> str:
    """Backbone of each preset, whose memory workers need."""
    return "".join(f"{name}: {config(preset=name).backbone}\n" for name in PRESETS)


HEAD = """# fruitpipe on Kubernetes

    kubectl create namespace fruits
    helm install fruits helm/fruitpipe --namespace fruits --set image.repository=REGISTRY/fruitpipe \\
      --set pipeline.input=s3://bucket/images --set pipeline.output=s3://bucket/results

Runs the main job as a SparkApplication of the Kubeflow Spark operator, or of Apache Spark's own. A change of
`pipeline`, the image or the pods runs it again, as does any new `reprocess`; the same values do nothing. On Helm's
command line, numbers with a point need `--set-json`.

Let the release be alone in its namespace ([why](../../docs/kubernetes.md)). The operator has to watch that: otherwise
the application has no state, and nothing happens. Where Kubeflow's is not there yet, this installs it beside:

    helm install spark-operator spark-operator --repo https://kubeflow.github.io/spark-operator --version 2.5.2 \\
      --namespace spark-operator --create-namespace --set 'spark.jobNamespaces={fruits}' --values k8s/operator.yaml

Where it is there, add the namespace to those that it watches, `spark.jobNamespaces` in the values of its release:

    helm get values spark-operator --namespace spark-operator --all
    helm upgrade spark-operator spark-operator --repo https://kubeflow.github.io/spark-operator --version 2.5.2 \\
      --namespace spark-operator --reuse-values --set 'spark.jobNamespaces={OTHERS,fruits}'

Apache's has `workloadResources.namespaces.data` for that.

`helm test fruits --namespace fruits` looks at image, Secrets, rights and bucket. Where its pod does not start, such as
without its image, it ends after three minutes without a word, and
`kubectl --namespace fruits get events --field-selector involvedObject.name=fruits-test` says why.

Written by `python helm/generate.py` from the comments of values.yaml.
"""


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(schema())
    (CHART / "README.md").write_text(readme())
    (CHART / "files/workers.yaml").write_text(workers())
    (CHART / "files/presets.yaml").write_text(presets())
