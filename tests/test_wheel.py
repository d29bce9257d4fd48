"""The wheel, as it comes out of `make wheel`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_is_the_same_wherever_it_is_built(tmp_path: Path) -> None:
    """Of the same commit, by users with other rights for their files, and with something left beside the code."""
    built = []
    for name, umask in (("one", 0o022), ("other", 0o077)):
        clone = tmp_path / name
        git = ["git", "clone", "--quiet", "--shared", ROOT, clone]
        subprocess.run(git, umask=umask, check=True)
        (clone / f"fruitpipe/{name}.py").write_text("left")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [clone / "scripts/wheel", clone / "dist"]
        done = subprocess.run(
            command, umask=umask, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (wheel,) = clone.glob("dist/*.whl")
        built.append((wheel.name, wheel.read_bytes()))
    assert built[0] == built[1]
    with ZipFile(wheel) as found:
        names = set(found.namelist())
        assert {"fruitpipe/py.typed", "fruitpipe/result/report.html", "fruitpipe/explore/page.js"} <= names
        assert "fruitpipe/vision/resample.c" in names
        assert not {name for name in names if name.endswith(".so")}  # as it is for every machine
        chart = {path: path.read_bytes() for path in (ROOT / "helm/fruitpipe").rglob("*") if path.is_file()}
        inside = {f"fruitpipe/chart/{path.relative_to(ROOT / 'helm/fruitpipe')}": data for path, data in chart.items()}
        assert inside == {name: found.read(name) for name in found.namelist() if name.startswith("fruitpipe/chart/")}
