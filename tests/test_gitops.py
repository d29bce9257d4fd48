"""Commits to a Git repository that Flux follows: each that asks for a run is one, and no other is.

Runs where `kubectl` reaches a cluster with the Spark operator and Flux's source-controller and helm-controller.
FRUITPIPE_GIT_SERVER is a command that serves the bare repositories in a folder by HTTP at the address of the cluster's
node; it is given the folder and a port.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART
from cluster import KIND, NAMESPACE, kubectl, manifest, wait_for
from conftest import unavailable
from release import Release, values_for
from s3 import upload
from seaweed import BUCKET, Server, free_ports

pytestmark = pytest.mark.cluster
FLUX = Path(__file__).parents[1] / "k8s/flux"
NAME = "fleet"


class Repository:
    """A working copy of what Flux follows, with the chart and the values of one release."""

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.bare, self._copy, self._values = folder / "served/fleet.git", folder / "copy", values
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare), at=folder)
        self._git("clone", "--quiet", str(self.bare), str(self._copy), at=folder)
        shutil.copytree(CHART, self._copy / "helm/fruitpipe")

    def _git(self, *arguments: str, at: Path | None = None) -> str:
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main")
        command = ["git", *who, *arguments]
        done = subprocess.run(command, cwd=at or self._copy, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    def commit(self, readme: str | None = None, **changes: Any) -> str:
        """Commit values, or another README, and push; the commit."""
        for path, value in changes.items():
            *folders, last = path.split("__")
            target = self._values
            for each in folders:
                target = target[each]
            target[last] = value
        (self._copy / "fruits.yaml").write_text(yaml.safe_dump(self._values))
        if readme:
            (self._copy / "README.md").write_text(readme)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message=Another one")
        return self._push()

    def revert(self, commit: str) -> str:
        self._git("revert", "--no-edit", commit)
        self._values = yaml.safe_load((self._copy / "fruits.yaml").read_text())
        return self._push()

    def _push(self) -> str:
        self._git("push", "--quiet", "origin", "main")
        return self._git("rev-parse", "HEAD")


class Followed(Release):
    """The release as Flux makes it, and its runs as they come."""

    def __init__(self, client: Any) -> None:
        super().__init__(NAME)
        self._client = client
        self.last = ""
        """what the operator calls the run that was waited for last"""

    def flux(self) -> dict[str, Any]:
        return self.get("helmrelease")

    def look(self, kind: str = "helmrelease") -> None:
        """Have Flux look now and not when its interval is over."""
        kubectl("annotate", "--overwrite", kind, NAME, f"reconcile.fluxcd.io/requestedAt={time.time_ns()}")

    def has(self, commit: str) -> None:
        """Wait until Flux has applied a commit."""
        self.look("gitrepository")

        wait_for(lambda: self.attempted(commit) and self.is_ready("True"), 120)

    def attempted(self, commit: str) -> bool:
        return f"+{commit[:12]}" in self.flux().get("status", {}).get("lastAttemptedRevision", "")

    def is_ready(self, status: str) -> bool:
        found = self.flux()
        ready = [each for each in found["status"]["conditions"] if each["type"] == "Ready"]
        return [(each["status"], each["observedGeneration"]) for each in ready] == [
            (status, found["metadata"]["generation"])
        ]

    def ran(self) -> str:
        """Wait for the next run to end well; its log."""
        self.completed(after=self.last)
        self.last = self.run
        return self.log()

    def looked(self) -> str:
        """Wait for the next run, which has nothing to do and so asks for no executors; its log."""
        log = self.ran()
        assert "start: " not in log, "Spark was started"
        assert not self.get()["status"].get("executorState"), "there were executors"
        return log

    def published(self) -> list[str]:
        """Ids of all published runs, oldest first."""
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{NAME}/runs/")["Contents"]
        return sorted(each["Key"].split("/")[2] for each in found if each["Key"].endswith("/manifest.json"))

    @property
    def latest(self) -> dict[str, Any]:
        return manifest(self._client, NAME)


@contextmanager
def served(folder: Path, host: str) -> Iterator[str]:
    """URL of the bare repositories in a folder."""
    if not (server := os.environ.get("FRUITPIPE_GIT_SERVER")):
        unavailable("set FRUITPIPE_GIT_SERVER to a command that serves the bare Git repositories of a folder at a port")
    port = free_ports(1)
    with subprocess.Popen([*shlex.split(server), str(folder), str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{host}:{port}"
        finally:
            process.terminate()


def objects_of_flux(url: str) -> list[dict[str, Any]]:
    """Those of k8s/flux, in the tests' namespace and of their repository."""
    found = [yaml.safe_load((FLUX / name).read_text()) for name in ("source.yaml", "release.yaml")]
    source, release = found
    for each in found:
        each["metadata"] = {"name": NAME, "namespace": NAMESPACE}
    source["spec"]["url"] = f"{url}/fleet.git"
    release["spec"]["chart"]["spec"]["sourceRef"]["name"] = NAME
    return found


