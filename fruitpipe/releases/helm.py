"""Helm, and the chart that comes with this package."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fruitpipe.errors import FruitpipeError, UserError

CHART = Path(__file__).parents[1] / "chart"
"""The chart of `helm/fruitpipe`, which wheels hold here."""
NAME = "fruitpipe"
"""Of the chart."""
CHART_LABEL = "helm.sh/chart"
"""Label that names the chart, and its version, of all objects of a release but pods."""
NO_HELM = "no helm on the PATH: install it (https://helm.sh), or `pip install 'fruitpipe[helm]'`."


@dataclass(frozen=True)
class Helm:
    """Helm for one namespace of one cluster."""

    context: str | None
    namespace: str

    def install(self, release: str, files: Sequence[Path], values: dict[str, Any], dry: bool = False) -> str:
        """Install a release, or upgrade it to these values; its manifest.

        files: YAML files of values; those in `values` win.
        dry: change nothing.

        Raises UserError where the chart or the cluster refuses, or the release is of another chart.
        """
        options = ["--install", *(f"--values={file}" for file in files), *(["--dry-run=server"] if dry else [])]
        return self._upgrade(release, options, values)

    def change(self, release: str, values: dict[str, Any]) -> str:
        """Upgrade a release with these values besides those that it was given; its manifest. Raises as `install`."""
        return self._upgrade(release, ["--reset-then-reuse-values"], values)

    def _upgrade(self, release: str, options: list[str], values: dict[str, Any]) -> str:
        self._refuse_others(release)
        options = [release, str(CHART), "--output=json", *options, "--values=-"]
        said = self("upgrade", *options, given=yaml.safe_dump(values))
        return str(json.loads(said)["manifest"])

    def manifest(self, release: str) -> str | None:
        """Its objects as they were given to the cluster last; None where there is no such release."""
        try:
            return self("get", "manifest", release)
        except NotFound:
            return None

    def uninstall(self, release: str) -> None:
        """Raises UserError where there is no such release, or it is of another chart."""
        self._refuse_others(release)
        try:
            self("uninstall", release, "--wait")
        except NotFound:
            raise UserError(
                f"no release {release} in namespace {self.namespace}: `fruitpipe list` shows them."
            ) from None

    def _refuse_others(self, release: str) -> None:
        """Raises UserError where a release of this name is of another chart: Helm would make it one of this."""
        try:
            chart = json.loads(self("get", "metadata", release, "--output=json"))["chart"]
        except NotFound:
            return
        if chart != NAME:
            raise UserError(
                f"release {release} in namespace {self.namespace} is of chart {chart}, not {NAME}: take another name, "
                "or change it by helm and its own chart."
            )

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        """What a command prints. Raises UserError where helm is missing or refuses."""
        program = shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
        if program is None:
            raise UserError(NO_HELM)
        options = [f"--namespace={self.namespace}", *([f"--kube-context={self.context}"] if self.context else [])]
        done = subprocess.run([program, *arguments, *options], input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise refusal(done.stderr)
        return done.stdout


class NotFound(UserError):
    """There is no release of this name."""


def refusal(said: str) -> FruitpipeError:
    """What helm's words mean."""
    text = said.partition("Error: ")[2].strip() or said.strip()
    if "release: not found" in text:
        return NotFound(text)
    for pattern, meaning in MEANINGS:
        if found := re.search(pattern, text, re.DOTALL):
            return UserError(meaning.format(*(" ".join(group.split()) for group in found.groups())))
    if unknown := UNKNOWN.findall(text):
        return UserError(" ".join(unknown_key(new or old, key) for new, old, key in unknown))
    if wrong := WRONG.findall(text):
        return UserError("; ".join(f"{'.'.join(names(new or old))}: {reason}" for new, old, reason in wrong) + ".")
    return UserError(f"helm refused: {' '.join(text.split())}")


MEANINGS = (
    (
        r'"(.*?)" has no deployed releases',
        "Helm has no release {0} here: change it where it comes from, such as Argo CD.",
    ),
    (
        r'no matches for kind "(\w+)" in version "(spark[^"]+)',
        "the chart's operator is not installed on this cluster, which knows no {0} of {1}: see docs/kubernetes.md.",
    ),
    (
        r"(?:execution error at|error calling fail).*?: (?:error calling fail: )?([\w.]+: .*)$",
        "{0}",
    ),
    (r'admission webhook "(.*?)" denied the request: (.*)$', "the cluster's webhook {0} refused it: {1}"),
    (r'namespaces? "(.*?)" not found', "no namespace {0}: `kubectl create namespace {0}` makes it."),
    (
        r'^(?:.*?: )?(\w+(?:\.[\w.]+)? (?:".*?" )?is forbidden: User ".*?" cannot .*?)$',
        "your account lacks rights: {0}",
    ),
    (
        r"(?:[Kk]ubernetes cluster unreachable|connection refused|i/o timeout): ?(.*)$",
        "the cluster does not answer: {0}",
    ),
    (
        r"another operation \(install/upgrade/rollback\) is in progress",
        "helm is at work on this release already: wait for it, or `helm rollback` where it was killed.",
    ),
)
"""Patterns of what helm says, and what it means."""


UNKNOWN = re.compile(
    r"^\s*- (?:at '(.*?)'|([\w.]+|\(root\))): [Aa]dditional propert(?:y|ies) (.+?) (?:is )?not allowed", re.MULTILINE
)
"""A key that the schema does not know, as Helm says it from 3.18 on, and as it did before."""
WRONG = re.compile(r"^\s*- (?:at '(.*?)'|([\w.]+)): (.*)$", re.MULTILINE)
"""A value of another type or form."""


def names(path: str) -> list[str]:
    """Keys of a path as Helm writes it, with slashes or with dots."""
    return [name for name in re.split(r"[/.]", path.replace("(root)", "")) if name]


def unknown_key(path: str, keys: str) -> str:
    """A line for a key that the chart does not know, with the one that was probably meant."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    folders = names(path)
    known = properties_at(schema, folders)
    key = keys.strip().strip("'\"")
    close = difflib.get_close_matches(key, known, n=1)
    shown = ".".join([*folders, key])
    advice = f"did you mean {'.'.join([*folders, close[0]])}?" if close else f"there are {', '.join(sorted(known))}."
    return f"{shown}: no such value; {advice}"


def properties_at(schema: dict[str, Any], folders: list[str]) -> list[str]:
    """Names of the values below a path."""
    node = schema
    for name in folders:
        node = resolved(node.get("properties", {}).get(name, {}), schema)
    return list(resolved(node, schema).get("properties", {}))


def resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A node of the schema, or what it refers to."""
    for each in (node, *node.get("anyOf", []), *node.get("allOf", [])):
        if "$ref" in each:
            return dict(schema["$defs"][each["$ref"].rpartition("/")[2]])
    return node
