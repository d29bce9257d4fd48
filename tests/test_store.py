from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fruitpipe.errors import UserError
from fruitpipe.store import TEMPORARY, LocalStore, Store

# A limit on the size of files gives the error that a full disk gives.
FULL_DISK = """
import resource, signal, sys
from fruitpipe.store import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    LocalStore(sys.argv[1]).put("a.bin", bytes(100_000))
except OSError as error:
    print(error)
"""
COUNT = """
import sys
from fruitpipe.store import LocalStore
store = LocalStore(sys.argv[1])
for _ in range(50):
    while not store.swap("count", was := store.get("count"), str(int(was) + 1).encode()):
        pass
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = LocalStore(str(tmp_path / "out"))
    made.prepare()
    return made


def files(store: Store) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()} - {".lock"}


def test_what_was_put_is_found(store: Store) -> None:
    store.put("a/b/c.bin", b"content")
    assert store.get("a/b/c.bin") == store.find("a/b/c.bin") == b"content"
    with store.open("a/b/c.bin") as file:
        file.seek(3)
        assert file.read() == b"tent"
    assert Path(store.location("a/b/c.bin")).read_bytes() == b"content"
    store.put("a/b/c.bin", memoryview(b"new"))
    assert store.get("a/b/c.bin") == b"new"


def test_what_was_not_put_is_not_found(store: Store) -> None:
    assert store.find("nothing") is None
    for ask in (store.get, store.open):
        with pytest.raises(FileNotFoundError):
            ask("nothing")


def test_a_put_that_fails_leaves_the_old_object_and_no_temporary(store: Store) -> None:
    store.put("a.bin", b"old")
    with pytest.raises(TypeError):
        store.put("a.bin", "no bytes")  # type: ignore[arg-type]
    assert store.get("a.bin") == b"old"
    assert files(store) == {"a.bin"}


def test_a_put_on_a_full_disk_leaves_the_old_object_and_no_temporary(store: Store) -> None:
    store.put("a.bin", b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, store.url], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert store.get("a.bin") == b"old"
    assert files(store) == {"a.bin"}


def test_readers_see_the_old_object_or_the_new_one_and_nothing_else(store: Store) -> None:
    versions = {bytes([letter]) * 200_000 for letter in b"abcdefgh"}
    store.put("a.bin", b"a" * 200_000)
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.get("a.bin"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        for version in versions:
            store.put("a.bin", version)
    stop.set()
    reader.join()
    assert seen <= versions
    assert len(seen) > 1


def test_swap_puts_only_over_what_is_expected(store: Store) -> None:
    assert not store.swap("x", b"old", b"new")
    assert store.find("x") is None
    assert store.swap("x", None, b"first")
    assert not store.swap("x", None, b"second")
    assert not store.swap("x", b"other", b"second")
    assert store.get("x") == b"first"
    assert store.swap("x", b"first", b"second")
    assert store.get("x") == b"second"
    assert not store.swap("x", b"first", None)
    assert store.swap("x", b"second", None)
    assert store.find("x") is None
    assert store.swap("x", None, None)


def test_of_threads_that_swap_at_once_exactly_one_wins(store: Store) -> None:
    contenders = 8
    for round_ in range(20):
        name, barrier, won = f"round{round_}", threading.Barrier(contenders), []

        def contend(number: int, name: str = name, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            barrier.wait()
            if store.swap(name, None, str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=contend, args=(number,)) for number in range(contenders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get(name) == str(won[0]).encode()


def test_processes_that_count_with_swap_lose_no_count(store: Store) -> None:
    store.put("count", b"0")
    counting = [subprocess.Popen([sys.executable, "-c", COUNT, store.url]) for _ in range(2)]
    assert [process.wait() for process in counting] == [0, 0]
    assert store.get("count") == b"100"


def test_delete_removes_the_folders_that_it_empties_but_not_the_root(store: Store) -> None:
    store.put("a/b/c/x", b"1")
    store.put("a/y", b"2")
    store.delete("a/b/c/x")
    assert not (store.root / "a" / "b").exists()
    assert files(store) == {"a/y"}
    store.delete("a/y")
    assert store.root.is_dir()
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "a/x", "a/b/c/x"])
def test_deleting_what_is_not_there_is_no_error(store: Store, name: str) -> None:
    store.delete(name)
    assert store.root.is_dir()


def test_names_lists_objects_below_a_folder_with_their_sizes(store: Store) -> None:
    store.put("a/x", b"1")
    store.put("a/b/y", b"22")
    store.put("ab/z", b"333")
    leftover = store.root / "a" / f".x.1234{TEMPORARY}"
    leftover.write_bytes(b"half")
    assert dict(store.names("a")) == {"a/x": 1, "a/b/y": 2, f"a/.x.1234{TEMPORARY}": 4}
    assert dict(store.names("nothing")) == {}


def test_names_passes_over_what_vanishes_while_it_lists(store: Store) -> None:
    """As temporary files do when another process' put ends."""
    for name in "abc":
        store.put(f"x/{name}", b"1")
    listing = store.names("x")
    first, _ = next(listing)
    for name in {"x/a", "x/b", "x/c"} - {first}:
        store.delete(name)
    assert list(listing) == []


def test_folders_are_sorted_and_right_below(store: Store) -> None:
    for name in ("r/b/x", "r/a/deep/x", "r/file"):
        store.put(name, b"")
    assert store.folders("r") == ["a", "b"]
    assert store.folders("nothing") == []


def test_upload_moves_a_local_file(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    store.upload(local, "a/b")
    assert store.get("a/b") == b"content"
    assert not local.exists()


def test_a_store_pickles(store: Store) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"


def test_a_folder_that_cannot_be_made_is_a_user_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for url in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError) as caught:
            LocalStore(str(url)).prepare()
        assert str(url) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
