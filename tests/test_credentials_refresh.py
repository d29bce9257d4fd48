"""Credentials that end while they are used, from each place that gives new ones; and that they stay where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, command, fruitpipe, one_line_error, process
from credentials import Endpoint
from faults import OWN, Proxy
from processes import wait
from s3 import environment, objects, options, upload
from seaweed import BUCKET, Identity, Server

from fruitpipe.config import Environment

pytestmark = pytest.mark.slow
KINDS = ("container", "web-identity", "instance")
LIFETIME = 20
"""Seconds of a session; those of AWS last for a quarter of an hour at least. obstore asks for others after five, so a
request may be fifteen late on a busy machine."""

USER = """
import sys, time
kind, endpoint, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if kind == "instance":
    # botocore stretches what an instance's keys say of their end by at least 17 minutes; no test can wait for that.
    import botocore.credentials
    botocore.credentials._DEFAULT_ADVISORY_REFRESH_TIMEOUT = -600
from fruitpipe.config import S3Config
from fruitpipe.objects import open_bucket
bucket = open_bucket("s3://photos", S3Config(endpoint=endpoint, allow_http=True))
if kind != "outage":
    import s3fs
    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint}, use_listings_cache=False)
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    key, data = f"refresh/{kind}/{count:03}", str(count).encode()
    bucket.put(key, data)
    assert bytes(bucket.get(key).data) == data
    assert bucket.open(key).read() == data
    assert sum(len(page) for page in bucket.pages(f"refresh/{kind}")) == count + 1
    if kind != "outage":
        assert list(bucket.uploads("refresh")) == []
        assert files.cat(f"photos/{key}") == data
    count += 1
    time.sleep(0.5)
print(count)
"""


class Lender(Endpoint):
    """Gives keys of an identity that end after LIFETIME, and others to those who ask a second later.

    It has its sessions from the start, and dates them anew: who asks waits for no other server.
    """

    def __init__(self, folder: Path, server: Server, identity: Identity) -> None:
        super().__init__(folder)
        self._server.socket.listen(100)  # a run's processes all ask when they start
        self._dated, self._lock = server.dated, threading.Lock()
        self._sessions = cycle(list(islice(server.sessions(identity), 3)))
        self._renewed = self._first_ends = 0.0
        self.given: list[Identity] = []

    def container(self, authorization: str) -> tuple[int, str]:
        self.renew()
        return super().container(authorization)

    def web_identity(self, form: dict[str, str]) -> tuple[int, str]:
        self.renew()
        return super().web_identity(form)

    def instance(self, path: str, token: str) -> tuple[int, str]:
        self.renew()
        return super().instance(path, token)

    def renew(self) -> None:
        with self._lock:
            if time.monotonic() - self._renewed > 1:
                self.given.append(self._dated(next(self._sessions), LIFETIME))
                self.give(self.given[-1], LIFETIME)
                self._renewed = time.monotonic()
                self._first_ends = self._first_ends or self._renewed + LIFETIME + 1

    @property
    def has_outlived(self) -> bool:
        """Whether keys that it has given have ended."""
        return 0 < self._first_ends < time.monotonic()


def borrowing(server: Server, lender: Endpoint, kind: str) -> dict[str, str]:
    """An environment whose only credentials are those of an endpoint, which may be slow while others run tests."""
    slow = {"AWS_METADATA_SERVICE_TIMEOUT": "10", "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "3"}
    return environment(server, None) | {"AWS_EC2_METADATA_DISABLED": "false"} | slow | lender.environment(kind)


def use(server: Server, lender: Endpoint, kind: str, seconds: int) -> subprocess.Popen[str]:
    """A process that writes and reads with credentials of an endpoint, and prints how often it did."""
    variables = borrowing(server, lender, "container" if kind == "outage" else kind)
    return subprocess.Popen(
        [sys.executable, "-c", USER, kind, server.endpoint, str(seconds)],
        env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class Used(NamedTuple):
    """What a process did, and what it complained of."""

    lender: Endpoint
    count: int
    errors: str


@pytest.fixture(scope="module")
def used(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Used]:
    """Processes that used each kind of credentials for over two lifetimes, all at one time: it is mostly waiting."""
    admin = server.identities["admin"]
    client = server.client(admin)
    with ExitStack() as stack:
        lenders: dict[str, Endpoint] = {kind: Lender(tmp_path_factory.mktemp(kind), server, admin) for kind in KINDS}
        lenders["outage"] = Endpoint(tmp_path_factory.mktemp("outage"))
        lenders["outage"].give(server.session(admin, 120), 300)
        processes = {}
        for kind, lender in lenders.items():
            stack.enter_context(lender)
            processes[kind] = use(server, lender, kind, 2 * LIFETIME + 2)
            stack.callback(processes[kind].kill)
        wait(lambda: objects(client, "refresh/outage/") or processes["outage"].poll() is not None)
        lenders["outage"].token = "another"  # so that it refuses, on connections that are open too
        ends = {kind: process.communicate(timeout=120) for kind, process in processes.items()}
        return {kind: Used(lenders[kind], int(output or 0), errors) for kind, (output, errors) in ends.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_reading_and_writing_go_on_when_credentials_end(kind: str, server: Server, used: dict[str, Used]) -> None:
    lender, count, errors = used[kind]
    assert count, errors
    assert not errors
    assert len(objects(server.client(server.identities["admin"]), f"refresh/{kind}/")) == count
    assert set(lender.requests) == {kind}
    assert lender.requests[kind] > 2
    assert isinstance(lender, Lender)
    assert not server.knows(lender.given[0])


def test_credentials_serve_to_their_end_if_who_gives_them_is_away(server: Server, used: dict[str, Used]) -> None:
    lender, count, errors = used["outage"]
    assert count, errors
    assert lender.requests["refused"]
    assert len(objects(server.client(server.identities["admin"]), "refresh/outage/")) == count


def secrets_of(identity: Identity) -> list[bytes]:
    found = [identity.secret_key, identity.token]
    return [text.encode() for each in found if each for text in {each, quote(each, safe="")}]


def text_of(name: str, data: bytes) -> bytes:
    """What is in an object; Parquet is compressed."""
    if not name.endswith(".parquet"):
        return data
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid:  # half written yet
        return data
    return repr(
        [table.schema.metadata, table.drop(["feature"] if "feature" in table.column_names else []).to_pylist()]
    ).encode()


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder that can still be read: others are writing and deleting there."""
    found = {}
    for parent, _, names in os.walk(folder):  # passes over folders that vanish, where rglob fails
        for path in (Path(parent, name) for name in names):
            with suppress(OSError):
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def leaks(found: dict[str, bytes], identities: list[Identity]) -> list[str]:
    secrets = [secret for identity in identities for secret in secrets_of(identity)]
    return [name for name, data in found.items() if any(secret in text_of(name, data) for secret in secrets)]


