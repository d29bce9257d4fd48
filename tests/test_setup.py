"""`make setup`, as far as it can be seen without a download."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "scripts" / "setup"


def test_an_environment_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    """It may be that of another checkout, whose commands would run this one's code."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / ".venv").symlink_to("theirs")
    words = [SETUP, sys.executable, ".venv"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("error: .venv is a link to theirs")
    assert line.endswith("remove it, or say make VENV=FOLDER")
    assert not list((tmp_path / "theirs").iterdir())
