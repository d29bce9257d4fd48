"""The Terraform of examples/terraform, without a provider: it parses, and agrees with chart and policy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from chart import CHART

FOLDER = Path(__file__).parents[1] / "examples/terraform"
TEXT = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.tf")))


def plain(value: Any) -> Any:
    """Without what the parser adds: quotes around texts, and marks of blocks."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


@pytest.fixture(scope="module")
def blocks() -> dict[str, dict[str, Any]]:
    """Blocks by their kind, and then by what they are referred to."""
    found: dict[str, dict[str, Any]] = {}
    for kind, several in plain(hcl2.loads(TEXT)).items():
        for block in several:
            name, inside, names = "", block, []
            depth = {"resource": 2, "data": 2, "variable": 1, "output": 1}.get(kind, 0)
            for _ in range(depth):
                ((name, inside),) = inside.items()
                names.append(name)
            found.setdefault(kind, {})[".".join(names)] = inside
    return found


def test_references_lead_somewhere(blocks: dict[str, dict[str, Any]]) -> None:
    assert set(re.findall(r"\bvar\.(\w+)", TEXT)) == set(blocks["variable"])
    assert set(re.findall(r"\blocal\.(\w+)", TEXT)) == set(blocks["locals"][""])
    code = re.sub(r'"(?:[^"$]|\$(?!\{))*"', '""', TEXT)
    assert set(re.findall(r"\bdata\.(aws_\w+\.\w+)", code)) <= set(blocks["data"])
    assert set(re.findall(r"(?<!data\.)\b(aws_\w+\.\w+)", code)) <= set(blocks["resource"])


def test_variables_without_default_are_those_that_the_readme_gives(blocks: dict[str, dict[str, Any]]) -> None:
    given = set(re.findall(r"-var='?(\w+)=", (FOLDER / "README.md").read_text()))
    assert given == {name for name, each in blocks["variable"].items() if "default" not in each}


def test_rights_are_those_that_are_tested(blocks: dict[str, dict[str, Any]]) -> None:
    """The names that it puts its buckets for are in the policy, and no others."""
    policy = (FOLDER / "../aws/policy.json").read_text()
    swaps = re.findall(r'"(my-\w+)", (var\.\w+_bucket)', TEXT)
    for name, _ in swaps:
        policy = policy.replace(name, "")
    assert [name for _, name in swaps] == ["var.images_bucket", "var.results_bucket"]
    resources = [each for statement in json.loads(policy)["Statement"] for each in statement["Resource"]]
    assert {each.split("/")[0] for each in resources} == {"arn:aws:s3:::"}


def test_nodes_are_where_pods_want_to_be(blocks: dict[str, dict[str, Any]]) -> None:
    values = yaml.safe_load((CHART / "values-eks.yaml").read_text())
    for group, role in (("on_demand", "driver"), ("spot", "executor")):
        nodes = blocks["resource"][f"aws_eks_node_group.{group}"]
        assert nodes["labels"] == values[role]["nodeSelector"]
        taints = {(each["key"], each["effect"]) for each in nodes.get("taint", [])}
        borne = {
            (each["key"], re.sub("(?<!^)(?=[A-Z])", "_", each["effect"]).upper())
            for each in values[role].get("tolerations", [])
        }
        assert taints == borne
