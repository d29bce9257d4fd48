"""What becomes of an image that gives no feature: a status and the reason."""

from __future__ import annotations

from fruitpipe.redaction import without_secrets

OK = "ok"
TRANSIENT = ("missing", "forbidden", "unreadable", "changed")
"""Statuses of images whose bytes could not be had; another time they may."""
PERMANENT = ("undecodable", "too_large", "too_slow", "rejected")
"""Statuses of images that stay bad until their bytes or the config change; `rejected` by the backbone."""
STATUSES = (OK, *TRANSIENT, *PERMANENT)
RETRIED = (*TRANSIENT, "too_large", "rejected")
"""Statuses of images that a run tries again unless told otherwise: `too_large` depends on the limits in the config and
costs no inference to check again, `rejected` on a user's code."""
REPLACED = "changed between listing and reading: run again"
"""What is said of an image that is no longer the one that was listed."""


class BadImage(Exception):
    """Raised for an image that cannot become a feature, with a status of TRANSIENT or PERMANENT."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(without_secrets(message))
        self.status = status

    def kept(self) -> BadImage:
        """The same, to be kept: its traceback would keep all that its callers hold, such as the bytes of images."""
        self.__context__ = self.__cause__ = None
        return self.with_traceback(None)


class OutOfMemory(BadImage):
    """Raised where memory does not suffice to decode an image; `unreadable`, as it may another time."""

    def __init__(self) -> None:
        super().__init__("unreadable", "not enough memory to decode it")
