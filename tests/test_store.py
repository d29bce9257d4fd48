"""What a store promises, on a disk and in buckets of each kind; then what only one of them does."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from conftest import nobody, unavailable
from contest import winners
from faults import Proxy, Response, s3_error
from s3 import environment
from seaweed import BUCKET, KMS_KEY, Server

from fruitpipe.config import S3Config
from fruitpipe.errors import UserError
from fruitpipe.objects import Forbidden
from fruitpipe.objects.bucket import LARGE, MOST_DELETED
from fruitpipe.objects.file import BUFFER
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore, Store, Upload, open_store
from fruitpipe.storage.tree import TEMPORARY, Tree

# A limit on the size of files gives the error that a full disk gives.
FULL_DISK = """
import resource, signal, sys
from fruitpipe.storage.store import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    LocalStore(sys.argv[1]).put("a.bin", bytes(100_000))
except OSError as error:
    print(error)
"""
COUNT = """
import sys
from fruitpipe.config import S3Config
from fruitpipe.storage.store import open_store
store = open_store(sys.argv[1], S3Config.model_validate_json(sys.argv[2]))
for _ in range(20):
    while not store.swap("count", was := store.get("count"), str(int(was) + 1).encode()):
        pass
"""


@pytest.fixture
def prefix() -> str:
    return f"store/{uuid4().hex}"


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    made = LocalStore(str(tmp_path / "out"))
    made.create()
    return made


@pytest.fixture(params=["disk", "s3", *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("gs", "az"))])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty one of each kind."""
    if request.param == "disk":
        return cast(Store, request.getfixturevalue("local"))
    prefix, server = request.getfixturevalue("prefix"), request.getfixturevalue(request.param)
    if request.param == "s3":
        return in_bucket(prefix, server)
    made = open_store(f"{request.param}://{BUCKET}/{prefix}")
    made.create()
    return made


def in_bucket(prefix: str, s3: S3Config, **settings: Any) -> Store:
    made = open_store(f"s3://{BUCKET}/{prefix}", s3.model_copy(update=settings))
    made.create()
    return made


def names(store: Store) -> set[str]:
    return {name for name, _ in store.names("")} - {".lock"}


def test_what_was_put_is_found(store: Store) -> None:
    store.put("a/b/c.bin", b"content")
    assert store.get("a/b/c.bin") == store.find("a/b/c.bin") == b"content"
    with store.open("a/b/c.bin") as file:
        assert file.read(3) == b"con"
        file.seek(-2, os.SEEK_END)
        assert file.read() == b"nt"
        file.seek(3)
        assert file.read(2) == b"te"
        assert file.read() == b"nt"
    store.put("a/b/c.bin", memoryview(b"new"))
    assert store.get("a/b/c.bin") == b"new"
    store.put("a/b/c.bin", b"")
    assert store.get("a/b/c.bin") == b""


@pytest.mark.parametrize("size", [0, 1, BUFFER, 3 * BUFFER + 1])
def test_a_file_of_any_size_is_read_from_its_end_and_from_its_beginning(store: Store, size: int) -> None:
    content = random.Random(size).randbytes(size)
    store.put("file", content)
    with store.open("file") as file:
        assert file.seek(-min(size, 8), os.SEEK_END) == max(size - 8, 0)
        assert file.read() == content[-8:]
        assert file.seek(0, os.SEEK_END) == size
        file.seek(0)
        assert file.read() == content


def test_what_was_not_put_is_not_found(store: Store) -> None:
    assert store.find("nothing") is None
    for ask in (store.get, store.open):
        with pytest.raises(FileNotFoundError):
            ask("nothing")


def test_a_put_that_fails_leaves_the_old_object_and_nothing_else(store: Store) -> None:
    store.put("a.bin", b"old")
    with pytest.raises(TypeError):
        store.put("a.bin", "no bytes")  # type: ignore[arg-type]
    assert store.get("a.bin") == b"old"
    assert names(store) == {"a.bin"}


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


