"""Whatever ends a run leaves an outcome, and one line for the user."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from command import BACKBONE, fruitpipe, one_line_error, process
from conftest import unavailable

from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError, UserError, first_line, in_words
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.pipeline.run import failure_of
from fruitpipe.pipeline.run import run as pipeline_run
from fruitpipe.result.runs import list_runs
from fruitpipe.storage.store import LocalStore


@pytest.mark.slow
def test_a_full_disk_under_the_plan_is_one_line_and_an_outcome(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's database is in the folder of temporary files, which is full here."""
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        unavailable("only root can mount a small file system")
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        done = process("run", fruits, out, "--set", BACKBONE, code=1)
    finally:
        subprocess.run(["umount", small], check=True)
    monkeypatch.delenv("TMPDIR")
    error = one_line_error(done).removeprefix("error: ")
    assert error.startswith("the plan needs more disk space (")
    assert "make room for temporary files" in error
    (row,) = json.loads(fruitpipe("runs", out, "--json").stdout)
    assert (row["status"], row["reason"]) == ("failed", error)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "No space left on device: /x/y. Computed features are",
        ),
        (OSError("a pipe broke"), "a pipe broke. Computed features are kept."),
        (
            duckdb.IOException("IO Error: no\nmore"),
            "the plan's database failed: IO Error: no. Computed features are kept.",
        ),
        (KeyError("x\ny"), "unexpected KeyError: 'x\\ny'. This is a fault of fruitpipe: please report it"),
    ],
)
def test_any_error_has_a_line(error: Exception, says: str) -> None:
    told = failure_of(error)
    assert (type(told), told.exit_code) == (FruitpipeError, 1)
    assert str(told).startswith(says)
    assert "\n" not in str(told)


def test_what_was_said_is_a_line_and_never_nothing() -> None:
    assert [first_line(ValueError(said)) for said in ("", "\n", "\none\ntwo")] == ["ValueError", "ValueError", "one"]
    assert in_words(UserError("one line.")) == "one line."


def test_what_fails_after_publication_is_a_note(fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a run that is published, and nothing says that it failed."""
    wanted = LocalStore.delete_all

    def failing(store: LocalStore, names: Iterable[str], *more: Any) -> None:
        named = list(names)
        if any("/work/" in name for name in named):
            raise OSError(5, "Input/output error")
        wanted(store, named, *more)

    monkeypatch.setattr(LocalStore, "delete_all", failing)
    out = tmp_path / "out"
    notes: list[str] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "note", notes.append)
    done = pipeline_run(Config(input=str(fruits), output=str(out), backbone=BACKBONE.partition("=")[2]), reporter)
    assert [row.status for row in list_runs(LocalStore(str(out)))] == ["latest"]
    assert not (out / "runs" / done.id / "outcome.json").exists()
    assert [note for note in notes if "could not clear away" in note]
