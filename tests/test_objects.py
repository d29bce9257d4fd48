"""Buckets: strange keys, long listings, files of ranges, lost connections, and processes that fork."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import Proxy, Response, s3_error
from hypothesis import given, settings
from hypothesis import strategies as st
from s3 import environment
from seaweed import BUCKET, Server

from fruitpipe.config import S3Config
from fruitpipe.objects import Bucket, Changed, Forbidden, list_pages, listing, open_bucket
from fruitpipe.objects.file import BUFFER

REFUSED = ("two\nlines", "tab\t", "\x01", "\x7f", "\r")
"""By obstore, and read by botocore instead."""
STRANGE = (
    "with space", " ", "#1", "100%", "%20", "a+b", "a&b", "a=b", "naïve", "日本", "🍎", "e\u0301", "\u200b", "'quote\"",
    "back\\slash", "~", "*?[x]", "{y}", "<z>", "^`|", "-rf", "--help", "a;b|c&d", "$HOME", "..", "...", ".hidden",
    "a//b", "x" * 250, *REFUSED,
)  # fmt: skip
TREE = "tree"
FLAT = 2_100


@pytest.fixture(scope="module")
def bucket(s3: S3Config) -> Bucket:
    return open_bucket(f"s3://{BUCKET}", s3)


@pytest.fixture
def through(proxy: Proxy, s3: S3Config) -> Bucket:
    """The bucket `tree`, through the proxy."""
    return open_bucket(f"s3://{TREE}", s3.model_copy(update={"endpoint": proxy.endpoint}))


@pytest.fixture(scope="module")
def tree(admin: Any, s3: S3Config) -> Bucket:
    """Folders before and after a flat one that is longer than two pages, with objects between them."""
    admin.create_bucket(Bucket=TREE)
    keys = [f"flat/{number:05}.jpg" for number in range(FLAT)]
    keys += [f"{folder}{number:02}/{name}" for folder in "az" for number in range(15) for name in ("1", "deep/er/2")]
    keys += ["0.jpg", "flat.jpg", "flat/02050/inner.jpg", "n.jpg", "z07.jpg", "zz.jpg"]
    made = open_bucket(f"s3://{TREE}", s3)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: made.put(key, key.encode()), keys))
    return made


def by_botocore(admin: Any, name: str, prefix: str) -> list[tuple[str, int, str]]:
    """Sorted, as S3 does and SeaweedFS does not."""
    pages = admin.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
    found = [one for page in pages for one in page.get("Contents", [])]
    return sorted((one["Key"], one["Size"], one["ETag"].strip('"')) for one in found)


def rows(pages: Iterator[pa.RecordBatch]) -> list[tuple[str, int, str]]:
    return sorted(tuple(row.values()) for page in pages for row in page.to_pylist())


def test_strange_keys_are_listed_as_botocore_lists_them_and_read_with_their_bytes(admin: Any, bucket: Bucket) -> None:
    for name in STRANGE:
        admin.put_object(Bucket=BUCKET, Key=f"strange/{name}.jpg", Body=name.encode())
    found = rows(bucket.pages("strange"))
    assert found == by_botocore(admin, BUCKET, "strange/")
    assert len(found) == len(STRANGE)
    content = {key: bytes(bucket.get(key, etag).data) for key, _, etag in found}
    assert sorted(content.values()) == sorted(name.encode() for name in STRANGE)
    # SeaweedFS has one key for a/b, a//b and a\b; of all others, keys and bytes are of one object.
    assert {key for key in content if content[key].decode() not in key} == {"strange/a/b.jpg", "strange/back/slash.jpg"}
    assert {key: bucket.open(key).read() for key in content} == content


@pytest.mark.parametrize("name", [name for name in STRANGE if name.strip(".") and not re.search(r"//|\\", name)])
def test_below_a_strange_folder_is_what_is_in_it(admin: Any, bucket: Bucket, name: str) -> None:
    keys = [f"folders/{name}/1.jpg", f"folders/{name}/a/2.jpg"]
    for key in (*keys, f"folders/{name}-not/3.jpg"):
        admin.put_object(Bucket=BUCKET, Key=key, Body=b"")
    assert bucket.has_any(f"folders/{name}")
    assert [key for key, _, _ in rows(bucket.pages(f"folders/{name}"))] == keys
    assert [key for key, _, _ in rows(bucket.pages(f"folders/{name}", keys[0]))] == keys[1:]


@pytest.mark.parametrize("prefix", ["", "flat", "a03", "nothing"])
@pytest.mark.parametrize("alone", [1, 2, 3, 10])
def test_a_listing_is_whole_however_it_is_split(
    admin: Any, tree: Bucket, prefix: str, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ALONE", alone)
    assert rows(list_pages(tree, prefix)) == by_botocore(admin, TREE, f"{prefix}/" if prefix else "")


def test_a_listing_that_is_split_has_keys_that_obstore_refuses(
    admin: Any, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ALONE", 0)
    keys = ["split/a/b/1.jpg", "split/a/two\nlines.jpg", "split/tab\t/x.jpg", "split/tab\t1.jpg", "split/z.jpg"]
    for key in keys:
        admin.put_object(Bucket=BUCKET, Key=key, Body=b"")
    assert [key for key, _, _ in rows(list_pages(bucket, "split"))] == keys


def lists(proxy: Proxy) -> list[dict[str, list[str]]]:
    """The lists that were asked for."""
    asked = [parse_qs(urlsplit(request.path).query) for request in proxy.log if request.method == "GET"]
    return [query for query in asked if "list-type" in query]


@pytest.mark.parametrize(("prefix", "requests"), [("flat", 3), ("", 1 + 3), ("a03", 1), ("nothing", 1 + 1)])
@pytest.mark.usefixtures("tree")
def test_a_list_is_asked_for_once_for_a_thousand_keys(
    proxy: Proxy, through: Bucket, prefix: str, requests: int
) -> None:
    """And of a whole bucket once more, for keys that begin with a slash; so where a page ends, as with none."""
    list(list_pages(through, prefix))
    assert len(lists(proxy)) == requests


@pytest.mark.usefixtures("tree")
def test_a_long_listing_asks_once_more_for_each_folder(
    proxy: Proxy, through: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ALONE", 1)
    list(list_pages(through, ""))
    slashes, one_page, folders, rest_of_flat, those_after_it = 1, 1, 1, 2, 15
    assert len(lists(proxy)) == slashes + one_page + folders + rest_of_flat + those_after_it


def result(*folders: str) -> Response:
    prefixes = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
    return Response(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{prefixes}</ListBucketResult>".encode())


@pytest.mark.parametrize(
    ("prefix", "folders"),
    [
        pytest.param("", [f"z{number:02}/" for number in range(15)], id="not of the last key's own, as Ceph"),
        pytest.param("", ["flat/02050/", *(f"z{number:02}/" for number in range(15))], id="within it, as SeaweedFS"),
        pytest.param("", ["/", "flat/"], id="of one without a name at the root"),
        pytest.param("flat", ["flat//", "flat/02050/"], id="of one without a name"),
    ],
)
@pytest.mark.usefixtures("tree")
def test_a_listing_is_whole_whatever_a_store_says_of_folders(
    admin: Any, proxy: Proxy, through: Bucket, prefix: str, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ALONE", 1)
    proxy.rewrite = lambda _, path, __: result(*folders) if "delimiter=" in path else None
    at_root = {"n.jpg", "flat.jpg", "z07.jpg", "zz.jpg"}  # which this answer has not
    found = rows(list_pages(through, prefix))
    assert proxy.injected == {"rewritten": 1}
    expected = by_botocore(admin, TREE, f"{prefix}/" if prefix else "")
    assert [row for row in found if row[0] not in at_root] == [row for row in expected if row[0] not in at_root]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("page", [1, 2])
def test_a_page_that_failed_with_status_200_is_not_the_end_of_a_list(
    admin: Any, proxy: Proxy, through: Bucket, page: int
) -> None:
    pages = iter(range(1, 100))
    error = s3_error(200, "InternalError")
    proxy.rewrite = lambda _, path, __: error if "list-type" in path and next(pages) == page else None
    assert rows(list_pages(through, "flat")) == by_botocore(admin, TREE, "flat/")
    assert proxy.injected == {"rewritten": 1}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "truncated", "slow_down"])
def test_a_listing_survives_broken_connections(
    admin: Any, tree: Bucket, proxy: Proxy, through: Bucket, fault: str
) -> None:
    setattr(proxy, fault, 0.4)
    for prefix in ("flat", "", "a03"):
        assert rows(list_pages(through, prefix)) == by_botocore(admin, TREE, f"{prefix}/" if prefix else "")
    assert proxy.injected[fault] > 0


@pytest.mark.parametrize("key", ["versions/x", "versions/tab\t"])
def test_an_object_that_is_not_the_one_listed_has_changed(bucket: Bucket, admin: Any, key: str) -> None:
    old, new = (admin.put_object(Bucket=BUCKET, Key=key, Body=body)["ETag"].strip('"') for body in (b"old", b"new"))
    assert bytes(bucket.get(key, new).data) == bytes(bucket.get(key).data) == b"new"
    with pytest.raises(Changed):
        bucket.get(key, old)
    with pytest.raises(FileNotFoundError):
        bucket.get(f"{key}-not", new)


@pytest.mark.parametrize("key", ["large/x", "large/tab\t"])
def test_an_object_that_is_not_admitted_is_not_read(admin: Any, s3: S3Config, proxy: Proxy, key: str) -> None:
    sizes: list[int] = []

    def refuse(size: int) -> NoReturn:
        raise OverflowError(size)

    admin.put_object(Bucket=BUCKET, Key=key, Body=bytes(8 << 20))
    bucket = open_bucket(f"s3://{BUCKET}", s3.model_copy(update={"endpoint": proxy.endpoint}))
    assert len(bucket.get(key, None, sizes.append).data) == sizes[0] == 8 << 20
    proxy.truncated = 1  # whoever reads, has to ask again
    asked = len(proxy.log)
    with pytest.raises(OverflowError, match=str(8 << 20)):
        bucket.get(key, None, refuse)
    assert len(proxy.log) == asked + 1


@pytest.mark.parametrize("where", ["variables", "file"])
def test_what_may_not_be_read_with_the_keys_of_this_moment_is_forbidden(
    server: Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """The same process has used the bucket with those of somebody who may, as a notebook has before they expire."""
    file = tmp_path / "credentials"
    for who, expected in (("admin", FileNotFoundError), ("lister", Forbidden)):
        access, secret = server.identities[who].access_key, server.identities[who].secret_key
        if where == "variables":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        else:
            file.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
            monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        for key in ("forbidden/x", "forbidden/tab\t"):
            with pytest.raises(expected):
                bucket.get(key)


CONTENT = bytes(range(256)) * (5 * BUFFER // 512) + b"an odd end"


@pytest.fixture(scope="module")
def content(bucket: Bucket) -> bytes:
    bucket.put("file/content", CONTENT)
    return CONTENT


position = st.integers(0, len(CONTENT) + 10) | st.sampled_from([0, BUFFER - 1, BUFFER, BUFFER + 1, len(CONTENT)])
step = st.tuples(st.just("seek"), st.tuples(position, st.just(io.SEEK_SET)))
step |= st.tuples(st.just("seek"), st.tuples(position.map(lambda to: -to), st.just(io.SEEK_END)))
step |= st.tuples(st.just("read"), st.tuples(st.integers(-1, 3 * BUFFER)))
step |= st.tuples(st.just("tell"), st.just(()))


@settings(max_examples=40)
@given(st.lists(step, max_size=12))
def test_an_object_reads_as_a_file(bucket: Bucket, content: bytes, steps: list[tuple[str, tuple[int, ...]]]) -> None:
    with bucket.open("file/content") as file, io.BytesIO(content) as expected:
        for name, arguments in steps:
            assert getattr(file, name)(*arguments) == getattr(expected, name)(*arguments)


def test_a_parquet_file_is_read_by_its_ranges(admin: Any, s3: S3Config, proxy: Proxy) -> None:
    table = pa.table({"number": range(100_000), "text": [f"{number:>50}" for number in range(100_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000, compression="none", use_dictionary=False)
    admin.put_object(Bucket=BUCKET, Key="file/table.parquet", Body=sink.getvalue().to_pybytes())
    bucket = open_bucket(f"s3://{BUCKET}", s3.model_copy(update={"endpoint": proxy.endpoint}))
    asked = len(proxy.log)
    file = pq.ParquetFile(bucket.open("file/table.parquet"))
    assert [request.status for request in proxy.log[asked:]] == [206], "its end, with its size"
    assert file.read_row_group(3).equals(table.slice(30_000, 10_000))
    assert file.read().equals(table)


def test_a_bucket_pickles_without_keys(server: Server, bucket: Bucket) -> None:
    bucket.put("pickle/x", b"content")
    pickled = pickle.dumps(bucket)
    assert pickle.loads(pickled) == bucket
    assert bytes(pickle.loads(pickled).get("pickle/x").data) == b"content"
    assert server.identities["admin"].secret_key.encode() not in pickled


IDLE = """
import os, sys
import fruitpipe.pipeline.run, fruitpipe.source, fruitpipe.spark.cluster, fruitpipe.storage.store
import fruitpipe.tasks.featurize, fruitpipe.tasks.reduce
threads = [open(f"/proc/self/task/{number}/comm").read().strip() for number in os.listdir("/proc/self/task")]
print("obstore" in sys.modules, "botocore" in sys.modules, [name for name in threads if "tokio" in name])
"""
FORK = """
import os, signal, sys
from fruitpipe.config import S3Config
from fruitpipe.errors import UserError
from fruitpipe.objects import open_bucket
def say(what):
    os.write(1, f"{what}\\n".encode())  # at once: print may write text and end apart, and the other come between
