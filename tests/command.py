"""Run the command line as a user does: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BACKBONE = "backbone=efficientnet_lite0"  # its weights are wherever pip is


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fruitpipe", *map(str, arguments)]


def fruitpipe(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished command; fails where it ends with another exit code."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}:\n{done.stdout}\n{done.stderr}"
    return done


def run(images: Path, out: Path, *assignments: str, code: int = 0) -> dict[str, Any]:
    """The manifest of a new run, or {} where it is to fail."""
    options = [part for assignment in (BACKBONE, *assignments) for part in ("--set", assignment)]
    done = fruitpipe("run", images, out, *options, "--json", code=code)
    return manifest(out, json.loads(done.stdout)["run"]) if code == 0 else {}


def manifest(out: Path, run_id: str = "") -> dict[str, Any]:
    name = run_id or json.loads((out / "latest.json").read_text())["run"]
    document: dict[str, Any] = json.loads((out / "runs" / name / "manifest.json").read_text())
    return document


def vectors(out: Path, run_id: str = "") -> pa.Table:
    """Published vectors, as any reader of Parquet sees them."""
    return pq.read_table(out / "runs" / manifest(out, run_id)["run"] / "vectors")


def same_vectors(one: pa.Table, other: pa.Table) -> bool:
    """Equal to the last bit, images and labels included."""
    return bool(one.replace_schema_metadata(None).equals(other.replace_schema_metadata(None)))


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The only line of an error; fails where there is a stack trace or more than one line of it."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.strip().endswith(lines[0]), done.stderr
    return lines[0]
