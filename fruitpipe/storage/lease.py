"""One writer at a time: a small object that says who is writing, renewed while they live.

Nobody's clock is compared with another's, and no host name is trusted. Whoever finds a lease knows of a process of the
same machine and PID namespace whether it lives. Of any other, it sees whether the lease is renewed while it waits.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
from pydantic import BaseModel, ValidationError

from fruitpipe import streams
from fruitpipe.errors import FruitpipeError, UserError, in_words
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store, not_writable

LIFETIME = 60.0
"""Seconds after which a lease that nobody renewed may be taken over."""
ENDED = -1


def to_standard_error(line: str) -> None:
    streams.say(line, sys.stderr)


class Lease:
    """Hold a result for writing, as a context manager.

    A lease is taken over at once if its process on this machine is gone, and else once it was watched for LIFETIME and
    not renewed. Raises UserError where somebody else holds it or the place cannot be written to, FruitpipeError where
    its disk is full, or the block fails and the lease was lost in it.

    note: told for whom it waits.
    patient: wait until nobody else holds it instead of raising UserError.
    """

    def __init__(
        self, store: Store, purpose: str, note: Callable[[str], None] = to_standard_error, patient: bool = False
    ) -> None:
        self._store, self._note, self._patient = store, note, patient
        self._told = -math.inf
        """when it was last said for whom this one waits"""
        pid = os.getpid()
        self._me = Document(
            purpose=purpose,
            token=secrets.token_hex(16),
            host=socket.gethostname(),
            pid=pid,
            place=place(),
            started=started(pid),
            process_started=psutil.Process().create_time(),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._wait_for_it()
            self._thread.start()
        except KeyboardInterrupt:  # perhaps right after it was taken: in a notebook, the process lives on
            self._give_up()
            raise
        return self

    def _wait_for_it(self) -> None:
        while holder := self._asked():
            if not self._patient:
                raise UserError(
                    f"{holder} is writing to {self._store.url}: wait for it to end, or choose another output."
                )
            if time.monotonic() - self._told >= LIFETIME:
                self._told = time.monotonic()
                self._note(f"{holder} is writing to {self._store.url}: waiting for it to end")
            time.sleep(LIFETIME / 60)

    def _asked(self) -> str | None:
        """As `_take`. Raises FruitpipeError where nobody can write there."""
        try:
            return self._take()
        except OSError as error:
            raise not_writable(self._store.url, error) from error

    def _take(self) -> str | None:
        """Take the lease, if nobody holds it; else say who does."""
        current = self._store.find(layout.LEASE)
        if current is not None and (holder := read(current)):
            alive = lives(holder)
            found = self._watch(current, holder) if alive is None else current
            if alive or (found and found != current):
                return str(read(found or current) or holder)
            current = found
        if self._store.swap(layout.LEASE, current, self._renewed()):
            return None
        return "another process, which has just begun,"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._give_up() and isinstance(error, Exception):
            raise self._lost() from error  # whoever took over may have cleared away what the block needed

    def _give_up(self) -> bool:
        """Let it go; whether it was still this one, as far as that can be told."""
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
        try:
            if current := self._mine():
                self._store.swap(layout.LEASE, current, None)
        except (OSError, FruitpipeError) as failure:  # what the block has done, or why it failed, counts
            self._note(f"could not give up {layout.LEASE}, which lapses by itself: {in_words(failure)}")
            return True
        return current is not None

    def require_held(self) -> None:
        """Raise FruitpipeError if the lease was lost, as after the machine slept for longer than LIFETIME."""
        if not self._mine():
            raise self._lost()

    def _lost(self) -> FruitpipeError:
        return FruitpipeError(f"another process took over {self._store.url} while this one stood still. Run again.")

    def _watch(self, current: bytes, holder: Document) -> bytes | None:
        """The lease once it is renewed, or as it is after LIFETIME; None where it is given up meanwhile."""
        if self._told == -math.inf:
            self._note(f"waiting for up to {LIFETIME:.0f} s to see whether {holder} still writes to {self._store.url}")
        end = time.monotonic() + LIFETIME
        while True:
            last = time.monotonic() >= end
            found = self._store.find(layout.LEASE)
            if last or found != current:
                return found
            time.sleep(LIFETIME / 60)

    def _mine(self) -> bytes | None:
        """The lease as it is, where it is still this one."""
        current = self._store.find(layout.LEASE)
        holder = read(current) if current else None
        return current if holder and holder.token == self._me.token else None

    def _renewed(self) -> bytes:
        self._me = self._me.model_copy(update={"renewals": self._me.renewals + 1, "renewed": time.time()})
        return self._me.model_dump_json().encode()

    def _keep(self) -> None:
        while not self._stop.wait(LIFETIME / 4):
            try:
                if not (current := self._mine()):
                    return
                self._store.swap(layout.LEASE, current, self._renewed())
            except (OSError, FruitpipeError):
                continue  # a full disk or a slow network, maybe for a moment: `require_held` has the last word


class Document(BaseModel):
    """Content of a lease: who holds it, and how often it was renewed."""

    purpose: str
    host: str
    """for people"""
    pid: int
    token: str = ""
    """random; that of an earlier version has none"""
    place: str | None = None
    """as `place` has it"""
    started: int | None = None
    """as `started` has it"""
    renewals: int = 0
    process_started: float = 0.0
    """wall clock, as earlier versions compare it"""
    renewed: float = 0.0
    """likewise"""

    def __str__(self) -> str:
        return f"{self.purpose} (process {self.pid} on {self.host})"


def read(document: bytes) -> Document | None:
    """Who holds a lease, or None if it says nothing."""
    try:
        return Document.model_validate_json(document)
    except ValidationError:
        return None


def lives(holder: Document) -> bool | None:
    """Whether a process still runs; None where that cannot be told from here."""
    if holder.place is None or holder.started is None or holder.place != place():
        return None
    found = started(holder.pid)
    if found is None and psutil.pid_exists(holder.pid):  # hidden from us, as by `hidepid`
        return None
    return found == holder.started


def place() -> str | None:
    """Where numbers of processes mean what they mean here: a boot of a machine, and a PID namespace. Linux only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None where none is seen, ENDED for a zombie.

    Fields 3 and 22 of proc_pid_stat(5), after the name, which may hold anything.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] in {b"Z", b"X"} else int(fields[19])
