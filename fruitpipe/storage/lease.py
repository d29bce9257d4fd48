"""One writer at a time: a small object that says who is writing, renewed while they live."""

from __future__ import annotations

import os
import socket
import threading
import time
from types import TracebackType

import psutil
from pydantic import BaseModel, ValidationError

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store

LIFETIME = 60.0
"""Seconds after which a lease that nobody renewed may be taken over."""


class Lease:
    """Hold a result for writing, as a context manager.

    A lease is given up at once if its process on this machine is gone, and after LIFETIME if it was on another.
    Raises UserError where somebody else holds it, FruitpipeError where the block fails and the lease was lost in it.
    """

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._me = Document(
            purpose=purpose,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            renewed=0.0,
        )
        self._held: bytes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        current = self._store.find(layout.LEASE)
        if current is not None and (holder := holder_of(current)):
            raise UserError(
                f"{holder.purpose} (process {holder.pid} on {holder.host}) is writing to {self._store.url}: "
                "wait for it to end, or choose another output."
            )
        fresh = self._document()
        if not self._store.swap(layout.LEASE, current, fresh):
            raise UserError(f"another process has just begun to write to {self._store.url}: wait for it to end.")
        self._held = fresh
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if not self._store.swap(layout.LEASE, self._held, None) and isinstance(error, Exception):
            raise self._lost() from error  # whoever took over may have cleared away what the block needed

    def require_held(self) -> None:
        """Raise FruitpipeError if the lease was lost, as after the machine slept for longer than LIFETIME."""
        current = self._store.find(layout.LEASE)
        holder = read(current) if current else None  # also one that lapsed, as in an outage: nobody took it
        if holder is None or holder.model_copy(update={"renewed": 0.0}) != self._me:
            raise self._lost()

    def _lost(self) -> FruitpipeError:
        return FruitpipeError(f"another process took over {self._store.url} while this one stood still. Run again.")

    def _document(self) -> bytes:
        return self._me.model_copy(update={"renewed": time.time()}).model_dump_json().encode()

    def _keep(self) -> None:
        while not self._stop.wait(LIFETIME / 4):
            fresh = self._document()
            try:
                renewed = self._store.swap(layout.LEASE, self._held, fresh)
            except (OSError, FruitpipeError):
                continue  # a full disk or a slow network, maybe for a moment: `require_held` has the last word
            if not renewed:
                return
            self._held = fresh


class Document(BaseModel):
    """Content of a lease: who holds it and when it was last renewed."""

    purpose: str
    host: str
    pid: int
    process_started: float
    renewed: float


def read(document: bytes) -> Document | None:
    """What a lease says, or None if that is nothing."""
    try:
        return Document.model_validate_json(document)
    except ValidationError:
        return None


def holder_of(document: bytes) -> Document | None:
    """Who holds a lease, or None if it lapsed or says nothing."""
    lease = read(document)
    if lease is None or time.time() - lease.renewed > LIFETIME:
        return None
    if lease.host == socket.gethostname() and not lives(lease.pid, lease.process_started):
        return None
    return lease


def lives(pid: int, started: float) -> bool:
    """Whether a process of this machine still runs; its number may have been given to another since."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