@pytest.fixture
def client(places: Server, fruits: Path) -> Any:
    made = places.client(places.identities["admin"])
    upload(made, fruits / "Apple", f"{NAME}-images/Apple")
    return made


@pytest.fixture
def repository(places: Server, client: Any, cluster_image: str, tmp_path: Path) -> Repository:
    values = values_for(NAME, cluster_image, places, f"{NAME}-images")
    values["executor"]["instances"] = 1
    values["restart"]["retries"] = 2  # of submissions, which time out where the machine is busy
    (tmp_path / "served").mkdir()
    return Repository(tmp_path, values)


@pytest.fixture
def release(places: Server, client: Any, repository: Repository) -> Iterator[Followed]:
    if "helmreleases" not in kubectl("get", "crds", "--output=name"):
        unavailable("the cluster that kubectl reaches has no Flux")
    with served(repository.bare.parent, places.host) as url:
        made = Followed(client)
        try:
            for each in objects_of_flux(url):
                kubectl("apply", "--filename=-", given=each)
            yield made
        finally:
            kubectl("delete", "--ignore-not-found", f"helmrelease/{NAME}", f"gitrepository/{NAME}")
            made.uninstall()


def test_a_commit_runs_what_it_asks_for_exactly_once(
    repository: Repository, release: Followed, client: Any, fruits: Path
) -> None:
    release.has(first := repository.commit())
    release.ran()
    (before,) = release.published()
    assert release.latest["revision"] == first[:12]

    # Another config is one run.
    release.has(changed := repository.commit(pipeline__pca={"components": 3}))
    release.ran()
    _, after = release.published()
    assert (release.latest["run"], release.latest["revision"]) == (after, changed[:12])
    assert release.latest["model"]["components"] == 3

    # A commit that asks for nothing is none.
    release.has(repository.commit("another README"))

    # A typo is refused, and the release says which key it is.
    wrong = repository.commit(pipeline__inptu="x")
    release.look("gitrepository")
    wait_for(lambda: "inptu" in json.dumps(release.flux()["status"]["conditions"]) and release.is_ready("False"), 120)
    release.has(repository.revert(wrong))
    assert (release.run, release.published()) == (release.last, [before, after])

    # A revert publishes what there was before.
    release.has(repository.revert(changed))
    assert f"run {before}, which already covers these images with this config, is published again" in release.looked()
    assert (release.latest["run"], release.published()) == (before, [before, after])

    # While Flux is suspended, nothing happens; then new images are one run.
    upload(client, fruits / "Banana", f"{NAME}-images/Banana")
    kubectl("patch", "helmrelease", NAME, "--type=merge", "--patch", json.dumps({"spec": {"suspend": True}}))
    new = repository.commit(reprocess="bananas")
    release.look("gitrepository")
    wait_for(lambda: new in json.dumps(release.get("gitrepository")["status"]), 60)
    assert release.run == release.last
    kubectl("patch", "helmrelease", NAME, "--type=merge", "--patch", json.dumps({"spec": {"suspend": False}}))
    release.has(new)
    release.ran()
    *_, grown = release.published()
    assert len(release.published()) == 3
    assert (release.latest["run"], release.latest["plan"]["new"], release.latest["plan"]["known"]) == (grown, 40, 40)

    # What is edited by hand is put right, and runs nothing.
    config = release.get("configmap")["data"]["run.yaml"]
    kubectl("patch", "configmap", NAME, "--type=merge", "--patch", json.dumps({"data": {"run.yaml": "limit: 1"}}))
    release.look()
    wait_for(lambda: release.get("configmap")["data"]["run.yaml"] == config, 60)
    assert release.run == release.last

    # What is deleted by hand comes back, and has nothing to do.
    kubectl("delete", KIND, NAME)
    release.look()
    wait_for(lambda: NAME in kubectl("get", KIND, "--output=name"), 60)
    assert f"nothing to do: run {grown} already covers these images with this config" in release.looked()
    assert len(release.published()) == 3
