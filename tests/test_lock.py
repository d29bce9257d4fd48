"""The image's locked requirements fit what the package asks for, and its parts are whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "docker/requirements.lock"
ADVICE = "run `make lock`"
EVERYWHERE = {"heif", "jxl"}
"""Extras that every image has."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(path.stem for path in (ROOT / "docker/extras").iterdir())


def locked(path: Path) -> dict[str, set[str]]:
    """Versions by name; some have one for old Pythons and one for new ones."""
    found = defaultdict(set)
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", path.read_text(), re.MULTILINE):
        found[name].add(version)
    return found


def wanted(extras: set[str]) -> list[Requirement]:
    texts = PROJECT["dependencies"] + [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_dependency_is_locked_at_a_version_that_fits(extra):
    versions_of = locked(LOCK) | (locked(ROOT / f"docker/extras/{extra}.lock") if extra else {})
    for requirement in wanted(EVERYWHERE | {extra} - {""}):
        versions = versions_of[canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name} is not locked: {ADVICE}"
        assert all(map(requirement.specifier.contains, versions)), f"{requirement}, locked {versions}: {ADVICE}"


def test_extras_go_together():
    """No package is locked at two versions, so that an image may have any of them."""
    found = defaultdict(set)
    for path in [LOCK, *(ROOT / "docker/extras").iterdir()]:
        for name, versions in locked(path).items():
            found[name].add(frozenset(versions))
    assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}


def test_an_image_may_have_every_extra_but_two():
    """`submit` needs helm on the machine of whoever types it; hub needs an environment of its own."""
    assert {*EXTRAS, *EVERYWHERE, "helm", "hub", "dev"} == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", [LOCK, *(ROOT / "docker/extras").iterdir()], ids=lambda path: path.stem)
def test_every_version_has_hashes(path):
    for entry in re.split(r"\n(?=[a-z])", path.read_text())[1:]:
        assert "--hash=sha256:" in entry, entry


def test_an_image_for_gpus_has_one_onnxruntime(tmp_path):
    """What the build deletes from the lock of `onnx`, where `gpu` is wanted too."""
    (deletion,) = re.findall(r"sed -i '([^']+)' extras/onnx\.lock", (ROOT / "docker/Dockerfile").read_text())
    path = shutil.copy(ROOT / "docker/extras/onnx.lock", tmp_path)
    before = locked(Path(path))
    subprocess.run(["sed", "-i", deletion, path], check=True)
    assert {name: before[name] for name in before if name != "onnxruntime"} == locked(Path(path))
    assert "onnxruntime-gpu" in locked(ROOT / "docker/extras/gpu.lock")


def copied(stages: str) -> list[tuple[list[str], str]]:
    """Sources in the context, and the target, of each COPY."""
    found = [line.split() for line in re.findall(r"^COPY ((?:(?!--).)+?)$", stages.replace("\\\n", ""), re.MULTILINE)]
    return [(names, target) for *names, target in found]


def test_what_the_image_is_built_of_is_not_ignored():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [name for names, _ in copied((ROOT / "docker/Dockerfile").read_text()) for name in names]
    assert "helm/fruitpipe" in sources  # which fruitpipe/chart is a link to
    assert [name for name in sources if not any(f"{name}/".startswith(f"{folder}/") for folder in kept)] == []


@pytest.mark.slow
def test_what_the_image_converts_backbones_with_is_copied_there(tmp_path):
    """The stage has a part of the package alone, so that other changes do not convert anew."""
    stage = (ROOT / "docker/Dockerfile").read_text().partition(" AS backbones\n")[2].partition("\nFROM ")[0]
    for names, target in copied(stage):
        for name in names:
            source, folder = ROOT / name, tmp_path / target
            if source.is_dir():
                shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder)
    (tmp_path / "keras").mkdir()
    environment = os.environ | {"FRUITPIPE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "backbones.py", "keras"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "efficientnet_lite0" in done.stdout
