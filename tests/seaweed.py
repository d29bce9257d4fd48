"""A real S3 server on loopback: SeaweedFS, with its data in a folder. Tests start it, and so does a person:

python tests/seaweed.py [FOLDER]
"""

from __future__ import annotations

import argparse
import base64
import hmac
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

BUCKET = "photos"
ACTIONS = {
    "admin": ("Admin",),
    "reader": (f"Read:{BUCKET}",),
    "lister": (f"List:{BUCKET}",),
    "guest": (f"Read:{BUCKET}", f"List:{BUCKET}"),
}
KMS_KEY = "alias/seaweedfs-default"  # lives in the server's memory: what it encrypts is lost with a restart

FLAGS = (
    *("-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=0", "-master.volumeSizeLimitMB=64"),
    *("-s3", "-s3.config=identities.json", "-s3.iam.config=roles.json", "-s3.autoCreateBucket=false"),
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
    "-master.electionTimeout=1s",  # with the default's 10 s, a restart takes 17 s
    "-volume.minFreeSpace=100MiB",  # by default a hundredth of the disk, or it answers 500 without a reason
)
PORTS = (
    *("s3.port", "s3.port.https", "s3.port.grpc", "master.port", "master.port.grpc"),
    *("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "metricsPort"),
)
OPERATIONS = {
    "Admin": (("s3:*",), "*"),
    "Read": (("s3:GetObject",), "arn:aws:s3:::{}/*"),
    "Write": (("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"), "arn:aws:s3:::{}/*"),
    "List": (("s3:ListBucket",), "arn:aws:s3:::{}"),
}


@dataclass(frozen=True)
class Identity:
    """A user of the server, or a session of one, which has a token."""

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]
    token: str = ""

    @classmethod
    def new(cls, name: str, actions: tuple[str, ...]) -> Identity:
        """With keys that nobody else has, so that a test can look for them where they must not be."""
        return cls(name, "AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30), actions)

    @property
    def role(self) -> str:
        return f"arn:aws:iam::000000000000:role/{self.name}"


class Server:
    """Runs from start() to stop(), or as a context. The bucket `photos` is there; more are the admin's to create."""

    def __init__(self, folder: Path, first_port: int = 0, tls: bool = False, host: str = "127.0.0.1") -> None:
        """`host` is the address at which it is reached; all but S3 stays on loopback."""
        self.folder = folder
        self.host = host
        first = first_port or free_ports(len(PORTS))
        self.ports = dict(zip(PORTS, range(first, first + len(PORTS)), strict=True))
        self.identities = {name: Identity.new(name, actions) for name, actions in ACTIONS.items()}
        self.ca_file = certificate(folder) if tls else None
        self._revoked: set[str] = set()
        self._signing_key = secrets.token_bytes(32)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when objects can be written and read: the server answers before that, with errors."""
        (self.folder / "data").mkdir(exist_ok=True)
        if not (encryption := self.folder / "security.toml").exists():
            write_private(encryption, f'[s3.sse]\nkek = "{secrets.token_hex(32)}"\n')
        write_private(self.folder / "roles.json", json.dumps(self._roles()))
        # A reload of this section would make a new key, so reloads go without it.
        self._write_identities(kms={"default_provider": "local", "providers": {"local": {"type": "local"}}})
        weed = Path(sys.executable).parent / "weed"
        command = [str(weed), "-logtostderr=true", "server", *FLAGS, *self._addresses()]
        with (self.folder / "weed.log").open("ab") as log:
            # Not with the caller's AWS_ACCESS_KEY_ID: weed would make an administrator of it.
            self._process = subprocess.Popen(
                command, cwd=self.folder, env={"HOME": str(self.folder)}, stdout=log, stderr=log
            )
        try:
            self._wait_for(self._works)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Killed, as in an outage. What it acknowledged is on its disk; asked to end, it answers 500 for 15 s first."""
        if self._process:
            self._process.kill()
            self._process.wait()
        for port in self.ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.ports['s3.port']}"

    @property
    def https_endpoint(self) -> str:
        return f"https://{self.host}:{self.ports['s3.port.https']}"

    @property
    def pid(self) -> int:
        assert self._process, "the server was not started"
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """What its process has used since it started."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def client(self, identity: Identity, endpoint: str = "", attempts: int = 1, service: str = "s3") -> Any:
        """botocore's own client, of this server or of something between."""
        options = Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": attempts},
            read_timeout=30,
            proxies={},  # whatever the developer has in front of the internet
        )
        return Session().create_client(
            service,
            region_name="us-east-1",
            endpoint_url=endpoint or self.endpoint,
            verify=self.ca_file and str(self.ca_file),
            aws_access_key_id=identity.access_key,
            aws_secret_access_key=identity.secret_key,
            aws_session_token=identity.token or None,
            config=options,
        )

    def requests(self) -> Counter[tuple[str, str]]:
        """How often (GET, PUT, LIST..., bucket) was asked since the start. HEAD is a GET; refusals have no bucket."""
        connection = HTTPConnection("127.0.0.1", self.ports["metricsPort"], timeout=10)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode()
        connection.close()
        found = re.findall(r'SeaweedFS_s3_request_total\{bucket="(.*?)",code="\d+",type="(.*?)"\} (\S+)', lines)
        counts: Counter[tuple[str, str]] = Counter()
        for bucket, operation, count in found:
            counts[operation, bucket] += int(float(count))
        return counts

    def add(self, identity: Identity) -> None:
        """A new identity, or new keys or rights for a known one. Sessions of a new one need a restart."""
        self.identities[identity.name] = identity
        self._revoked.discard(identity.name)
        self._reload(lambda: self.knows(identity))

    def revoke(self, identity: Identity) -> None:
        """Its keys are unknown from now on; its sessions last until they expire."""
        self._revoked.add(identity.name)
        self._reload(lambda: not self.knows(identity))

    def knows(self, identity: Identity) -> bool:
        try:
            self.client(identity).list_buckets()
        except ClientError:
            return False
        return True

    def session(self, identity: Identity, seconds: int) -> Identity:
        """Temporary keys of an identity; the server refuses them after so many seconds."""
        return self.dated(next(self.sessions(identity)), seconds)

    def sessions(self, identity: Identity) -> Iterator[Identity]:
        """Ever new ones, of a quarter of an hour, below which the server's STS gives none."""
        sts = self.client(self.identities["admin"], service="sts", attempts=3)
        while True:
            given = sts.assume_role(RoleArn=identity.role, RoleSessionName="test", DurationSeconds=900)["Credentials"]
            keys = {"access_key": given["AccessKeyId"], "secret_key": given["SecretAccessKey"]}
            yield replace(identity, token=given["SessionToken"], **keys)

    def dated(self, session: Identity, seconds: int) -> Identity:
        """The session with an end so long after now: its token is signed anew with the STS's key. Asks no server."""
        header, body, _ = session.token.encode().split(b".")
        claims = json.loads(base64.urlsafe_b64decode(body + b"==")) | {"exp": int(time.time()) + seconds}
        signed = header + b"." + unpadded(json.dumps(claims).encode())
        token = signed + b"." + unpadded(hmac.digest(self._signing_key, signed, "sha256"))
        return replace(session, token=token.decode())

    def _addresses(self) -> list[str]:
        tls = ["-s3.cert.file=server.pem", "-s3.key.file=server.key"] if self.ca_file else []
        return [f"-s3.ip.bind={self.host}", *(f"-{name}={port}" for name, port in self.ports.items()), *tls]

    def _roles(self) -> dict[str, Any]:
        """A role per identity, with the same rights."""
        anybody = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}
        trust = {"Version": "2012-10-17", "Statement": [anybody]}
        return {
            "sts": {"issuer": "tests", "signingKey": base64.b64encode(self._signing_key).decode()}
            | {"tokenDuration": "1h", "maxSessionLength": "12h"},
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "roles": [
                {"roleName": user.name, "roleArn": user.role, "trustPolicy": trust, "attachedPolicies": [user.name]}
                for user in self.identities.values()
            ],
            "policies": [
                {"name": user.name, "document": {"Version": "2012-10-17", "Statement": statements(user.actions)}}
                for user in self.identities.values()
            ],
        }

    def _write_identities(self, **sections: Any) -> None:
        users = []
        for user in self.identities.values():
            # One that is missing from the file would keep its keys; one without keys loses them.
            keys = [] if user.name in self._revoked else [{"accessKey": user.access_key, "secretKey": user.secret_key}]
            users.append({"name": user.name, "credentials": keys, "actions": user.actions})
        write_private(self.folder / "identities.json", json.dumps({"identities": users} | sections))

    def _reload(self, done: Callable[[], bool]) -> None:
        self._write_identities()
        os.kill(self.pid, signal.SIGHUP)
        self._wait_for(done)

    def _works(self) -> bool:
        s3 = self.client(self.identities["admin"])
        try:
            with suppress(s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou):
                s3.create_bucket(Bucket=BUCKET)
            s3.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
            read = s3.get_object(Bucket=BUCKET, Key=".ready")["Body"].read()
            s3.delete_object(Bucket=BUCKET, Key=".ready")
        except (BotoCoreError, ClientError):
            return False
        return bool(read == b"ready")

    def _wait_for(self, done: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert self._process, "the server was not started"
            if self._process.poll() is not None or time.monotonic() > end:
                tail = (self.folder / "weed.log").read_text(errors="replace").splitlines()[-20:]
                raise RuntimeError("SeaweedFS does not do as asked; the end of its log:\n" + "\n".join(tail))
            time.sleep(0.05)


def free_ports(count: int) -> int:
    """The first of some free ports in a row, below those of outgoing connections: a restart finds them free."""
    while True:
        first = secrets.choice(range(20000, 32000))
        if all(free(port) for port in range(first, first + count)):
            return first


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def certificate(folder: Path) -> Path:
    """The certificate of the folder's private CA, which signed its server.pem."""
    if (folder / "ca.pem").exists():
        return folder / "ca.pem"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
    leaf = "-addext subjectAltName=IP:127.0.0.1,DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    for command in (
        f"{new} -subj /CN=tests -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=localhost -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key {leaf}",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem"


def write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def statements(actions: tuple[str, ...]) -> list[dict[str, Any]]:
    """SeaweedFS' words for rights, as statements of a policy."""
    made = []
    for action in actions:
        word, _, bucket = action.partition(":")
        operations, resource = OPERATIONS[word]
        made.append({"Effect": "Allow", "Action": operations, "Resource": [resource.format(bucket)]})
    return made


def unpadded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def main() -> None:
    parser = argparse.ArgumentParser(description="An S3 server on loopback, until Ctrl-C.")
    parser.add_argument("folder", nargs="?", type=Path, help="where its data stay; without, they go with it")
    parser.add_argument("--port", type=int, default=8333, help="its first port of ten")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        folder = given.folder or Path(stack.enter_context(TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(Server(folder.resolve(), given.port))
        admin, places = server.identities["admin"], f"s3://{BUCKET}/images/ s3://{BUCKET}/out/"
        print(f"export AWS_ACCESS_KEY_ID={admin.access_key} AWS_SECRET_ACCESS_KEY={admin.secret_key}")
        print(f"fruitpipe run {places} --set s3.endpoint={server.endpoint} --set s3.allow_http=true", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
