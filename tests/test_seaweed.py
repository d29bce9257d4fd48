"""What the S3 tests stand on: a real server, a network that fails as asked, and endpoints that give keys."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, CredentialRetrievalError
from botocore.session import Session
from credentials import Endpoint
from faults import Forwarded, Proxy, s3_error
from seaweed import BUCKET, KMS_KEY, Identity, Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("s3"), tls=True) as started:
        yield started


@pytest.fixture(scope="module")
def admin(server: Server) -> Any:
    return server.client(server.identities["admin"])


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint(tmp_path) as started:
        yield started


def put(client: Any, key: str, body: bytes = b"fruit", **options: str) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=body, **options)


def get(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def keys(client: Any, prefix: str) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def refused(action: Callable[..., object], *arguments: object, **options: object) -> str:
    """The code of S3's refusal."""
    with pytest.raises(ClientError) as caught:
        action(*arguments, **options)
    return str(caught.value.response["Error"]["Code"])


def test_identities_may_do_what_their_names_say(server: Server, admin: Any) -> None:
    reader, lister, guest = (server.client(server.identities[name]) for name in ("reader", "lister", "guest"))
    put(admin, "rights/one")
    assert get(reader, "rights/one") == get(guest, "rights/one") == b"fruit"
    assert keys(lister, "rights/") == keys(guest, "rights/") == ["rights/one"]
    assert refused(keys, reader, "rights/") == refused(get, lister, "rights/one") == "AccessDenied"
    assert refused(put, guest, "rights/two") == "AccessDenied"


def test_wrong_keys_are_refused_and_no_bucket_appears(server: Server, admin: Any) -> None:
    wrong = server.client(replace(server.identities["admin"], secret_key="guessed"))
    assert refused(keys, wrong, "") == "SignatureDoesNotMatch"
    assert refused(keys, server.client(Identity.new("stranger", ())), "") == "InvalidAccessKeyId"
    assert refused(admin.put_object, Bucket="other", Key="one", Body=b"") == "NoSuchBucket"


def test_secrets_are_in_one_private_file(server: Server) -> None:
    files = {path: path.read_text() for path in server.folder.iterdir() if path.is_file()}
    for identity in server.identities.values():
        assert [path.name for path, text in files.items() if identity.secret_key in text] == ["identities.json"]
    assert (server.folder / "identities.json").stat().st_mode & 0o777 == 0o600


def test_the_server_counts_requests_and_its_own_time(server: Server, admin: Any) -> None:
    before, used = server.requests(), server.cpu_seconds
    put(admin, "counted")
    for _ in range(50):
        get(admin, "counted")
    time.sleep(0.1)  # a request is counted after its answer
    assert server.requests() - before == {("PUT", BUCKET): 1, ("GET", BUCKET): 50}
    assert server.cpu_seconds > used


