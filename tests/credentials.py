"""Where pods and machines get their keys: the credential endpoints of EKS, of STS and of EC2, on loopback."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from seaweed import Identity, certificate

ROLE = "fruits"
ROLE_ARN = f"arn:aws:iam::000000000000:role/{ROLE}"
INSTANCE = "/latest/meta-data/iam/security-credentials/"
STS_ANSWER = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""
STS_REFUSAL = (
    "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>not ours</Message></Error></ErrorResponse>"
)


class Endpoint:
    """Runs from start() to stop(), or as a context. Gives the same keys to whoever shows the token of its file.

    With TLS for clients that ask an STS over https only, as obstore does.
    """

    def __init__(self, folder: Path, tls: bool = False) -> None:
        self.token = secrets.token_urlsafe(30)
        self.token_file = folder / "identity-token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self.token)
        self.requests: Counter[str] = Counter()  # container, web-identity, instance: answered with keys; refused
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"endpoint": self}))
        self._keys: dict[str, str] = {}
        self.ca_file = certificate(folder) if tls else None
        if self.ca_file:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "server.pem", folder / "server.key")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Endpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http{'s' if self.ca_file else ''}://127.0.0.1:{self._server.server_port}"

    def give(self, identity: Identity, lifetime_seconds: float) -> None:
        """Answer with these keys from now on, and that they end in so many seconds, whether they do or not."""
        ends = datetime.now(UTC) + timedelta(seconds=lifetime_seconds)
        self._keys = {
            "AccessKeyId": identity.access_key,
            "SecretAccessKey": identity.secret_key,
            "Token": identity.token,
            "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        }

    def environment(self, kind: str) -> dict[str, str]:
        """What a pod finds in its environment, or sets for a machine that is not at EC2's address."""
        variables = {
            "container": {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.address}/v1/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self.token_file),
            },
            "web-identity": {
                "AWS_ENDPOINT_URL_STS": self.address,
                "AWS_ROLE_ARN": ROLE_ARN,
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(self.token_file),
            },
            "instance": {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.address,
                "AWS_METADATA_ENDPOINT": self.address,  # obstore's name for it
            },
        }
        return variables[kind]

    def container(self, authorization: str) -> tuple[int, str]:
        if authorization != self.token:
            return self._refuse(401)
        return self._answer("container")

    def web_identity(self, form: dict[str, str]) -> tuple[int, str]:
        asked = (form.get("Action"), form.get("RoleArn"), form.get("WebIdentityToken"))
        if asked != ("AssumeRoleWithWebIdentity", ROLE_ARN, self.token):
            return self._refuse(400, STS_REFUSAL)
        return self._answer("web-identity", STS_ANSWER.format(**self._keys))

    def instance(self, path: str, token: str) -> tuple[int, str]:
        if token != self.token:
            return self._refuse(401)
        if path == INSTANCE:
            return 200, ROLE
        return self._answer("instance", json.dumps(self._keys | {"Code": "Success", "Type": "AWS-HMAC"}))

    def _answer(self, kind: str, body: str = "") -> tuple[int, str]:
        self.requests[kind] += 1
        return 200, body or json.dumps(self._keys)

    def _refuse(self, status: int, body: str = "") -> tuple[int, str]:
        self.requests["refused"] += 1
        return status, body


class Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith(INSTANCE):
            self.reply(*self.endpoint.instance(self.path, self.headers["x-aws-ec2-metadata-token"]))
        else:
            self.reply(*self.endpoint.container(self.headers["Authorization"]))

    def do_PUT(self) -> None:
        self.body()
        self.reply(200, self.endpoint.token)

    def do_POST(self) -> None:
        self.reply(*self.endpoint.web_identity(dict(parse_qsl(urlsplit(self.path).query) + parse_qsl(self.body()))))

    def body(self) -> str:
        return self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()

    def reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Not among the output of tests."""
