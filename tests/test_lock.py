"""The image's locked requirements fit what the package asks for."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "docker/requirements.lock").read_text()
ADVICE = "run `make lock`"


@pytest.fixture(scope="module")
def locked() -> dict[str, set[str]]:
    """Versions by name; some have one for old Pythons and one for new ones."""
    found = defaultdict(set)
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", LOCK, re.MULTILINE):
        found[name].add(version)
    return found


def test_every_dependency_is_locked_at_a_version_that_fits(locked):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        wanted = Requirement(text)
        versions = locked[canonicalize_name(wanted.name)]
        assert versions, f"{wanted.name} is not locked: {ADVICE}"
        assert all(wanted.specifier.contains(version) for version in versions), f"{text}, locked {versions}: {ADVICE}"


def test_every_version_has_hashes():
    for entry in re.split(r"\n(?=[a-z])", LOCK)[1:]:
        assert "--hash=sha256:" in entry, entry
