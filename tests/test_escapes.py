"""Names that are commands to a terminal, wherever fruitpipe shows them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TextIO, cast

import pytest
from command import BACKBONE, command, fruitpipe, process
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fruitpipe.errors import UserError
from fruitpipe.escapes import visible
from fruitpipe.pipeline.progress import BarReporter
from fruitpipe.redaction import redacted_tracebacks
from fruitpipe.result.manifest import Manifest
from fruitpipe.storage import layout
from fruitpipe.streams import Filtered, shown, styled

TITLE, CLEAR, CLIPBOARD = "\x1b]0;owned\x07", "\x1b[2J", "\x1b]52;c;b3duZWQ=\x07"
EVIL = f"a{TITLE}{CLEAR}{CLIPBOARD}\x9b2J\x7f\r\u202eb"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\x1b]52;c;b3duZWQ=\x07\x9b2J\x7f\x0d\u202eb"

STEERING = r"\x1b\]|\x1b\[2J|[\x07\x7f\x9b\u202e]"


@pytest.fixture(scope="module")
def images(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in a folder of such a name."""
    folder = tmp_path_factory.mktemp("evil")
    shutil.copytree(fruits / "Apple", folder / EVIL)
    return folder


def require_harmless(done: subprocess.CompletedProcess[str]) -> None:
    for text in (done.stdout, done.stderr):
        assert visible(text) == text


@given(st.text(), st.sampled_from(["", "\t\n"]))
def test_nothing_that_steers_is_left_and_nothing_else_changes(text: str, kept: str) -> None:
    shown = visible(text, kept)
    assert visible(shown, kept) == shown
    assert not [each for each in shown if each not in kept and (ord(each) < 32 or 127 <= ord(each) < 160)]
    assert visible("".join(each for each in text if each.isprintable())) == "".join(filter(str.isprintable, text))


def test_a_name_is_shown_with_its_escapes() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("Blåbær, 苹果\t\n") == "Blåbær, 苹果\t\n"
    assert visible("a\nb", kept="") == r"a\x0ab"
    assert visible(os.fsdecode(b"caf\xe9")) == r"caf\xe9", "a name that is not UTF-8"


def test_plan_shows_them(images: Path, tmp_path: Path) -> None:
    done = process("plan", images, tmp_path / "out")
    require_harmless(done)
    assert f"labels      {SHOWN} 40" in done.stdout


def test_a_name_of_several_lines_is_one(fruits: Path, tmp_path: Path) -> None:
    shutil.copytree(fruits / "Apple", tmp_path / "in/a\nnew         0")
    assert r"a\x0anew         0 40" in fruitpipe("plan", tmp_path / "in", tmp_path / "out").stdout


@pytest.mark.parametrize("verb", ["show", "publish"])
def test_errors_show_them(images: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / EVIL
    done = process(verb, out, *([EVIL] if verb == "publish" else []), code=2)
    require_harmless(done)
    assert SHOWN in done.stderr


def test_a_wrong_argument_shows_them() -> None:
    done = process(f"--{EVIL}", code=2)
    require_harmless(done)
    assert r"\x1b" in done.stderr


def test_a_run_and_what_is_said_of_it_show_them(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments in (("run", images, out, "--set", BACKBONE), ("show", out), ("runs", out), ("gc", out)):
        require_harmless(fruitpipe(*arguments))
    found = json.loads(fruitpipe("show", out, "--json").stdout)
    page = (out / "runs" / found["run"] / "report.html").read_text()
    assert f"<td>{SHOWN}</td>" in page
    assert found["counts"]["by_label"] == {EVIL: 40}, "what programs read is what it is"
    Manifest.model_validate(found)


def test_json_has_them_in_its_own_escapes(images: Path, tmp_path: Path) -> None:
    done = fruitpipe("plan", images, tmp_path / "out", "--json")
    require_harmless(done)
    assert json.loads(done.stdout)["labels"] == {EVIL: 40}


def test_the_reason_of_a_pods_end_shows_them(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    process("show", tmp_path / EVIL, code=2, variables=os.environ | {"FRUITPIPE_TERMINATION_LOG": str(log)})
    assert SHOWN in log.read_text()
    assert visible(log.read_text()) == log.read_text()


def on_terminal(*arguments: object) -> str:
    """What a terminal is sent; `script` gives the command one."""
    words = " ".join(f"$'{word}'".replace("\x1b", r"\e") for word in command(*arguments))
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", f"bash -c {json.dumps(words)}", "/dev/null"],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "300", "TERM": "xterm-256color"},
    )  # fmt: skip
    return done.stdout


def failed(out: Path, reason: str) -> None:
    """A result with a run that failed."""
    run, times = "20260101-000000-abcd", {"started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:01Z"}
    (out / layout.run(run)).mkdir(parents=True)
    (out / layout.MARKER).write_text(json.dumps({"layout": layout.VERSION}))
    (out / layout.outcome(run)).write_text(json.dumps({"run": run, "status": "failed", "reason": reason, **times}))


def test_a_table_on_a_terminal_is_styled_and_shows_them(tmp_path: Path) -> None:
    failed(tmp_path / "out", f"{EVIL} [red]no style[/red]")
    text = on_terminal("runs", tmp_path / "out")
    assert f"{SHOWN} [red]no style[/red]" in text
    assert "\x1b[1m" in text, "rich's own headings"
    assert not re.search(STEERING, text)


def test_a_bar_moves_and_notes_show_them() -> None:
    screen = io.StringIO()
    console = Console(file=styled(cast(TextIO, Filtered(screen))), force_terminal=True, width=300)
    reporter = BarReporter(console)
    with reporter.stage("list"):
        reporter.note(EVIL)
    reporter.close()
    assert SHOWN in screen.getvalue()
    assert "\x1b[2K" in screen.getvalue(), "rich's own"
    assert not re.search(STEERING, screen.getvalue())


def test_an_exception_that_somebody_else_prints_shows_them() -> None:
    assert str(UserError(EVIL)) == SHOWN
    with pytest.raises(RuntimeError) as raised, redacted_tracebacks():
        raise ValueError(EVIL)
    assert SHOWN in str(raised.value)


@pytest.mark.parametrize("gone", ["screen", "log"])
def test_what_workers_print_goes_on_where_one_of_its_places_is_gone(gone: str, tmp_path: Path) -> None:
    """As with `--verbose 2>&1 | head -1`: who writes to a pipe without an end dies."""
    ours, screen = os.pipe()
    log = Path("/dev/full" if gone == "log" else tmp_path / "log")
    if gone == "screen":
        os.close(ours)
    thread, out = shown(screen, log.open("wb", buffering=0), "messages")
    with out:
        for number in range(3):
            out.write(b"line %d\n" % number)
            out.flush()
    thread.join(30)
    os.close(screen)
    if gone == "screen":
        found = log.read_bytes()
    else:
        with os.fdopen(ours, "rb") as file:
            found = file.read()
    assert found == b"line 0\nline 1\nline 2\n"
