"""All that are told of a run. What cannot be reached costs a note, and never the run."""

from __future__ import annotations

from collections.abc import Callable

from fruitpipe.config import TrackConfig
from fruitpipe.extras import require
from fruitpipe.redaction import without_secrets
from fruitpipe.result.runs import Run
from fruitpipe.tracking.tracker import Begun, Tracker, Unfinished


class Audience:
    """Those that a config names."""

    def __init__(self, track: TrackConfig, note: Callable[[str], None]) -> None:
        """note: told of what cannot be reached. Raises UserError where a library is not installed."""
        self._trackers, self._note = open_trackers(track), note

    def began(self, begun: Begun) -> None:
        self._tell(lambda tracker: tracker.began(begun))

    def published(self, begun: Begun, run: Run) -> None:
        self._tell(lambda tracker: tracker.published(begun, run))

    def gave_up(self, begun: Begun, status: Unfinished, reason: str) -> None:
        self._tell(lambda tracker: tracker.gave_up(begun, status, reason))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                what(tracker)
            except Exception as error:  # noqa: BLE001 - a library may raise anything, and the run goes on
                said = " ".join(without_secrets(str(error)).split()).rstrip(".") or type(error).__name__
                self._note(f"could not tell {tracker.name} of this run: {said[:300]}")


def open_trackers(track: TrackConfig) -> list[Tracker]:
    trackers: list[Tracker] = []
    if track.mlflow:
        require("mlflow", "mlflow", "track.mlflow needs")
        from fruitpipe.tracking.mlflow import Mlflow

        trackers.append(Mlflow(track.mlflow))
    if track.openlineage:
        require("openlineage", "openlineage", "track.openlineage needs")
        from fruitpipe.tracking.lineage import OpenLineage

        trackers.append(OpenLineage(track.openlineage))
    return trackers
