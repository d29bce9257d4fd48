"""What a user can do wrong with an object store: one line that names the cause and the next step, at once."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import BACKBONE, fruitpipe, one_line_error
from faults import Proxy, Response, s3_error
from s3 import Retelling, environment, objects, options, upload
from seaweed import BUCKET, Identity, Server

from fruitpipe.config import S3Config
from fruitpipe.objects.error_messages import our_error
from fruitpipe.objects.place import Place

IMAGES, OUT = f"s3://{BUCKET}/refusals/images", f"s3://{BUCKET}/refusals/out"
KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # of AWS' manual


@pytest.fixture(scope="module")
def admin(server: Server, fruits: Path) -> dict[str, str]:
    """The environment of somebody who may do everything; the images are there."""
    identity = server.identities["admin"]
    upload(server.client(identity), fruits / "Apple", "refusals/images/Apple")
    return environment(server, identity)


def refused(variables: dict[str, str], *arguments: object, code: int = 2) -> str:
    """The one line of an error."""
    return one_line_error(fruitpipe(*arguments, code=code, variables=variables))


def plan(variables: dict[str, str], endpoint: str, *assignments: str, code: int = 2) -> str:
    return refused(variables, "plan", IMAGES, OUT, *options(endpoint, BACKBONE, *assignments), code=code)


def written(server: Server) -> dict[str, bytes]:
    return objects(server.client(server.identities["admin"]), "refusals/out")


def test_what_is_refused_below_is_well_otherwise(server: Server, admin: dict[str, str]) -> None:
    done = fruitpipe("plan", IMAGES, OUT, *options(server.endpoint, BACKBONE), "--json", variables=admin)
    assert json.loads(done.stdout)["images"] == 40


def test_a_wrong_secret_key(server: Server) -> None:
    wrong = replace(server.identities["admin"], secret_key="guessed")
    line = plan(environment(server, wrong), server.endpoint)
    assert f"the secret key does not fit the access key at {server.endpoint}: set both again" in line
    assert "guessed" not in line


def test_an_unknown_access_key(server: Server) -> None:
    line = plan(environment(server, Identity.new("stranger", ())), server.endpoint)
    assert f"{server.endpoint} does not know the access key" in line
    assert "`fruitpipe doctor` says where it comes from" in line


def test_an_expired_session(server: Server, admin: dict[str, str]) -> None:
    session = server.session(server.identities["admin"], -1)
    line = plan(environment(server, session), server.endpoint)
    assert "its session has expired. Log in again" in line  # SeaweedFS says the same of unknown keys
    with Proxy(server.endpoint, rewrite=lambda *_: s3_error(400, "ExpiredToken")) as proxy:
        line = plan(admin, proxy.endpoint)
    assert "has expired or is not valid: log in again" in line


def test_no_credentials(server: Server) -> None:
    line = plan(environment(server, None), server.endpoint)
    assert "no AWS credentials: log in (`aws sso login`), set AWS_PROFILE, or give this machine or pod a role" in line


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"AWS_PROFILE": "typo"}, "profile (typo) could not be found"),
        ({"AWS_ACCESS_KEY_ID": KEY_ID}, "missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_CONFIG_FILE": "CONFIG"}, "No such file or directory: '/nowhere/program'"),
        ({"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token"}, "/nowhere/token"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/keys"}, "http://127.0.0.1:9/keys"),
    ],
    ids=["profile", "half", "program", "web-identity", "container"],
)
def test_credentials_that_cannot_be_had(variables: dict[str, str], cause: str, server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ncredential_process = /nowhere/program\n")
    own = {name: str(config) if value == "CONFIG" else value for name, value in variables.items()}
    line = plan(environment(server, None) | own, server.endpoint)
    assert "no AWS credentials: " in line
    assert cause in line
    assert "Log in again; `fruitpipe doctor` says what was tried" in line


def test_no_right_to_list(server: Server, admin: dict[str, str]) -> None:
    line = plan(environment(server, server.identities["reader"]), server.endpoint)
    assert f"no right to list {IMAGES} (s3:ListBucket): ask for it" in line
    assert "Images that a list of images names need no listing." in line


def test_no_right_to_list_results_is_no_matter_of_images(server: Server, fruits: Path) -> None:
    line = refused(
        environment(server, server.identities["reader"]), "plan", fruits, OUT, *options(server.endpoint, BACKBONE)
    )
    assert line.endswith(f"no right to list {OUT} (s3:ListBucket): ask for it, or use other credentials.")


def test_no_right_to_write_is_known_before_there_is_any_work(server: Server, admin: dict[str, str]) -> None:
    guest = environment(server, server.identities["guest"])
    line = refused(guest, "run", IMAGES, OUT, *options(server.endpoint, BACKBONE))
    assert f"no right to write {OUT}/" in line
    assert "(s3:PutObject): ask for it" in line
    assert not written(server)


def test_no_right_to_read_makes_every_image_a_row_that_says_so(
    server: Server, admin: dict[str, str], tmp_path: Path
) -> None:
    lister = environment(server, server.identities["lister"])
    line = refused(lister, "run", IMAGES, tmp_path, *options(server.endpoint, BACKBONE), code=3)
    assert "40 of 40 images failed (40 forbidden)" in line
    assert line.endswith("then get the rights to read them.")
    (failures,) = tmp_path.glob("runs/*/failures.parquet")
    rows = pq.read_table(failures).to_pylist()
    assert {row["status"] for row in rows} == {"forbidden"}
    assert all(f"no right to read {row['path']} (s3:GetObject)" in row["error"] for row in rows)


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_missing_bucket(place: str, server: Server, admin: dict[str, str]) -> None:
    places = ("s3://absent/images", OUT) if place == "input" else (IMAGES, "s3://absent/out")
    line = refused(admin, "run", *places, *options(server.endpoint, BACKBONE))
    assert f"no bucket absent at {server.endpoint}: check its name" in line
    assert not written(server)


def test_a_name_that_no_bucket_can_have(server: Server, admin: dict[str, str]) -> None:
    line = refused(admin, "plan", "s3://My_Bucket!/images", OUT, *options(server.endpoint))
    assert "My_Bucket! is not a bucket name" in line


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_prefix_with_a_typo(server: Server, admin: dict[str, str], verb: str) -> None:
    line = refused(admin, verb, f"{IMAGES}s", OUT, *options(server.endpoint, BACKBONE))
    assert f"no images in {IMAGES}s: looked for avif" in line
    assert not written(server)


@pytest.mark.parametrize(
    ("endpoint", "cause"),
    [
        ("http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9: check s3.endpoint"),
        ("http://nowhere.invalid", "cannot find http://nowhere.invalid (no such host): check s3.endpoint"),
        ("http://127.0.0.1:99999", "no address of a server in s3.endpoint"),
        ("http://under_score:9000", "no address of a server in s3.endpoint"),
    ],
    ids=["port", "host", "no port", "no host"],
)
def test_a_wrong_address(endpoint: str, cause: str, admin: dict[str, str]) -> None:
    assert cause in plan(admin, endpoint)


def test_in_a_pod_the_chart_s_own_policy_is_named_first(admin: dict[str, str]) -> None:
    line = plan(admin | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "http://127.0.0.1:9")
    assert "and that the server runs, and the chart's networkPolicy.stores and networkPolicy.storePorts" in line


@pytest.mark.parametrize("port", ["filer.port", "master.port", "volume.port", "metricsPort"])
def test_a_server_that_is_no_object_store(port: str, server: Server, admin: dict[str, str]) -> None:
    line = plan(admin, f"http://127.0.0.1:{server.ports[port]}")
    assert "answers, but not as an object store: check s3.endpoint" in line


def test_a_server_that_speaks_no_http(server: Server, admin: dict[str, str]) -> None:
    line = plan(admin, f"http://127.0.0.1:{server.ports['master.port.grpc']}")
    assert "hangs up without an answer: check the port of s3.endpoint" in line


class Console(http.server.BaseHTTPRequestHandler):
    """As MinIO's, on the port beside that for S3: a page for every path."""

    def do_GET(self) -> None:
        page = b"<html>Log in</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else page)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Not among the output of tests."""


