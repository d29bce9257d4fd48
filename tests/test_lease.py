from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import Mock

import psutil
import pytest

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.storage import layout
from fruitpipe.storage import lease as leases
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import Store

HOLDER = """
import sys, time
from fruitpipe.storage import lease
from fruitpipe.storage.store import LocalStore
if len(sys.argv) > 2:
    lease.place = lambda: sys.argv[2]
    lease.LIFETIME = 0.4
lease.Lease(LocalStore(sys.argv[1]), "run elsewhere").__enter__()
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def holding(store: Store, *place: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lease; of another machine or PID namespace where one is given."""
    command = [sys.executable, "-c", HOLDER, store.url, *place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    with holding(store) as process:
        yield process


def refusal(store: Store) -> str:
    with pytest.raises(UserError) as caught, Lease(store, "second", pytest.fail):
        pass
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def put(store: Store, **changes: object) -> bytes:
    """Write a lease as somebody else would, from a real one."""
    with Lease(store, "run of somebody"):
        document = json.loads(store.get(layout.LEASE))
    data = json.dumps(document | changes).encode()
    store.put(layout.LEASE, data)
    return data


def test_a_lease_is_there_while_it_is_held_and_gone_after(store: Store) -> None:
    with Lease(store, "first") as lease:
        assert json.loads(store.get(layout.LEASE))["pid"] == os.getpid()
        lease.require_held()
    assert store.find(layout.LEASE) is None
    with Lease(store, "again"):
        pass


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (errno.EROFS, 2, "cannot write to {url}: Read-only file system. Have it made writable"),
        (errno.EACCES, 2, "cannot write to {url}: Permission denied. Have it made writable"),
        (errno.ENOSPC, 1, "the disk of {url} is full: make room there"),
        (errno.EDQUOT, 1, "the disk of {url} is full: make room there"),
    ],
)
def test_a_place_that_takes_no_files_is_told_with_what_to_do(
    number: int, code: int, told: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store), "put", Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(FruitpipeError) as caught, Lease(store, "first"):
        pytest.fail("it is held")
    assert str(caught.value).startswith(told.format(url=store.url))
    assert caught.value.exit_code == code


def test_it_is_given_up_when_its_block_fails(store: Store) -> None:
    with pytest.raises(KeyError), Lease(store, "first"):
        raise KeyError
    assert store.find(layout.LEASE) is None


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), FruitpipeError("S3 does not answer.")])
@pytest.mark.parametrize("fails", [True, False])
def test_where_it_cannot_be_given_up_its_block_has_the_last_word(
    error: Exception, fails: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published is so, and why a run failed is said."""
    notes: list[str] = []
    with pytest.raises(ValueError, match="of its own") if fails else nullcontext(), Lease(store, "run", notes.append):
        monkeypatch.setattr(store, "find", Mock(side_effect=error))
        if fails:
            raise ValueError("of its own")
    (note,) = notes
    assert note.startswith("could not give up lease.json, which lapses by itself: ")
    assert str(error.args[-1]).rstrip(".") in note


def test_ctrl_c_while_it_is_taken_leaves_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, the process lives on."""
    swap = store.swap

    def interrupted(*what: object) -> bool:
        monkeypatch.setattr(store, "swap", swap)
        assert swap(*what)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "swap", interrupted)
    with pytest.raises(KeyboardInterrupt), Lease(store, "run"):
        pytest.fail("it was interrupted before")
    assert store.find(layout.LEASE) is None


def test_a_second_holder_is_refused_and_told_of_the_first(store: Store) -> None:
    with Lease(store, "run one") as lease:
        message = refusal(store)
        lease.require_held()
    assert f"run one (process {os.getpid()} on " in message
    assert store.url in message


def test_the_lease_of_a_living_process_is_refused(store: Store, holder: subprocess.Popen[str]) -> None:
    assert f"run elsewhere (process {holder.pid} on " in refusal(store)


def test_the_lease_of_a_dead_process_is_taken_over_at_once(store: Store, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert json.loads(store.get(layout.LEASE))["pid"] == holder.pid
    with Lease(store, "heir") as lease:
        lease.require_held()


def test_the_lease_of_a_dead_process_that_nobody_waits_for_is_taken_over_at_once(
    store: Store, holder: subprocess.Popen[str]
) -> None:
    """A zombie, as killed processes stay in containers whose first process reaps nobody."""
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with Lease(store, "heir") as lease:
        lease.require_held()


def test_the_lease_of_a_process_whose_number_was_given_away_is_taken_over(store: Store) -> None:
    put(store, started=1)
    with Lease(store, "heir", pytest.fail) as lease:
        lease.require_held()


ELSEWHERE = [
    pytest.param({"place": "another machine pid:[4026531836]"}, id="another machine"),
    pytest.param({"place": f"{leases.place()} pid:[1]"}, id="another PID namespace of a machine with the same name"),
    pytest.param({"place": None, "started": None}, id="no Linux"),
    pytest.param({"token": "", "place": None, "started": None, "renewed": time.time()}, id="an earlier version"),
    pytest.param({"place": "another machine", "renewed": time.time() + 1e6}, id="a clock that is ahead"),
]


@pytest.mark.parametrize("facts", ELSEWHERE)
def test_the_lease_of_a_process_elsewhere_is_taken_over_when_nobody_renews_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]
) -> None:
    """Not before it was watched, whoever has its number here, under the same host name."""
    monkeypatch.setattr(leases, "LIFETIME", 0.5)
    theirs = put(store, pid=1, **facts)
    said, seen = [], []

    def note(line: str) -> None:
        said.append(line)
        seen.append(store.get(layout.LEASE))

    with Lease(store, "heir", note) as lease:
        lease.require_held()
    assert seen == [theirs]
    (line,) = said
    assert line.startswith("waiting for up to ")
    assert line.endswith(
        f"to see whether run of somebody (process 1 on {socket.gethostname()}) still writes to {store.url}"
    )


