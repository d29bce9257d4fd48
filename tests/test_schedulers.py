"""The examples for Airflow and Argo Workflows: what they call is there, and takes what it is given."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import yaml
from chart import CHART, helm
from test_docs import parses

import fruitpipe
from fruitpipe import config
from fruitpipe.releases.status import Status

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_dag_submits_and_reads_what_there_is() -> None:
    tree = ast.parse((EXAMPLES / "airflow_dag.py").read_text())
    (call,) = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr == "submit"
    ]
    keywords = {each.arg: None for each in call.keywords if each.arg}
    inspect.signature(fruitpipe.submit).bind(*call.args, **keywords)
    read = {
        each.attr
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "status"
    }
    there = {each.name for each in dataclasses.fields(Status)}
    assert read
    assert read <= there


def test_argo_knows_the_workflow_and_fruitpipe_its_commands(tmp_path: Path) -> None:
    from hera.workflows.models import Workflow

    manifest = yaml.safe_load((EXAMPLES / "workflow.yaml").read_text())
    kept = Workflow.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert kept == manifest
    templates: dict[str, Any] = {each["name"]: each for each in manifest["spec"]["templates"]}
    for name in ("run", "show"):
        parses(templates[name]["container"]["args"])
    files = {each["name"]: each["raw"]["data"] for each in templates["run"]["inputs"]["artifacts"]}
    (tmp_path / "run.yaml").write_text(files["config"])
    config.validate(tmp_path / "run.yaml")
    values = yaml.safe_load(files["values"]) | {"pipeline": yaml.safe_load(files["config"])}
    done = helm("template", "fruits", str(CHART), "--values=-", given=values)
    assert not done.returncode, done.stderr
    assert templates["show"]["container"]["args"][1] == values["pipeline"]["output"]
