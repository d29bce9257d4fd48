from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.storage import layout
from fruitpipe.storage import lease as leases
from fruitpipe.storage.lease import LIFETIME, Lease
from fruitpipe.storage.store import Store

HOLDER = """
import sys, time
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import LocalStore
Lease(LocalStore(sys.argv[1]), "run elsewhere").__enter__()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lease."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, store.url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refusal(store: Store) -> str:
    with pytest.raises(UserError) as caught, Lease(store, "second"):
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


def test_it_is_given_up_when_its_block_fails(store: Store) -> None:
    with pytest.raises(KeyError), Lease(store, "first"):
        raise KeyError
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
    put(store, process_started=1.0)
    with Lease(store, "heir") as lease:
        lease.require_held()


def test_the_lease_of_another_host_is_refused_while_it_is_fresh(store: Store) -> None:
    put(store, host="elsewhere", pid=1)
    assert "process 1 on elsewhere" in refusal(store)


def test_the_lease_of_another_host_is_taken_over_when_it_lapsed(store: Store) -> None:
    put(store, host="elsewhere", pid=1, renewed=time.time() - LIFETIME - 1)
    with Lease(store, "heir") as lease:
        lease.require_held()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_lease_that_says_nothing_is_taken_over(store: Store, data: bytes) -> None:
    store.put(layout.LEASE, data)
    with Lease(store, "heir") as lease:
        lease.require_held()


def test_who_lost_the_lease_is_told_and_leaves_the_others_alone(store: Store) -> None:
    with Lease(store, "first") as lease:
        theirs = json.dumps(json.loads(store.get(layout.LEASE)) | {"host": "elsewhere"}).encode()
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