url, s3, before = sys.argv[1], S3Config.model_validate_json(sys.argv[2]), sys.argv[3] == "used"
bucket = open_bucket(url, s3)
if before:
    bucket.put("fork/x", b"content")
child = os.fork()
if child == 0:
    signal.alarm(60)
try:
    bucket.put("fork/x", b"content")
    say(bytes(bucket.get("fork/x").data).decode())
except UserError as error:
    say(error)
if child == 0:
    os._exit(0)
say(os.waitpid(child, 0)[1])
"""


def python(code: str, *arguments: str) -> list[str]:
    """The lines that a program of its own prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout.splitlines()


def test_imports_start_no_client() -> None:
    assert python(IDLE) == ["False False []"]


def test_a_process_that_has_used_a_bucket_says_so_to_its_forks(bucket: Bucket) -> None:
    lines = python(FORK, bucket.url, bucket.place.s3.model_dump_json(), "used")
    assert sorted(lines)[:2] == ["0", "content"]
    assert [line for line in lines if "forked" in line and "spawn" in line] == sorted(lines)[2:]


def test_parent_and_child_use_a_bucket_each_after_the_fork(bucket: Bucket) -> None:
    assert sorted(python(FORK, bucket.url, bucket.place.s3.model_dump_json(), "unused")) == ["0", "content", "content"]


