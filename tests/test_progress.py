from __future__ import annotations

import io
import json
import os
import pty
from collections import Counter

import pytest
from rich.console import Console

from fruitpipe.pipeline import progress
from fruitpipe.pipeline.progress import BarReporter, JsonReporter, PlainReporter, Reporter, figures, reporter_for


def play(reporter: Reporter) -> None:
    """A short run."""
    with reporter.stage("list"):
        reporter.poll()
    with reporter.stage("featurize", 40):
        reporter.advance(Counter(ok=9, missing=1), 1, 500)
        reporter.poll()
        reporter.advance(Counter(ok=28, undecodable=2), 2, 700)
    reporter.note("a [red]note[/red]")
    reporter.close()


def test_stages_are_timed_and_images_counted() -> None:
    reporter = Reporter()
    play(reporter)
    assert list(reporter.timings) == ["list", "featurize"]
    assert (reporter.done, reporter.failed, reporter.total) == (40, 3, 40)
    assert reporter.statuses == {"ok": 37, "missing": 1, "undecodable": 2}
    assert reporter.bytes == 1200
    assert reporter.timings["featurize"] > 0


def test_the_times_of_a_stage_that_comes_twice_add_up_and_its_counts_begin_anew() -> None:
    reporter = Reporter()
    with reporter.stage("x", 5):
        reporter.advance(Counter(missing=5), 5, 0)
    first = reporter.timings["x"]
    with reporter.stage("x", 5):
        assert (reporter.done, reporter.failed) == (0, 0)
    assert reporter.timings["x"] > first


def test_nobody_knows_the_time_left_before_anything_is_done() -> None:
    reporter = Reporter()
    with reporter.stage("x", 40):
        assert reporter.remaining is None
        assert reporter.rate == 0
        assert "left" not in figures(reporter)
        reporter.advance(Counter(ok=10), 0, 1)
        assert reporter.rate > 0
        # rate and remaining look at the clock one after the other
        assert reporter.remaining is not None
        assert reporter.remaining >= 0
        reporter.advance(Counter(ok=30), 0, 1)
        assert reporter.remaining == 0


def test_plain_lines_tell_each_stage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    play(PlainReporter(stream=stream))
    first, second, note = stream.getvalue().splitlines()
    assert first.startswith("list: ")
    assert "images" not in first
    assert second.startswith("featurize: ")
    assert "40/40 images" in second
    assert "3 failed" in second
    assert note == "a [red]note[/red]"


def test_plain_lines_come_in_between_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    stream = io.StringIO()
    play(PlainReporter(stream=stream))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert any(line.startswith("featurize: 10/40 images") and "1 failed" in line for line in lines)


def test_json_lines_are_json_and_carry_the_figures() -> None:
    stream = io.StringIO()
    play(JsonReporter(stream=stream))
    first, second, note = map(json.loads, stream.getvalue().splitlines())
    assert first.keys() == {"stage", "seconds"}
    assert (second["stage"], second["images"], second["failed"]) == ("featurize", 40, 3)
    assert second["images_per_second"] > 0
    assert note == {"note": "a [red]note[/red]"}


def test_the_bar_shows_stages_and_prints_notes_as_they_are() -> None:
    stream = io.StringIO()
    play(BarReporter(Console(file=stream, force_terminal=True, width=100, color_system=None)))
    text = stream.getvalue()
    assert "featurize" in text
    assert "40 images" in text
    assert "3 failed" in text
    assert "a [red]note[/red]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor comes back"


def test_a_file_gets_plain_lines_a_terminal_a_bar_and_machines_json() -> None:
    assert type(reporter_for(io.StringIO(), "auto")) is PlainReporter
    assert type(reporter_for(io.StringIO(), "json")) is JsonReporter
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        assert type(reporter_for(terminal, "json")) is JsonReporter
        reporter = reporter_for(terminal, "auto")
        reporter.close()
        assert type(reporter) is BarReporter
    os.close(ours)