@pytest.mark.slow
@pytest.mark.parametrize("expected", [None, b"old"])
@pytest.mark.parametrize("same", [False, True], ids=["different data", "same data"])
def test_of_threads_that_swap_at_once_exactly_one_wins(store: Store, expected: bytes | None, same: bool) -> None:
    rounds = 20 if isinstance(store, LocalStore) else 1 if store.url.startswith("s3:") else 5
    for round_ in range(rounds):
        data = [b"same" if same else str(number).encode() for number in range(8)]
        (won,) = winners(store, f"round{round_}", expected, data)
        assert store.get(f"round{round_}") == won


def test_processes_that_count_with_swap_lose_no_count(store: Store, s3: S3Config) -> None:
    store.put("count", b"0")
    command = [sys.executable, "-c", COUNT, store.url, s3.model_dump_json()]
    counting = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in counting] == [0, 0]
    assert store.get("count") == b"40"


@pytest.mark.parametrize("name", ["x", "a/x", "a/b/c/x"])
def test_deleting_what_is_not_there_is_no_error(store: Store, name: str) -> None:
    store.put("a/y", b"1")
    store.delete(name)
    assert names(store) == {"a/y"}


def test_what_was_deleted_is_gone_and_the_rest_stays(store: Store) -> None:
    for name in ("a/b/c/x", "a/b/c/xx", "a/y"):
        store.put(name, b"1")
    store.delete("a/b/c/x")
    assert names(store) == {"a/b/c/xx", "a/y"}


def test_of_many_those_that_were_there_are_gone_and_the_rest_stays(store: Store) -> None:
    for name in ("a/x", "a/b/x & <y>", "a/b/100%20é", "a/y"):
        store.put(name, b"1")
    store.delete_all([])
    store.delete_all(iter(["a/x", "a/none", "a/b/x & <y>", "a/b/100%20é"]))
    assert names(store) == {"a/y"}


def test_a_thousand_objects_are_deleted_with_one_request(proxy: Proxy, s3: S3Config, prefix: str) -> None:
    """None but two of them are there, which is no error, and makes no difference."""
    store = in_bucket(prefix, s3, endpoint=proxy.endpoint)
    many = [f"work/part-{number}.npz" for number in range(2 * MOST_DELETED + 1)]
    for name in (many[0], many[-1], "other"):
        store.put(name, b"1")
    before, asked = len(proxy.log), []
    store.delete_all(many, lambda: asked.append(len(proxy.log) - before))
    assert [each.method for each in proxy.log[before:]] == ["POST"] * 3
    assert asked == [0, 1, 2]
    assert names(store) == {"other"}

    def stop() -> None:
        raise UserError("somebody else writes")

    with pytest.raises(UserError, match="somebody else"):
        store.delete_all(["other"], stop)
    assert names(store) == {"other"}


