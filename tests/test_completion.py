"""Completion in a shell: it installs, and answers without what only runs need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("fruitpipe")
HEAVY = {"botocore", "cv2", "duckdb", "kubernetes", "obstore", "pyspark", "sklearn", "tensorflow"}


def complete(line: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What bash asks when Tab is pressed at the end of a line."""
    asked = {"_FRUITPIPE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    command = [sys.executable, *options, SCRIPT]
    return subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)


def test_completion_installs_and_bash_loads_it(tmp_path: Path) -> None:
    # `typer` looks at the processes above for the shell; bash would replace itself by a last command.
    home = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    install = f"{SCRIPT} --install-completion && true"
    subprocess.run(["bash", "-c", install], env=home, capture_output=True, text=True, check=True)
    loaded = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/.bashrc && complete -p fruitpipe"],
        env=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.split()[-1] == "fruitpipe"


def test_verbs_and_options_are_offered() -> None:
    verbs = complete("fruitpipe ").stdout.split()
    assert {"run", "plan", "doctor", "transform", "gc"} <= set(verbs)
    assert complete("fruitpipe tra").stdout.split() == ["transform"]
    assert {"--config", "--preset", "--set"} <= set(complete("fruitpipe run --").stdout.split())


def test_no_key_waits_for_what_only_runs_need() -> None:
    done = complete("fruitpipe ", "-X", "importtime")
    imported = {name.partition(".")[0] for name in re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)}
    assert "fruitpipe" in imported
    assert not imported & HEAVY