@pytest.mark.parametrize("clock", [0, 61, -61])
def test_the_lease_of_a_process_elsewhere_is_refused_while_it_is_renewed(
    store: Store, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """Whatever its clock says."""
    monkeypatch.setattr(time, "time", lambda now=time.time: now() - clock)
    monkeypatch.setattr(leases, "LIFETIME", 20)
    said: list[str] = []
    with holding(store, "another machine") as process:
        with pytest.raises(UserError, match=f"run elsewhere .process {process.pid} on .* is writing to"):
            Lease(store, "second", said.append).__enter__()
        assert len(said) == 1


@pytest.mark.parametrize("place", [[], ["another machine"]])
def test_who_is_patient_waits_for_a_live_holder_and_says_so_every_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch, place: list[str]
) -> None:
    monkeypatch.setattr(leases, "LIFETIME", 5 if place else 0.6)  # renewed by a process that may be slow
    said: list[str] = []
    with holding(store, *place) as process:

        def note(line: str) -> None:
            said.append(line)
            if len(said) == 3:
                process.kill()
                process.wait()

        with Lease(store, "second", note, patient=True) as lease:
            lease.require_held()
    holder = f"run elsewhere (process {process.pid} on {socket.gethostname()})"
    told = f"{holder} is writing to {store.url}: waiting for it to end"
    assert [line for line in said if not line.startswith("waiting for up to ")] == [told] * (3 - len(place))


def test_a_lease_that_is_given_up_while_it_is_watched_is_free(store: Store) -> None:
    put(store, place="another machine")
    with Lease(store, "heir", lambda line: store.delete(layout.LEASE)) as lease:
        lease.require_held()


def test_a_lease_survives_a_clock_that_is_set(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil reckons when a process started from the clock."""
    with Lease(store, "first") as lease:
        create_time = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 2)
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + 1000)
        lease.require_held()
        assert "first (process" in refusal(store)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_lease_that_says_nothing_is_taken_over(store: Store, data: bytes) -> None:
    store.put(layout.LEASE, data)
    with Lease(store, "heir") as lease:
        lease.require_held()


def test_who_lost_the_lease_is_told_and_leaves_the_others_alone(store: Store) -> None:
    with Lease(store, "first") as lease:
        theirs = json.dumps(json.loads(store.get(layout.LEASE)) | {"token": "another"}).encode()
        store.put(layout.LEASE, theirs)
        with pytest.raises(FruitpipeError, match="took over") as caught:
            lease.require_held()
        assert len(str(caught.value).splitlines()) == 1
    assert store.get(layout.LEASE) == theirs


def test_a_lease_that_lapsed_in_an_outage_and_that_nobody_took_is_held(store: Store) -> None:
    with Lease(store, "first") as lease:
        document = json.loads(store.get(layout.LEASE))
        store.put(layout.LEASE, json.dumps(document | {"renewed": document["renewed"] - 3600}).encode())
        lease.require_held()


def test_a_lease_that_vanished_is_lost(store: Store) -> None:
    with Lease(store, "first") as lease:
        store.delete(layout.LEASE)
        with pytest.raises(FruitpipeError, match="took over"):
            lease.require_held()


def test_it_is_renewed_while_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LIFETIME", 0.2)
    with Lease(store, "first") as lease:
        first = store.get(layout.LEASE)
        for _ in range(2000):
            time.sleep(0.01)
            if store.get(layout.LEASE) != first:
                break
        else:
            pytest.fail("never renewed")
        lease.require_held()
    assert store.find(layout.LEASE) is None


def test_of_threads_that_want_a_lease_at_once_exactly_one_gets_it(store: Store) -> None:
    barrier, got, refused = threading.Barrier(6), [], []

    def want() -> None:
        barrier.wait()
        try:
            with Lease(store, "thread") as lease:
                got.append(lease)
                done.wait()
        except UserError as error:
            refused.append(error)

    done = threading.Event()
    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(refused) + len(got) < 6:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
