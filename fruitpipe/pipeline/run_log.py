"""What a run has said, as it is kept beside its manifest: logs of pods go with the pods."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterable

from fruitpipe.errors import FruitpipeError
from fruitpipe.escapes import visible
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.redaction import without_secrets
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.logs import lines_of_neighbours

MOST = 50_000
"""Lines that are kept, the last of each pod."""
LONGEST = 2000
"""Characters of a line."""


def run_log(reporter: Reporter, in_pod: bool) -> bytes:
    """The log of a run so far, gzip; without secrets, of bounded length.

    in_pod: whether this is a pod with an account. A release's driver has its log and its executors' from the API
    server; elsewhere, it is what the reporter was told.
    """
    lines: Iterable[str] = reporter.said
    if in_pod:
        try:
            found = [str(line) for line in lines_of_neighbours(Connection(), socket.gethostname(), MOST)]
            lines = found or lines
        except FruitpipeError as error:
            lines = [*reporter.said, f"logs of executors could not be kept: {error}"]
    text = "".join(f"{visible(without_secrets(line))[:LONGEST]}\n" for line in lines)
    return gzip.compress(text.encode(), mtime=0)