def test_spark_s_workers_have_clients_of_their_own_and_their_parent_none(
    server: Server, bucket: Bucket, spark: Any, tmp_path: Path
) -> None:
    bucket.put("spark/x", b"content")
    keys = environment(server, server.identities["admin"])

    def task(number: int, _: Any) -> Iterator[tuple[bytes, int, int, str, bool]]:
        import os
        import time
        from pathlib import Path

        (tmp_path / str(number)).touch()
        while len(list(tmp_path.iterdir())) < 2:  # both at once, so that there are two workers
            time.sleep(0.01)
        os.environ.update({name: value for name, value in keys.items() if name.startswith("AWS_")})
        daemon = Path("/proc", str(os.getppid()))
        found = bytes(bucket.get("spark/x").data)
        loaded = "obstore" in (daemon / "maps").read_text()
        yield found, os.getpid(), os.getppid(), (daemon / "cmdline").read_text(), loaded

    answers = spark.sparkContext.parallelize(range(2), 2).mapPartitionsWithIndex(task).collect()
    found, workers, daemons, commands, loaded = (set(column) for column in zip(*answers, strict=True))
    assert found == {b"content"}
    assert len(workers) == 2
    assert len(daemons) == 1
    assert os.getpid() not in workers | daemons
    assert all("pyspark.daemon" in command for command in commands)
    assert loaded == {False}
