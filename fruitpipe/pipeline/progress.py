"""Progress of a run: a live bar on a terminal, plain lines elsewhere, JSON lines for machines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from fruitpipe.escapes import visible
from fruitpipe.redaction import without_secrets
from fruitpipe.streams import is_terminal, say, styled, unfiltered
from fruitpipe.units import duration

EVERY = 10.0
"""Seconds between plain lines."""


@dataclass
class Reporter:
    """Counts images and times stages, silently. The base of the reporters that print."""

    timings: dict[str, float] = field(default_factory=dict)
    """seconds by stage"""
    stage_name: str = ""
    """the one that runs, or the last"""
    total: int = 0
    done: int = 0
    failed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """images of the whole run by status"""
    bytes: int = 0
    """read by the whole run"""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=10_000))
    """the last lines of what was told, each after its time, UTC"""
    _began: float = 0.0

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[None]:
        """A stage of the run; `total` images are to be counted in it with `advance`."""
        self.stage_name, self.total, self.done, self.failed = name, total, 0, 0
        self._began = time.monotonic()
        self.started()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + self.seconds
        self._say(self.stage_line)
        self.finished()

    def advance(self, statuses: Counter[str], failed: int, read: int) -> None:
        """Count images that are done: their number by status, how many failed, bytes read."""
        self.done += statuses.total()
        self.failed += failed
        self.statuses += statuses
        self.bytes += read

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Images per second in this stage."""
        return self.done / self.seconds if self.done else 0.0

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to the end of the stage; None before the first image is done."""
        return (self.total - self.done) / self.rate if self.done else None

    @property
    def stage_line(self) -> str:
        """The stage so far, in words."""
        return f"{self.stage_name}: {self.seconds:.1f} s{f', {figures(self)}' if self.total else ''}"

    def started(self) -> None:
        """A stage begins."""

    def poll(self) -> None:
        """Called several times a second while images are worked on."""

    def finished(self) -> None:
        """A stage ended."""

    def note(self, message: str) -> None:
        """A message for people."""
        self._say(message)
        self.noted(message)

    def noted(self, message: str) -> None:
        """There is a message for people."""

    def _say(self, line: str) -> None:
        self.said.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {line}")

    def close(self) -> None:
        """The run has ended, successfully or not."""


@dataclass
class PlainReporter(Reporter):
    """A line per stage, and one every ten seconds."""

    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    _printed: float = 0.0

    def started(self) -> None:
        self._printed = time.monotonic()

    def poll(self) -> None:
        if time.monotonic() - self._printed >= EVERY:
            self._printed = time.monotonic()
            say(f"{self.stage_name}: {figures(self)}", self.stream)

    def finished(self) -> None:
        say(self.stage_line, self.stream)

    def noted(self, message: str) -> None:
        say(message, self.stream)


@dataclass
class JsonReporter(Reporter):
    """A JSON object per stage and note."""

    stream: TextIO | None = field(default_factory=lambda: sys.stderr)

    def finished(self) -> None:
        facts: dict[str, object] = {"stage": self.stage_name, "seconds": round(self.seconds, 3)}
        if self.total:
            facts |= {"images": self.done, "failed": self.failed, "images_per_second": round(self.rate, 1)}
        say(json.dumps(facts), unfiltered(self.stream))

    def noted(self, message: str) -> None:
        say(json.dumps({"note": without_secrets(message)}), unfiltered(self.stream))


@dataclass
class PartReporter(Reporter):
    """Of one of several runs at a time: another one tells what it does, with its name."""

    whole: Reporter = field(default_factory=Reporter)
    name: str = ""

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[None]:
        with self.whole.stage(f"{self.name} {name}", total), super().stage(name, total):
            yield

    def shared(self) -> None:
        """Take over the stage that has just ended, which was of all."""
        name = self.whole.stage_name
        self.timings[name] = self.timings.get(name, 0.0) + self.whole.timings[name]
        self._say(self.whole.stage_line)

    def advance(self, statuses: Counter[str], failed: int, read: int) -> None:
        super().advance(statuses, failed, read)
        self.whole.advance(statuses, failed, read)

    def poll(self) -> None:
        self.whole.poll()

    def noted(self, message: str) -> None:
        self.whole.note(f"{self.name}: {message}")


class BarReporter(Reporter):
    """A live bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        # In a notebook, rich asks for ipywidgets at each step where it is missing; stages are told there nevertheless.
        hidden = console.is_jupyter and find_spec("ipywidgets") is None
        self._bars = Progress(*columns, console=console, expand=True, transient=True, disable=hidden)
        self._bars.start()
        self._task: TaskID | None = None

    def started(self) -> None:
        self._task = self._bars.add_task(self.stage_name, total=self.total or None, figures="")

    def poll(self) -> None:
        assert self._task is not None, "polled within a stage"
        self._bars.update(self._task, completed=self.done, figures=figures(self))

    def finished(self) -> None:
        assert self._task is not None, "finished after it started"
        self._bars.remove_task(self._task)
        count = f"{self.done} images, {self.rate:.0f} img/s, {self.failed} failed" if self.total else ""
        self._bars.console.print(f"{self.stage_name:<9} {self.seconds:6.1f} s  {count}", highlight=False)

    def noted(self, message: str) -> None:
        self._bars.console.print(visible(message), highlight=False, markup=False)

    def close(self) -> None:
        self._bars.stop()


def figures(reporter: Reporter) -> str:
    """Images done, speed, failures and time left, in words; the time so far in stages that count no images."""
    if not reporter.total:
        return duration(reporter.seconds)
    left = f", {duration(reporter.remaining)} left" if reporter.remaining else ""
    return f"{reporter.done}/{reporter.total} images, {reporter.rate:.0f} img/s, {reporter.failed} failed{left}"


def reporter_for(stream: TextIO | None, log: str = "auto") -> Reporter:
    """The one that fits a stream: JSON where asked for, else a bar on a terminal, else plain lines."""
    if log == "json":
        return JsonReporter(stream=stream)
    console = Console(file=styled(stream), force_jupyter=False)
    return BarReporter(console) if is_terminal(stream) and console.is_terminal else PlainReporter(stream=stream)