@pytest.mark.parametrize(
    "options", [{"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KMS_KEY}]
)
def test_encrypted_objects_are_not_on_the_disk(server: Server, admin: Any, options: dict[str, str]) -> None:
    open_body, hidden_body = token_bytes(500), token_bytes(500)
    put(admin, "open", open_body)
    put(admin, "hidden", hidden_body, **options)
    assert get(admin, "hidden") == hidden_body
    stored = b"".join(path.read_bytes() for path in server.folder.glob("data/*.dat"))
    assert open_body in stored
    assert hidden_body not in stored


def test_https_is_for_those_who_trust_the_private_ca(server: Server, admin: Any) -> None:
    put(admin, "over-tls")
    assert get(server.client(server.identities["admin"], server.https_endpoint), "over-tls") == b"fruit"
    with pytest.raises(ssl.SSLCertVerificationError):
        HTTPSConnection("127.0.0.1", server.ports["s3.port.https"]).request("GET", "/")


def test_one_of_many_writers_creates_an_object(server: Server) -> None:
    writers = [server.client(server.identities["admin"]) for _ in range(4)]

    def create(number: int) -> bool:
        with suppress(ClientError):
            put(writers[number], "created", str(number).encode(), IfNoneMatch="*")
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        created = [number for number, done in enumerate(pool.map(create, range(4))) if done]
    assert created == [int(get(writers[0], "created"))]


def test_keys_are_revoked_and_given_while_the_server_runs(server: Server, admin: Any) -> None:
    guest = server.identities["guest"]
    put(admin, "revoked")
    server.revoke(guest)
    assert refused(get, server.client(guest), "revoked") == "InvalidAccessKeyId"
    rotated = Identity.new("guest", guest.actions)
    server.add(rotated)
    assert get(server.client(rotated), "revoked") == b"fruit"
    assert refused(get, server.client(guest), "revoked") == "InvalidAccessKeyId"


def test_a_session_has_its_identitys_rights_until_it_expires(server: Server, admin: Any) -> None:
    put(admin, "session")
    session = server.session(server.identities["reader"], 60)
    assert get(server.client(session), "session") == b"fruit"
    assert refused(keys, server.client(session), "") == "AccessDenied"
    ended = server.client(server.dated(session, -1))
    assert refused(get, ended, "session") == "InvalidAccessKeyId"


def test_objects_survive_an_outage_that_clients_notice(server: Server) -> None:
    with Proxy(server.endpoint) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        put(client, "kept", ServerSideEncryption="AES256")
        server.stop()
        with pytest.raises(ConnectionClosedError):
            get(client, "kept")
        server.start()
        assert get(client, "kept") == b"fruit"


def test_the_proxy_forwards_and_logs(server: Server) -> None:
    body = token_bytes(3_000_000)
    with Proxy(server.endpoint) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        put(client, "forwarded", body)
        client.head_object(Bucket=BUCKET, Key="forwarded")
        assert get(client, "forwarded") == body
        assert refused(client.get_object, Bucket=BUCKET, Key="forwarded", Range="bytes=9000000-") == "InvalidRange"
    expected = [("PUT", 200), ("HEAD", 200), ("GET", 200), ("GET", 416)]
    assert proxy.log == [Forwarded(method, f"/{BUCKET}/forwarded", status) for method, status in expected]
    assert not proxy.injected


def test_a_chunked_body_leaves_the_connection_in_order(server: Server) -> None:
    """Nobody signed it, so it is refused: what matters is where the next request begins."""
    with Proxy(server.endpoint) as proxy:
        connection = HTTPConnection("127.0.0.1", proxy.port)
        for _ in range(2):
            connection.request("PUT", f"/{BUCKET}/chunked", iter([b"a" * 70_000, b"b"]), encode_chunked=True)
            answer = connection.getresponse()
            assert (answer.status, b"AccessDenied" in answer.read()) == (403, True)
        connection.close()
    assert len(proxy.log) == 2


def test_the_proxy_slows_down(server: Server, admin: Any) -> None:
    with Proxy(server.endpoint, slow_down=1) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        assert refused(put, client, "slow") == refused(get, client, "slow") == "SlowDown"
        proxy.slow_down, proxy.latency = 0, 0.2
        began = time.monotonic()
        assert refused(get, client, "slow") == "NoSuchKey"
        assert time.monotonic() - began > 0.2
    assert proxy.injected == {"slow_down": 2}
    assert len(proxy.log) == 1


def test_the_proxy_resets_after_the_server_has_done_its_work(server: Server, admin: Any) -> None:
    with Proxy(server.endpoint, reset=1) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        with pytest.raises(ConnectionClosedError):
            put(client, "done")
        for _ in range(6):
            with pytest.raises(BotoCoreError, match=r"reset by peer|closed before"):
                get(client, "done")
    assert get(admin, "done") == b"fruit"
    assert proxy.injected == {"reset": 7}


def test_the_proxy_truncates_what_is_read(server: Server, admin: Any) -> None:
    put(admin, "cut", bytes(1000))
    with Proxy(server.endpoint, truncated=1) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        with pytest.raises(BotoCoreError, match="500 bytes read, 500 more"):
            get(client, "cut")
        assert refused(get, client, "nothing") == "NoSuchKey"
        put(client, "cut")
    assert proxy.injected == {"truncated": 1}


def test_a_test_may_answer_for_the_server(server: Server, admin: Any) -> None:
    put(admin, "told")
    expired = s3_error(400, "ExpiredToken")
    with Proxy(server.endpoint, rewrite=lambda method, *_: expired if method == "GET" else None) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint)
        assert refused(get, client, "told") == "ExpiredToken"
        put(client, "told")
    assert proxy.injected == {"rewritten": 1}


def read(client: Any, key: str) -> bytes:
    """botocore repeats a request whose answer has not begun; what breaks later is the caller's."""
    while True:
        with suppress(BotoCoreError):
            return get(client, key)


def test_a_client_with_retries_gets_intact_data_through_faults(server: Server) -> None:
    bodies = {f"faults/{number}": token_bytes(5000) for number in range(40)}
    with Proxy(server.endpoint, slow_down=0.05, reset=0.05, truncated=0.05, seed=6) as proxy:
        client = server.client(server.identities["admin"], proxy.endpoint, attempts=10)
        for key, body in bodies.items():
            put(client, key, body)
        assert {key: read(client, key) for key in bodies} == bodies
    assert set(proxy.injected) == {"slow_down", "reset", "truncated"}
    assert len(proxy.log) == 2 * len(bodies) + proxy.injected["reset"] + proxy.injected["truncated"]


@pytest.fixture
def no_other_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the developer's variables nor files."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))


def own_chain(server: Server) -> Any:
    """A client that finds its keys itself."""
    options = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    return Session().create_client("s3", region_name="us-east-1", endpoint_url=server.endpoint, config=options)


@pytest.mark.usefixtures("no_other_keys")
@pytest.mark.parametrize("kind", ["container", "web-identity", "instance"])
def test_botocore_finds_the_keys_of_its_surroundings(
    kind: str, server: Server, admin: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(admin, "given")
    for name, value in endpoint.environment(kind).items():
        monkeypatch.setenv(name, value)
    endpoint.give(server.session(server.identities["reader"], 60), 60)
    client = own_chain(server)
    assert get(client, "given") == b"fruit"
    assert refused(put, client, "given") == "AccessDenied"
    assert endpoint.requests[kind] >= 1
    assert not endpoint.requests["refused"]


@pytest.mark.usefixtures("no_other_keys")
def test_keys_are_fetched_anew_before_they_expire(
    server: Server, admin: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(admin, "again")
    for name, value in endpoint.environment("container").items():
        monkeypatch.setenv(name, value)
    session = server.session(server.identities["reader"], 60)
    endpoint.give(session, 60)
    client = own_chain(server)
    assert get(client, "again") == b"fruit"
    before = endpoint.requests["container"]
    endpoint.give(server.dated(session, -1), 60)
    assert refused(get, client, "again") == "InvalidAccessKeyId"
    endpoint.give(server.session(server.identities["reader"], 60), 60)
    assert get(client, "again") == b"fruit"
    assert endpoint.requests["container"] > before


@pytest.mark.usefixtures("no_other_keys")
def test_keys_are_not_for_strangers(server: Server, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in endpoint.environment("container").items():
        monkeypatch.setenv(name, value)
    endpoint.give(server.identities["reader"], 60)
    endpoint.token_file.write_text("stranger")
    with pytest.raises(CredentialRetrievalError):
        own_chain(server)
    assert endpoint.requests.keys() == {"refused"}