def test_a_web_site_is_no_empty_bucket(admin: dict[str, str]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Console) as site:
        threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
        line = plan(admin, f"http://127.0.0.1:{site.server_port}")
        site.shutdown()
    assert "is a web site, not an object store: check the port of s3.endpoint" in line


@contextmanager
def hanging_up() -> Iterator[tuple[str, list[Any]]]:
    """An endpoint that closes every connection, and the connections that there were."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        callers: list[Any] = []

        def serve() -> None:
            while True:
                try:
                    connection, caller = listener.accept()
                except OSError:
                    return
                callers.append(caller)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", callers


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("plan", IMAGES, OUT), ("run", IMAGES, OUT), ("show", OUT), ("gc", OUT)])
def test_a_first_request_is_not_repeated_for_minutes(arguments: tuple[str, ...], admin: dict[str, str]) -> None:
    with hanging_up() as (endpoint, callers):
        assert f"error: {endpoint} hangs up" in refused(admin, *arguments, *options(endpoint))
    assert 1 <= len(callers) <= 3


@pytest.mark.slow
def test_only_the_driver_asks_where_a_bucket_is(server: Server, admin: dict[str, str], tmp_path: Path) -> None:
    with Proxy(server.endpoint) as proxy:
        fruitpipe("run", IMAGES, tmp_path, *options(proxy.endpoint, BACKBONE), variables=admin)
        assert [(each.method, each.path) for each in proxy.log].count(("HEAD", f"/{BUCKET}")) == 1


@pytest.mark.slow
def test_workers_are_patient_with_buckets_that_a_manifest_names(
    server: Server, admin: dict[str, str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def busy(method: str, path: str, headers: dict[str, str]) -> Response | None:
        if (method, path) != ("HEAD", f"/{BUCKET}"):
            return None
        asked.append(path)
        return s3_error(503, "SlowDown") if len(asked) <= 3 else None

    urls = [f"s3://{BUCKET}/{key}" for key in objects(server.client(server.identities["admin"]), "refusals/images")]
    manifest = tmp_path / "images.txt"
    manifest.write_text("\n".join(urls))
    with Proxy(server.endpoint, rewrite=busy) as proxy:
        settings = options(proxy.endpoint, BACKBONE, "spark.master=local[1]")
        done = fruitpipe("run", manifest, tmp_path / "out", *settings, "--json", variables=admin)
    assert json.loads(done.stdout)["failed"] == 0
    assert len(asked) == 4  # once for all threads of the worker


def test_https_where_there_is_no_tls(server: Server, admin: dict[str, str]) -> None:
    endpoint = server.endpoint.replace("http:", "https:")
    said = f"{endpoint} does not speak TLS: write http:// in s3.endpoint, and s3.allow_http: true"
    assert said in plan(admin, endpoint)


def test_an_address_is_to_be_corrected_where_it_was_given(server: Server, admin: dict[str, str]) -> None:
    variables = admin | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    line = refused(variables, "plan", IMAGES, OUT, "--set", BACKBONE, "--set", "s3.allow_http=true")
    assert "nothing answers at http://127.0.0.1:9: check AWS_ENDPOINT_URL, or endpoint_url of the profile" in line


@pytest.mark.parametrize(
    ("scheme", "error", "says"),
    [
        ("s3", "lookup address", "check the region, or s3.endpoint if it is not AWS, and the network"),
        ("gs", "lookup address", "check https_proxy, where there is one, and the network"),
        ("az", "lookup address", "check AZURE_STORAGE_ACCOUNT_NAME, and the network"),
        ("s3", "invalid peer certificate: UnknownIssuer", "give its authority's PEM file as s3.ca_file"),
        ("gs", "invalid peer certificate: UnknownIssuer", "have this machine trust its authority"),
        ("az", "invalid peer certificate: UnknownIssuer", "have this machine trust its authority"),
        ("s3", "<Code>ExpiredToken</Code>", "`fruitpipe doctor` says where it comes from"),
        ("s3", "<Code>Teapot</Code>", "Try again later; a run goes on where it stood."),
    ],
)
def test_advice_is_for_the_store_that_is_asked(
    scheme: str, error: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the clouds themselves, which no test reaches: what their clients say of it."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    said = str(our_error(OSError(error), Place(scheme, "photos", None, "eu-west-3", S3Config()), "list"))
    assert says in said
    assert len(said.splitlines()) == 1


def test_http_where_there_is_tls(server: Server, admin: dict[str, str]) -> None:
    endpoint = server.https_endpoint.replace("https:", "http:")
    assert f"{endpoint} wants TLS: write https:// in s3.endpoint" in plan(admin, endpoint)


@pytest.mark.slow
def test_a_private_authority_is_trusted_where_it_is_given(server: Server, admin: dict[str, str]) -> None:
    settings = ("plan", IMAGES, OUT, "--set", f"s3.endpoint={server.https_endpoint}")
    line = refused(admin, *settings)
    assert f"the certificate of {server.https_endpoint} is not trusted" in line
    assert "s3.ca_file" in line
    done = fruitpipe(*settings, "--set", f"s3.ca_file={server.ca_file}", "--json", variables=admin)
    assert json.loads(done.stdout)["images"] == 40
    trusting = admin | {"AWS_CA_BUNDLE": str(server.ca_file)}
    done = fruitpipe(*settings, "--json", variables=trusting)
    assert json.loads(done.stdout)["images"] == 40


def test_an_authority_that_is_no_certificate(server: Server, admin: dict[str, str], tmp_path: Path) -> None:
    line = plan(admin, server.https_endpoint, f"s3.ca_file={tmp_path}/ca.pem")
    assert f"cannot use {tmp_path}/ca.pem, No such file or directory: s3.ca_file names the PEM file" in line
    (tmp_path / "ca.pem").write_text("not a certificate")
    line = plan(admin, server.https_endpoint, f"s3.ca_file={tmp_path}/ca.pem")
    assert f"cannot use {tmp_path}/ca.pem, it has no certificates" in line


def test_an_endpoint_without_tls_has_to_be_allowed(server: Server, admin: dict[str, str]) -> None:
    line = refused(admin, "plan", IMAGES, OUT, "--set", f"s3.endpoint={server.endpoint}")
    assert "s3: the endpoint has no TLS: use https://, or set allow_http: true" in line
    line = refused(admin | {"AWS_ENDPOINT_URL": server.endpoint}, "plan", IMAGES, OUT)
    assert f"the endpoint {server.endpoint} has no TLS: use https://, or set s3.allow_http: true" in line


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (301, "PermanentRedirect", f"{IMAGES} is in another region than us-east-1: set s3.region to where it is"),
        (400, "AuthorizationHeaderMalformed", f"{IMAGES} is in another region than us-east-1: set s3.region"),
        (403, "RequestTimeTooSkewed", "this machine's clock differs from that of ENDPOINT: set it (NTP)"),
    ],
)
def test_what_aws_answers_to_a_wrong_region_or_clock(
    status: int, code: str, cause: str, server: Server, admin: dict[str, str]
) -> None:
    with Proxy(server.endpoint, rewrite=lambda *_: s3_error(status, code)) as proxy:
        line = plan(admin, proxy.endpoint)
    assert cause.replace("ENDPOINT", proxy.endpoint) in line


def test_a_bucket_outside_the_region_is_refused_before_anything_is_listed_or_written(
    server: Server, admin: dict[str, str]
) -> None:
    with Retelling(server.endpoint) as proxy:
        proxy.headers = {"x-amz-bucket-region": "us-west-2"}
        line = refused(admin, "run", IMAGES, OUT, *options(proxy.endpoint, BACKBONE, "s3.region=eu-west-3"))
    assert "is in us-west-2, but s3.region is eu-west-3: nothing was read or written" in line
    assert {(each.method, each.path) for each in proxy.log} == {("HEAD", f"/{BUCKET}")}


def test_a_busy_store_does_not_hide_where_a_bucket_is(server: Server, admin: dict[str, str]) -> None:
    with Proxy(
        server.endpoint, rewrite=lambda method, *_: s3_error(503, "SlowDown") if method == "HEAD" else None
    ) as proxy:
        line = plan(admin, proxy.endpoint, "s3.region=eu-west-3", code=1)
    assert "kept asking to slow down" in line
    assert not proxy.log


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("s3a://photos/images", "write s3:// here"),
        ("https://photos.s3.amazonaws.com/images", "write s3://bucket/folder here, and the server as s3.endpoint"),
        ("s3:///images", "expected s3://bucket/folder"),
    ],
)
def test_a_url_that_is_not_s3(url: str, advice: str, admin: dict[str, str]) -> None:
    assert advice in refused(admin, "plan", url, OUT)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"s3://{KEY_ID}:{SECRET}@photos/images", OUT),
        (f"https://photos.s3.amazonaws.com/images?X-Amz-Signature={SECRET}", OUT),
        (IMAGES, OUT, "--set", f"s3.secret_key={SECRET}"),
        (IMAGES, OUT, "--set", f"s3.endpoint=https://{KEY_ID}:{SECRET}@minio:9000"),
        (IMAGES, OUT, "--set", f"AWS_SECRET_ACCESS_KEY={SECRET}"),
        (IMAGES, OUT, "--set", f"spark.conf.spark.hadoop.fs.s3a.secret.key={SECRET}"),
    ],
    ids=["url", "signed url", "set", "endpoint", "variable", "spark"],
)
def test_keys_are_refused_and_not_repeated(arguments: tuple[str, ...], admin: dict[str, str]) -> None:
    line = refused(admin, "plan", *arguments)
    assert "credentials are not allowed in a config" in line
    assert SECRET not in line


@pytest.mark.parametrize(
    "assignment",
    [f"s3.secret_key: {SECRET}", f"s3.secret_key={{{SECRET}", f"s3={SECRET}", f"s3.path_style={SECRET}"],
    ids=["colon", "brace", "section", "value"],
)
def test_a_key_in_a_mistyped_setting_is_not_repeated(assignment: str, admin: dict[str, str]) -> None:
    assert SECRET not in refused(admin, "plan", IMAGES, OUT, "--set", assignment)


def test_keys_in_a_config_file_are_refused_with_their_line(admin: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"s3:\n  tags: {{a: b}}\n  secret_access_key: {SECRET}\n")
    line = refused(admin, "plan", IMAGES, OUT, "--config", config)
    assert "line 3: s3.secret_access_key: credentials are not allowed in a config" in line
    assert SECRET not in line
