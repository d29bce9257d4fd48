"""Something to be notified of a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from fruitpipe.config import Config
from fruitpipe.result.runs import Run

Unfinished = Literal["failed", "interrupted"]


@dataclass(frozen=True)
class Begun:
    """A run that has begun."""

    id: str
    started: datetime
    config: Config


class Tracker(Protocol):
    """Something to be notified. Raises whatever its library does."""

    @property
    def name(self) -> str:
        """For messages."""

    def began(self, begun: Begun) -> None:
        """A run begins."""

    def published(self, begun: Begun, run: Run) -> None:
        """It has ended: with this run, whose `reason` says why where it is another one."""

    def gave_up(self, begun: Begun, status: Unfinished, reason: str) -> None:
        """It has ended without being published."""
