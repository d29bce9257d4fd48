"""Ask again where obstore does not: a connection that breaks amid a list or a refusal, after a deletion or a swap."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
LOST = re.compile("error sending request|request or response body error")
TRIED = re.compile(r"after (\d+) retries, max_retries: \1\b")
"""Obstore has asked as often as it may."""
SECONDS = 180
"""As long as obstore itself asks again."""


class Retry:
    """What is left of it for one request."""

    def __init__(self) -> None:
        self._end, self._pause = time.monotonic() + SECONDS, 0.1

    def wait(self, error: Exception) -> None:
        """Before the request is repeated. Raises the error where it is no lost connection, or has lasted too long."""
        text = str(error)
        if not LOST.search(text) or TRIED.search(text) or time.monotonic() > self._end:
            raise error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, 10)


def retried(request: Callable[[], Answer]) -> Answer:
    """The answer to a request that does no harm twice."""
    import obstore

    retry = Retry()
    while True:
        try:
            return request()
        except obstore.exceptions.GenericError as error:
            retry.wait(error)