def test_one_of_many_that_may_not_be_deleted_is_told_as_alone(s3: S3Config, server: Server, prefix: str) -> None:
    store = in_bucket(prefix, s3)
    for name in ("a/x", "b/y"):
        store.put(name, b"1")
    reader = server.identities["reader"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(server, reader).items():
            patch.setenv(name, value)
        localhost = s3.model_copy(update={"endpoint": str(s3.endpoint).replace("127.0.0.1", "localhost")})
        unable = open_store(store.url, localhost)  # by a connection of its own
        with pytest.raises(Forbidden) as alone:
            unable.delete("a/x")
        with pytest.raises(Forbidden) as among:
            unable.delete_all(["a/x", "b/y"])
    assert str(among.value) == str(alone.value)
    assert names(store) == {"a/x", "b/y"}


def test_names_lists_objects_below_a_folder_with_their_sizes(store: Store) -> None:
    store.put("a/x", b"1")
    store.put("a/b/y", b"22")
    store.put("ab/z", b"333")
    assert dict(store.names("a")) == {"a/x": 1, "a/b/y": 2}
    assert dict(store.names("")) == {"a/x": 1, "a/b/y": 2, "ab/z": 3}
    assert dict(store.names("nothing")) == {}


def test_folders_are_sorted_and_right_below(store: Store) -> None:
    for name in ("r/b/x", "r/a/deep/x", "r/file", "rr/c/x"):
        store.put(name, b"")
    assert store.folders("r") == ["a", "b"]
    assert store.folders("nothing") == []


def test_upload_moves_a_local_file(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    store.upload(local, "a/b")
    assert store.get("a/b") == b"content"
    assert not local.exists()


def test_a_file_that_is_moved_is_on_the_disk_before_it_has_its_name(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, synced, sync = tmp_path / "local", set(), os.fsync
    file.write_bytes(b"content")

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    number = file.stat().st_ino
    local.upload(file, "a/b")
    assert number in synced
    assert (local.root / "a/b").stat().st_ino == number


def test_a_copy_is_the_same_object_under_another_name_and_stays_when_the_first_goes(store: Store) -> None:
    store.put("a/é +%.parquet", b"content")
    store.put("b", b"old")
    for name in ("b", "b", "c/d/e"):
        store.copy("a/é +%.parquet", name)
        assert store.get(name) == b"content"
    store.put("a/é +%.parquet", b"another")
    store.delete("a/é +%.parquet")
    assert [store.get(name) for name in ("b", "c/d/e")] == [b"content"] * 2
    assert names(store) == {"b", "c/d/e"}
    with pytest.raises(FileNotFoundError):
        store.copy("nothing", "f")
    assert names(store) == {"b", "c/d/e"}


def test_on_disk_a_copy_takes_no_room(local: LocalStore) -> None:
    local.put("a", b"content")
    local.copy("a", "b/c")
    assert (local.root / "a").samefile(local.root / "b/c")
    (local.root / "link").symlink_to("a")
    for name, to in (("link", "d"), ("a", "link/d"), ("../a", "d"), ("a", "../d")):
        with pytest.raises((UserError, NotADirectoryError)):
            local.copy(name, to)
    local.copy("a", "link")
    assert not (local.root / "link").is_symlink()
    assert names(local) == {"a", "b/c", "link"}


def test_where_the_system_refuses_a_further_name_a_copy_is_one(public_folder: Path) -> None:
    """Linux keeps users from naming files that they may not write to."""
    if os.geteuid() or Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1":
        unavailable("needs root, and fs.protected_hardlinks")
    store = LocalStore(str(public_folder))
    store.put("a", b"content")
    store.root.chmod(0o777)
    with nobody():
        store.copy("a", "b")
    assert store.get("b") == b"content"
    assert (store.root / "a").stat().st_nlink == 1


def test_in_a_bucket_a_copy_is_the_stores_own_work_unless_there_is_no_right_to_that(
    proxy: Proxy, s3: S3Config, prefix: str
) -> None:
    store = in_bucket(prefix, s3, endpoint=proxy.endpoint)
    store.put("x", bytes(1 << 20))
    before = len(proxy.log)
    store.copy("x", "y")
    assert [each.method for each in proxy.log[before:]] == ["HEAD", "PUT", "HEAD"]

    def refuse(method: str, path: str, headers: dict[str, str]) -> Response | None:
        return s3_error(403, "AccessDenied") if "x-amz-copy-source" in headers else None

    proxy.rewrite = refuse
    store.copy("x", "z")
    assert proxy.injected["rewritten"] == 1
    proxy.calm()
    assert store.get("y") == store.get("z") == bytes(1 << 20)


def test_a_store_pickles(store: Store) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"


def test_a_location_is_what_other_programs_take(local: Store, s3: S3Config) -> None:
    local.put("a/b", b"content")
    assert Path(local.location("a/b")).read_bytes() == b"content"
    assert in_bucket("top/", s3).location("a/b") == f"s3://{BUCKET}/top/a/b"
    assert in_bucket("", s3).location("a/b") == f"s3://{BUCKET}/a/b"


def test_a_put_on_a_full_disk_leaves_the_old_object_and_no_temporary(local: Store) -> None:
    local.put("a.bin", b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, local.url], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert local.get("a.bin") == b"old"
    assert names(local) == {"a.bin"}


def test_delete_removes_the_folders_that_it_empties_but_not_the_root(local: LocalStore) -> None:
    local.put("a/b/c/x", b"1")
    local.put("a/y", b"2")
    local.delete("a/b/c/x")
    assert not (local.root / "a" / "b").exists()
    local.delete("a/y")
    assert list(local.root.iterdir()) == []


def test_names_shows_the_temporary_files_of_interrupted_puts(local: LocalStore) -> None:
    local.put("a/x", b"1")
    (local.root / "a" / f".x.1234{TEMPORARY}").write_bytes(b"half")
    assert dict(local.names("a")) == {"a/x": 1, f"a/.x.1234{TEMPORARY}": 4}
    assert local.uploads() == []


def test_names_passes_over_what_vanishes_while_it_lists(local: LocalStore) -> None:
    """As temporary files do when another process' put ends."""
    for name in "abc":
        local.put(f"x/{name}", b"1")
    listing = local.names("x")
    first, _ = next(listing)
    for name in {"x/a", "x/b", "x/c"} - {first}:
        local.delete(name)
    assert list(listing) == []


def test_a_place_that_cannot_be_made_is_a_user_error_of_one_line(tmp_path: Path, s3: S3Config) -> None:
    (tmp_path / "file").write_bytes(b"")
    for url in (tmp_path / "file", tmp_path / "file" / "out", "s3://no-such-bucket/out"):
        with pytest.raises(UserError) as caught:
            open_store(str(url), s3).create()
        assert str(url).removeprefix("s3://").partition("/")[0] in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("prefix", ["a//out", "/out", "out//", "a/../out", "./out", "a\tb", "a\nb/out"])
def test_a_prefix_that_could_not_be_written_to_is_refused_before_anything_is(prefix: str, s3: S3Config) -> None:
    with pytest.raises(UserError, match="cannot write to") as caught:
        in_bucket(prefix, s3)
    assert len(str(caught.value).splitlines()) == 1


def test_a_prefix_may_have_any_other_name(s3: S3Config, prefix: str) -> None:
    for name in ("with space", "100%", "%20#?", "é🍎", "..a.", ".hidden", "*[x]", "a+b&c=d"):
        store = in_bucket(f"{prefix}/{name}", s3)
        store.put("x/y", name.encode())
        assert store.get("x/y") == name.encode()
        assert names(store) == {"x/y"}
        assert store.folders("") == ["x"]


def test_stores_say_whether_they_swap_in_one_step(store: Store) -> None:
    assert store.swaps("a/.scratch")
    assert names(store) == set()


@pytest.mark.parametrize("condition", ["if-none-match", "if-match"])
def test_a_store_that_passes_over_a_condition_does_not_swap(
    proxy: Proxy, s3: S3Config, admin: Any, prefix: str, condition: str
) -> None:
    def fulfil(method: str, path: str, headers: dict[str, str]) -> Response | None:
        """A condition that is made true is none."""
        if method == "PUT" and condition in headers:
            where = {"Bucket": BUCKET, "Key": path.removeprefix(f"/{BUCKET}/")}
            if condition == "if-match":
                admin.put_object(**where, Body=b"1")
            else:
                admin.delete_object(**where)
        return None

    proxy.rewrite = fulfil
    store = in_bucket(prefix, s3, endpoint=proxy.endpoint)
    assert not store.swaps("a/.scratch")
    assert names(store) == set()


@pytest.mark.parametrize("bytes_more", [-1, 0, 6 << 20])
def test_large_files_are_uploaded_in_parts_and_none_is_left(
    s3: S3Config, admin: Any, prefix: str, tmp_path: Path, bytes_more: int
) -> None:
    data = hashlib.shake_128(prefix.encode()).digest(LARGE + bytes_more)
    (tmp_path / "large").write_bytes(data)
    store = in_bucket(prefix, s3)
    store.upload(tmp_path / "large", "large")
    assert store.get("large") == data
    _, _, parts = admin.head_object(Bucket=BUCKET, Key=f"{prefix}/large")["ETag"].strip('"').partition("-")
    assert parts == (str(-(-len(data) // (5 << 20))) if bytes_more >= 0 else "")
    assert not admin.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads")


def test_uploads_that_have_not_ended_are_listed_and_each_is_aborted_alone(
    s3: S3Config, admin: Any, prefix: str
) -> None:
    store = in_bucket(prefix, s3)
    store.put("whole", b"1")
    begun = {}
    for key in (f"{prefix}/features/a", f"{prefix}/theirs", f"{prefix}-of-others/c"):
        begun[key] = admin.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        admin.upload_part(Bucket=BUCKET, Key=key, UploadId=begun[key], PartNumber=1, Body=b"half")
    ours, theirs = (Upload(name, begun[f"{prefix}/{name}"]) for name in ("features/a", "theirs"))
    assert store.uploads() == [ours, theirs]
    store.abort(ours)
    store.abort(ours)
    assert store.uploads() == [theirs]
    left = admin.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)["Uploads"]
    for each in left:
        admin.abort_multipart_upload(Bucket=BUCKET, Key=each["Key"], UploadId=each["UploadId"])
    assert {each["Key"] for each in left} == {f"{prefix}/theirs", f"{prefix}-of-others/c"}
    assert names(store) == {"whole"}


@pytest.fixture(params=["put", "swap", "upload", "copy"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The ways into a store; each returns what it wrote."""

    def write_by(store: Store) -> bytes:
        data = b"content"
        match request.param:
            case "put":
                store.put("x", data)
            case "swap":
                assert store.swap("x", None, data)
            case "copy":
                store.put("first", data)
                store.copy("first", "x")
            case "upload":
                data = bytes(LARGE)
                (tmp_path / "large").write_bytes(data)
                store.upload(tmp_path / "large", "x")
        return data

    return write_by


def test_tags_arrive(write: Any, s3: S3Config, admin: Any, prefix: str) -> None:
    write(in_bucket(prefix, s3, tags={"team": "fruit & veg", "cost/centre": "1=2"}))
    tags = admin.get_object_tagging(Bucket=BUCKET, Key=f"{prefix}/x")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "fruit & veg", "cost/centre": "1=2"}


@pytest.mark.parametrize("settings", [{"encryption": "AES256"}, {"encryption": "aws:kms", "kms_key": KMS_KEY}])
def test_what_is_written_is_encrypted_as_told(
    write: Any, s3: S3Config, admin: Any, prefix: str, settings: dict[str, str]
) -> None:
    data = write(store := in_bucket(prefix, s3, **settings))
    head = admin.head_object(Bucket=BUCKET, Key=f"{prefix}/x")
    assert head["ServerSideEncryption"] == settings["encryption"]
    assert ("SSEKMSKeyId" in head) == ("kms_key" in settings)
    assert store.get("x") == data


def test_the_server_is_given_a_checksum(write: Any, s3: S3Config, admin: Any, prefix: str) -> None:
    data = write(in_bucket(prefix, s3, checksum="sha256"))
    given = admin.head_object(Bucket=BUCKET, Key=f"{prefix}/x", ChecksumMode="ENABLED")["ChecksumSHA256"]
    blocks = [data[start : start + (5 << 20)] for start in range(0, len(data), 5 << 20)]
    digests = [hashlib.sha256(block).digest() for block in blocks]
    in_parts = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode() + f"-{len(blocks)}"
    assert given == (in_parts if len(blocks) > 1 else base64.b64encode(digests[0]).decode())


def test_every_request_says_that_the_requester_pays(proxy: Proxy, s3: S3Config, prefix: str) -> None:
    asked: list[tuple[str, str | None]] = []

    def note(method: str, path: str, headers: dict[str, str]) -> None:
        if path != f"/{BUCKET}":  # whether the bucket is there costs nothing
            asked.append((f"{method} {path}", headers.get("x-amz-request-payer")))

    proxy.rewrite = note
    store = in_bucket(prefix, s3, endpoint=proxy.endpoint, requester_pays=True)
    store.put("x", b"1")
    assert store.swap("x", b"1", b"2")
    assert store.get("x") == store.open("x").read() == b"2"
    assert store.find("a name\twith a tab") is None
    store.copy("x", "y")
    store.delete("y")
    assert names(store) == {"x"}
    assert store.folders("") == []
    store.delete("x")
    assert len(asked) >= 9
    assert {payer for _, payer in asked} == {"requester"}, asked


WRITES: dict[str, tuple[Callable[[Store], bool | None], list[str], tuple[bytes | None, bytes | None]]] = {
    "put": (lambda store: store.put("x", b"new"), ["PUT", "PUT"], (b"new", None)),
    "copy": (lambda store: store.copy("x", "y"), ["HEAD", "PUT", "PUT", "HEAD"], (b"old", b"old")),
    "delete": (lambda store: store.delete("x"), ["POST", "POST"], (None, None)),
    "swap": (lambda store: store.swap("x", b"old", b"new"), ["GET", "PUT", "PUT", "GET"], (b"new", None)),
    "create": (lambda store: store.swap("y", None, b"new"), ["GET", "PUT", "PUT", "GET"], (b"old", b"new")),
}
"""What to do, the requests that it takes where the first that writes is lost, and what x and y are then."""


@pytest.mark.parametrize("name", WRITES)
def test_a_write_whose_connection_is_reset_is_repeated(proxy: Proxy, s3: S3Config, prefix: str, name: str) -> None:
    act, requests, left = WRITES[name]
    store = in_bucket(prefix, s3, endpoint=proxy.endpoint)
    store.put("x", b"old")
    before = len(proxy.log)

    def arm(method: str, *_: object) -> None:
        """For the request that comes next: the fault of this one has been chosen."""
        proxy.reset = int(method in {"GET", "HEAD"} and not proxy.injected)

    proxy.reset, proxy.rewrite = int(requests[0] not in {"GET", "HEAD"}), arm
    assert act(store) in {None, True}
    assert [request.method for request in proxy.log[before:]] == requests
    assert proxy.injected == {"reset": 1}
    assert (store.find("x"), store.find("y")) == left


def test_broken_connections_change_no_answer(proxy: Proxy, s3: S3Config, prefix: str) -> None:
    """Among them those whose request was carried out, and was refused when it came again."""
    store, count = in_bucket(prefix, s3, endpoint=proxy.endpoint), 8
    proxy.reset, proxy.truncated = 0.2, 0.2
    for number in range(count):
        name, last = f"r/{number}/x", str(number).encode()
        assert store.find(name) is None
        assert store.swap(name, None, b"first")
        assert not store.swap(name, None, b"other")
        assert store.swap(name, b"first", last)
        assert store.get(name) == last
    assert store.folders("r") == sorted(map(str, range(count)))
    assert len(names(store)) == count
    for number in range(count):
        store.delete(f"r/{number}/x")
    assert names(store) == set()
    assert set(proxy.injected) == {"reset", "truncated"}


@pytest.mark.parametrize("name", ["file", "loop", "file/below", 256 * "a"])
def test_a_place_where_no_folder_can_be_is_told_to_whoever_reads_or_writes(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    store = LocalStore(str(tmp_path / name))
    for use in (store.create, lambda: store.find(layout.MARKER), lambda: store.put(layout.MARKER, b"")):
        with pytest.raises(UserError, match=r"cannot (use|write to) .*\. Choose another"):
            use()


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_size) or fsync(file))  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "replace", lambda *a, **k: done.append("replace") or replace(*a, **k))  # type: ignore[func-returns-value]
    Tree(tmp_path / "out").write("a/b", lambda file: file.write(b"12345"))
    assert done == [5, "replace"]
