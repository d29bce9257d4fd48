"""What the pods of a release say: driver and executors in one, with pod and time."""

from __future__ import annotations

import gzip
import heapq
import io
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from shlex import quote
from time import monotonic
from typing import NamedTuple

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.observation import COMPONENT, CONTAINER, RELEASE
from fruitpipe.releases.plain import Plain, dig
from fruitpipe.result.runs import require_result, run_ids
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store

MOST_LINES = 1_000_000
"""Of a log that is kept: it may have been made by somebody else."""
LOOK = 2.0
"""Seconds between looks for further pods."""


class Line(NamedTuple):
    """A line of a pod; lines sort by time."""

    time: str
    """as Kubernetes writes it, UTC"""
    pod: str
    text: str

    def __str__(self) -> str:
        return f"{self.time[:19]}Z {self.pod}  {self.text}"


def pods_of(connection: Connection, name: str, executor: str | None = None) -> list[Plain]:
    """A release's driver and executors: no executors where `executor` is None, all, or the one of that number."""
    found = connection.pods(f"{RELEASE}={name},{COMPONENT} in (driver,executor)")
    return [pod for pod in found if is_wanted(pod, executor)]


def is_wanted(pod: Plain, executor: str | None) -> bool:
    labels = dig(pod, "metadata", "labels", default={})
    return labels[COMPONENT] == "driver" or executor in {"all", labels.get("spark-exec-id", "")}


def lines_of(connection: Connection, pod: Plain, follow: bool = False, last: int | None = None) -> Iterator[Line]:
    """Lines of one pod in their order, of Spark's container; the last ones only, where it says how many."""
    name, role = str(pod["metadata"]["name"]), pod["metadata"]["labels"][COMPONENT]
    for raw in connection.log(name, f"{CONTAINER}{role}", follow, last):
        time, _, text = raw.decode(errors="replace").partition(" ")
        yield Line(time, name, text)


def lines_of_neighbours(connection: Connection, driver: str, most: int) -> Iterator[Line]:
    """What a driver and its executors have said until now, by time; of each the last lines, `most` in all."""
    own = connection.pods(name=driver)
    name = dig(own, 0, "metadata", "labels", RELEASE)
    pods = pods_of(connection, name, "all") if name else []
    yield from heapq.merge(*(lines_of(connection, pod, last=most // len(pods)) for pod in pods))


def lines_until_now(connection: Connection, name: str, executor: str | None = None) -> Iterator[Line]:
    """What the pods there are have said, by time."""
    yield from heapq.merge(*(lines_of(connection, pod) for pod in pods_of(connection, name, executor)))


def kept_lines(stores: Sequence[Store], run_id: str | None = None) -> Iterator[str]:
    """What a run has said, as it lies beside its manifest; where none is named, that of the newest that has a log.

    stores: of one result or, where there are several backbones, of each.

    Raises UserError where there is nothing of it.
    """
    for store in stores:
        require_result(store)
    asked = [(name, store) for store in stores for name in ([run_id] if run_id else run_ids(store))]
    newest = sorted(asked, key=lambda each: each[0], reverse=True)
    logs = ((name, store, store.find(layout.log(name))) for name, store in newest if layout.is_run(name))
    found = next(((name, store, data) for name, store, data in logs if data is not None), None)
    if found is None:
        of = f"log of run {run_id}" if run_id else "run with a log"
        places = ", ".join(store.url for store in stores)
        raise UserError(f"no {of} in {places}: `fruitpipe runs {quote(stores[0].url)}` lists its runs.")
    chosen, store, kept = found
    with gzip.open(io.BytesIO(kept), "rt", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines):
                if number < MOST_LINES:
                    yield line.rstrip("\n")
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"the log of run {chosen} in {store.url} is damaged.") from error


def lines_as_they_come(
    connection: Connection, name: str, executor: str | None, ended: Callable[[], bool]
) -> Iterator[Line]:
    """What pods have said and say, of further ones too, until `ended` says that there will be no more.

    Raises FruitpipeError where the cluster is gone, or ends what is read amid it.
    """
    said: queue.Queue[Line | FruitpipeError | None] = queue.Queue()
    known: set[str] = set()
    open_logs = 0

    def read(pod: Plain) -> None:
        try:
            for line in lines_of(connection, pod, follow=True):
                said.put(line)
        except FruitpipeError as error:
            said.put(error)
        finally:
            said.put(None)

    while True:
        over = ended()
        for pod in pods_of(connection, name, executor):
            key = str(pod["metadata"]["uid"])
            if key not in known and dig(pod, "status", "phase") != "Pending":
                known.add(key)
                open_logs += 1
                threading.Thread(target=read, args=(pod,), daemon=True).start()
        if over and not open_logs:
            return
        look = monotonic() + LOOK
        with suppress(queue.Empty):
            while (left := look - monotonic()) > 0:
                line = said.get(timeout=left)
                if isinstance(line, FruitpipeError):
                    raise line
                if line is None:
                    open_logs -= 1
                else:
                    yield line
