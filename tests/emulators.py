"""Stand-ins for Google Cloud Storage and Azure on loopback, which `scripts/emulators` installs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from conftest import unavailable
from gcsfs.core import GCSFileSystem
from pyarrow.fs import AzureFileSystem, FileSystem, FSSpecHandler, PyFileSystem
from seaweed import free, free_ports

BUCKET = "photos"
HOST = "127.0.0.1"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere and in its documentation."""
NOT_PASSED_ON = {"connection", "content-length", "date", "server", "transfer-encoding"}


@dataclass(frozen=True)
class Emulator:
    """A server that runs, with a bucket `photos`."""

    scheme: str
    environment: dict[str, str]
    """what a user sets to reach it"""
    other: FileSystem
    """its objects by another client: gcsfs, or that of Azure's makers"""


@contextmanager
def azurite(folder: Path) -> Iterator[Emulator]:
    port = free_ports(1)
    address = f"{HOST}:{port}"
    options = ["--blobHost", HOST, "--blobPort", str(port), "--location", str(folder), "--disableTelemetry"]
    options.append("--skipApiVersionCheck")  # Arrow speaks a newer version of the protocol than Azurite knows
    with running([program("azurite-blob"), *options], folder / "azurite.log", port):
        other = AzureFileSystem(
            ACCOUNT,
            account_key=KEY,
            blob_storage_authority=address,
            dfs_storage_authority=address,
            blob_storage_scheme="http",
            dfs_storage_scheme="http",
        )
        other.create_dir(BUCKET)
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://{address}",
        }
        yield Emulator("az", environment, other)


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Emulator]:
    """fake-gcs-server behind a Gateway."""
    port = free_ports(1)
    address = f"{HOST}:{port}"
    options = ["-backend", "memory", "-scheme", "http", "-host", HOST, "-port", str(port), "-public-host", address]
    with (
        running([program("fake-gcs-server"), *options], folder / "fake-gcs-server.log", port),
        gateway(address) as front,
    ):
        ask(address, "POST", "/storage/v1/b", json.dumps({"name": BUCKET}).encode())
        # Not the class that gcsfs itself would take: it asks Google for the kind of bucket, by gRPC, for a minute.
        other = GCSFileSystem(endpoint_url=f"http://{address}", token="anon", use_listings_cache=False)
        yield Emulator("gs", {"STORAGE_EMULATOR_HOST": front}, PyFileSystem(FSSpecHandler(other)))


def program(name: str) -> str:
    folder = os.environ.get("FRUITPIPE_EMULATORS", "")
    places = os.pathsep.join([f"{folder}/bin", f"{folder}/node_modules/.bin", os.environ["PATH"]])
    found = shutil.which(name, path=places)
    return found or unavailable(f"no {name}: run scripts/emulators DIR and set FRUITPIPE_EMULATORS=DIR")


@contextmanager
def running(command: list[str], log: Path, port: int) -> Iterator[None]:
    """A server, from when it listens."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            end = time.monotonic() + 60
            while free(port):
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < end, log.read_text(errors="replace")
                time.sleep(0.05)
            yield
        finally:
            process.kill()


@contextmanager
def gateway(address: str) -> Iterator[str]:
    """Its address, without a scheme: so are they where Google says how to set STORAGE_EMULATOR_HOST."""
    server = Gateway(address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Gateway(ThreadingHTTPServer):
    """Adds to fake-gcs-server what it lacks and obstore needs: uploads by the XML API, whole and in parts.

    A PUT goes on as an upload of the JSON API, its condition as that API's parameter; parts wait here for the last of
    them. Everything else passes through as it is. So it is the server that decides whether a condition holds, and that
    reads, lists and deletes.
    """

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((HOST, 0), Exchange)
        self.address = address
        self.parts: dict[str, dict[int, bytes]] = defaultdict(dict)


class Exchange(BaseHTTPRequestHandler):
    """A connection to the Gateway."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: headers on their own would wait for an acknowledgement
    server: Gateway

    def pass_on(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()} | {"host": self.server.address}
        self.answer(*ask(self.server.address, self.command, self.path, self.body(), headers))

    do_GET = do_HEAD = do_PATCH = pass_on

    def do_PUT(self) -> None:
        query = self.query()
        if "uploadId" not in query:
            self.upload(self.body())
            return
        self.server.parts[query["uploadId"]][int(query["partNumber"])] = self.body()
        self.answer(200, {"ETag": f'"{query["partNumber"]}"'}, b"")

    def do_POST(self) -> None:
        query = self.query()
        if "uploads" in query:
            self.answer(200, {}, xml("InitiateMultipartUploadResult", UploadId=uuid.uuid4().hex))
        elif "uploadId" in query:
            parts = self.server.parts.pop(query["uploadId"])
            numbers = re.findall(rb"<PartNumber>(\d+)</PartNumber>", self.body())
            self.upload(b"".join(parts[int(number)] for number in numbers))
        else:
            self.pass_on()

    def do_DELETE(self) -> None:
        if upload := self.query().get("uploadId"):
            self.server.parts.pop(upload, None)
            self.answer(204, {}, b"")
        else:
            self.pass_on()

    def upload(self, data: bytes) -> None:
        bucket, _, key = unquote(urlsplit(self.path).path[1:]).partition("/")
        query = {"uploadType": "media", "name": key}
        if condition := self.headers["x-goog-if-generation-match"]:
            query["ifGenerationMatch"] = condition
        path = f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}"
        metadata = {name: value for name, value in self.headers.items() if name.startswith("x-goog-meta-")}
        status, headers, answer = ask(self.server.address, "POST", path, data, metadata)
        if status == 200:
            made = json.loads(answer)
            headers = {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}
            answer = xml("CompleteMultipartUploadResult", ETag=made["etag"])
        self.answer(status, headers, answer)

    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, True).items()}

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in NOT_PASSED_ON:
                self.send_header(name, value)
        size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def ask(
    address: str, method: str, path: str, data: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def xml(name: str, **values: str) -> bytes:
    return f"<{name}>{''.join(f'<{key}>{value}</{key}>' for key, value in values.items())}</{name}>".encode()