def test_leaks_are_found_where_they_are(server: Server, tmp_path: Path) -> None:
    """A test of the tests below."""
    admin = server.identities["admin"]
    pq.write_table(pa.table({"error": [f"cannot read with {admin.secret_key}"] * 50}), tmp_path / "one.parquet")
    (tmp_path / "two.log").write_text(f"key {admin.secret_key}")
    (tmp_path / "three.log").write_text(f"key {admin.access_key}")
    assert sorted(leaks(files_in(tmp_path), [admin])) == ["one.parquet", "two.log"]


IMAGES, OUT, VARIETIES = f"s3://{BUCKET}/refresh/images", f"s3://{BUCKET}/refresh/out", 5


@pytest.fixture(scope="module")
def images(server: Server, fruits: Path) -> None:
    """200 pictures in the bucket."""
    client = server.client(server.identities["admin"])
    for folder in sorted(fruits.iterdir())[:VARIETIES]:
        upload(client, folder, f"refresh/images/{folder.name}")


class Ran(NamedTuple):
    """A run on credentials that ended before it did."""

    done: subprocess.CompletedProcess[str]
    lender: Lender
    variables: dict[str, str]
    temporary: Path


@pytest.fixture(scope="module")
def ran(server: Server, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    temporary = tmp_path_factory.mktemp("temporary")
    with (
        Proxy(server.endpoint, latency=0.1) as proxy,
        Lender(tmp_path_factory.mktemp("lender"), server, server.identities["admin"]) as lender,
    ):
        proxy.rewrite = lambda _, path, __: None if lender.has_outlived or "/vectors" not in path else OWN["slow_down"]
        variables = borrowing(server, lender, "container")
        places = {"TMPDIR": str(temporary), "SPARK_LOCAL_DIRS": str(temporary)}
        settings = options(proxy.endpoint, BACKBONE)
        done = process("run", IMAGES, OUT, *settings, "--verbose", "--json", variables=variables | places)
        yield Ran(done, lender, variables, temporary)


def test_a_run_outlives_its_credentials(server: Server, ran: Ran) -> None:
    facts = json.loads(ran.done.stdout)
    assert (facts["images"], facts["failed"]) == (200, 0)
    assert set(ran.lender.requests) == {"container"}
    assert not server.knows(ran.lender.given[0])


def test_pandas_reads_vectors_with_the_same_credentials(server: Server, ran: Ran) -> None:
    """By way of s3fs, which asks the same endpoint."""
    program = "import sys, pandas; print(len(pandas.read_parquet(sys.argv[1])))"
    asked = ran.lender.requests["container"]
    done = subprocess.run(
        [sys.executable, "-c", program, json.loads(ran.done.stdout)["vectors"]],
        env=ran.variables | {"AWS_ENDPOINT_URL": server.endpoint}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "200\n", done.stderr
    assert ran.lender.requests["container"] > asked


def test_a_verbose_run_leaves_no_secret_anywhere(server: Server, ran: Ran) -> None:
    found = objects(server.client(server.identities["admin"]), "refresh/out/") | files_in(ran.temporary)
    assert any(name.endswith("manifest.json") for name in found)
    assert any(name.endswith("report.html") for name in found)
    found |= {"stdout": ran.done.stdout.encode(), "stderr": ran.done.stderr.encode()}
    assert leaks(found, ran.lender.given) == []


def test_keys_that_are_revoked_end_a_run_with_one_line_and_no_secret(
    server: Server, images: None, tmp_path: Path
) -> None:
    identity = Identity.new("temporary", ("Admin",))
    server.add(identity)
    client = server.client(server.identities["admin"])
    places = {"TMPDIR": str(tmp_path), "SPARK_LOCAL_DIRS": str(tmp_path)}
    out = f"s3://{BUCKET}/refresh/revoked"
    leaky: set[str] = set()
    logged, revoked = b"", False
    with Proxy(server.endpoint, latency=0.1) as proxy:
        running = subprocess.Popen(
            command("run", IMAGES, out, *options(proxy.endpoint, BACKBONE, "spark.master=local[1]")),
            env=environment(server, identity) | places, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while running.poll() is None:
                found = files_in(tmp_path)
                leaky.update(leaks(found, [identity]))
                logged = next((data for name, data in found.items() if name.endswith("spark.log")), logged)
                if not revoked and any(key.endswith(".parquet") for key in objects(client, "refresh/revoked/features")):
                    server.revoke(identity)
                    revoked = True
                time.sleep(0.2)
            output, errors = running.communicate()
        finally:
            running.kill()
            running.wait()
    assert running.returncode == 2, errors
    line = one_line_error(subprocess.CompletedProcess(running.args, 2, output, errors))
    assert "does not know the access key" in line
    found = objects(client, "refresh/revoked/")
    assert not [name for name in found if name.endswith(("latest.json", "manifest.json"))]
    assert logged, "Spark's log was seen"
    found |= files_in(tmp_path) | {"stdout": output.encode(), "stderr": errors.encode()}
    assert not leaky
    assert leaks(found, [identity]) == []


@pytest.mark.parametrize("place", ["home", "elsewhere"])
def test_keys_of_a_profile(place: str, server: Server, images: None, tmp_path: Path) -> None:
    guest = server.identities["guest"]
    keys = f"aws_access_key_id = {guest.access_key}\naws_secret_access_key = {guest.secret_key}\n"
    (tmp_path / ".aws").mkdir()
    file = tmp_path / (".aws/credentials" if place == "home" else "credentials")
    file.write_text(
        f"[default]\n{keys}" if place == "home" else f"[default]\n{keys.replace(guest.secret_key, 'x')}[guest]\n{keys}"
    )
    cache = str(Environment.read().cache)  # of converted backbones, else below that home
    variables = environment(server, None) | {"HOME": str(tmp_path), "FRUITPIPE_CACHE": cache}
    if place == "home":
        del variables["AWS_SHARED_CREDENTIALS_FILE"]
    else:
        variables |= {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "guest"}
    done = fruitpipe("plan", IMAGES, OUT, *options(server.endpoint, BACKBONE), "--json", variables=variables)
    assert json.loads(done.stdout)["images"] == 200
