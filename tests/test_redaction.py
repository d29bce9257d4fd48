"""No secret of any kind leaves by any way out, whatever library has repeated it; names do."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import pytest
from command import fruitpipe, one_line_error, process
from faults import Proxy, Response
from outside import install
from PIL import Image
from s3 import options
from test_metrics import free_port

from fruitpipe.config import S3Config
from fruitpipe.objects.clients import Credentials, botocore_client
from fruitpipe.objects.place import Place
from fruitpipe.redaction import without_secrets
from fruitpipe.result.manifest import Manifest
from fruitpipe.spark.surroundings import own_environment

NAMES = "s3://photos/images of AKIAIOSFODNN7EXAMPLE in eu-west-3"


def secret(kind: str) -> str:
    """44 characters, with + and / and = among them."""
    return base64.b64encode(hashlib.sha256(kind.encode()).digest()).decode()


def spelled(value: str) -> str:
    """As it is, as Python shows bytes, as URLs and JSON have it, and cut short."""
    quoted = json.dumps(json.dumps({"x": value}))
    return f"{value} | {value.encode()!r} | {quote(value, safe='')} | {quoted} | {value[:30]}…"


TOKEN = f"{secret('token')[:22]}\n{secret('token')[22:]}"
"""A session token with a line end in it."""
URLSAFE = {ord("+"): "-", ord("/"): "_", ord("="): None}
HELD = {
    "key": secret("key"),
    "token": TOKEN,
    "profile": secret("profile"),
    "token file": secret("token file"),
    "service account": secret("service account"),
    "account key": secret("account key"),
    "sas": secret("sas"),
    "connection string": secret("connection string"),
    "proxy": secret("proxy"),
}
"""What the process has, by kind."""
SEEN = {
    "url": ("https://me:{}@host/folder", secret("url")),
    "aws token": ("https://photos/a.jpg?X-Amz-Security-Token={}&x=y", quote(secret("aws token"), safe="")),
    "aws signature": ("https://photos/a.jpg?X-Amz-Signature={}", hashlib.sha256(b"signed").hexdigest()),
    "azure signature": ("az://photos/a.jpg?sv=2022-11-02&sig={}", quote(secret("azure signature"), safe="")),
    "header": ("x-amz-security-token:{}", secret("header")),
    "authorization": ("{{'Authorization': 'Bearer {}'}}", secret("authorization")),
    "json": ('{{"SecretAccessKey": "{}"}}', secret("json")),
    "xml": ("<Token-0>{}</Token-0>", secret("xml")),
    "jwt": ("no such person: {}", f"eyJhbGciOiJSUzI1NiJ9.{secret('jwt').translate(URLSAFE)}.c2lnbmF0dXJl"),
    "pem": ("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", secret("pem")),
}
"""What only looks like a secret, by kind: a text, and what in it is secret."""
TEXTS = {kind: f"[{kind}] {spelled(value)}" for kind, value in HELD.items()} | {
    kind: f"[{kind}] {text.format(value)}" for kind, (text, value) in SEEN.items()
}
SAID = " \n".join([NAMES, *TEXTS.values()])


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a secret of each kind."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "credentials").write_text(
        f"[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {HELD['profile']}\n"
    )
    (folder / "identity").write_text(f"{HELD['token file']}\n")
    pem = f"-----BEGIN PRIVATE KEY-----\n{HELD['service account']}\n-----END PRIVATE KEY-----\n"
    (folder / "account.json").write_text(json.dumps({"type": "service_account", "private_key": pem}))
    told = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return told | {
        "AWS_CONFIG_FILE": str(folder / "missing"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_SECRET_ACCESS_KEY": HELD["key"],
        "AWS_SESSION_TOKEN": HELD["token"],
        "AZURE_FEDERATED_TOKEN_FILE": str(folder / "identity"),
        "AZURE_STORAGE_ACCOUNT_KEY": HELD["account key"],
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=photos;AccountKey={HELD['connection string']};x=y",
        "AZURE_STORAGE_SAS_TOKEN": f"sv=2022-11-02&ss=b&sig={quote(HELD['sas'], safe='')}",
        "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "account.json"),
        "HTTPS_PROXY": f"http://me:{quote(HELD['proxy'], safe='')}@127.0.0.1:9",
        "FRUITPIPE_TERMINATION_LOG": str(folder / "termination-log"),
    }


def require_hidden(kind: str, text: str) -> None:
    """Fail where any part of a secret is in a text."""
    parts = re.findall(r"\w{8,}", HELD[kind] if kind in HELD else SEEN[kind][1])
    assert parts
    assert not [part for part in parts if part in text]


@pytest.mark.parametrize("kind", TEXTS)
def test_a_message_without_its_secret(kind: str, variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = without_secrets(f"{NAMES}: {TEXTS[kind]}")
    assert told.startswith(f"{NAMES}: [{kind}] ")
    assert "***" in told
    require_hidden(kind, told)
    require_hidden(kind, without_secrets(repr(repr(TEXTS[kind]))))


@pytest.mark.parametrize(
    "text",
    [
        "nothing answers at http://127.0.0.1:9000/photos/eye@2x.jpg: check s3.endpoint",
        "nothing answers at http://[::1]:9000/photos/eye@2x.jpg: check s3.endpoint",
        "abfss://container@account.dfs.core.windows.net/folder",
        "s3.secret_access_key: credentials are not allowed in a config",
        "list of s3://b failed: GET https://b/?list-type=2&continuation-token=MSwxMjM",
        "AuthorizationHeaderMalformed: Basic authentication failed",
        "the server knows basic authentifications only",
        "missing: AWS_SECRET_ACCESS_KEY, /var/run/secrets/token",
        "no images in s3://photos/token=7/x/y.jpg",
        "bad JPEG signature=0x1234, assertion=1",
        "    signature = inspect.signature(function)",
        "    token = next(tokens_2)",
        '    password = "" if token is None else token',
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("authorization: Token abcdefgh\nnext", "authorization: ***\nnext"),
        ("curl -H 'Authorization: Token abcdefgh' https://host", "curl -H 'Authorization: ***' https://host"),
        ("token='abc def', x", "token='***', x"),
        ("token='abc def", "token='***"),
        ('{"password": "a\\"bcd", "x": "y"}', '{"password": "***", "x": "y"}'),
        (json.dumps('{"password": "a\\"bcd", "x": ""}'), '"{\\"password\\": \\"***\\", \\"x\\": \\"\\"}"'),
        ("password=hunter,2hunter, x=y", "password=***, x=y"),
        ("access_key=abc,region=eu", "access_key=***,region=eu"),
        ("password: hunter2", "password: ***"),
        ("git clone https://abcdefgh@host/x", "git clone https://***@host/x"),
        ("aws_secret_access_key: wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key: ***"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        ("api-key: 0123456789abcdef", "api-key: ***"),
        ("X-Api-Key: abcdefgh", "X-Api-Key: ***"),
        ("https://host/?a=b&Signature=abc&x=y", "https://host/?a=b&Signature=***&x=y"),
    ],
)
def test_how_credentials_look(text: str, told: str) -> None:
    assert without_secrets(text) == told


AWKWARD = "pass/word+with spaces \"and\" 'quotes' <&> é\\q%41;=end of it"
CHANGED = {
    "JSON": json.dumps,
    "JSON with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "Python": repr,
    "bytes": lambda text: repr(text.encode()),
    "URL": lambda text: quote(text, safe=""),
    "URL in lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "form": quote_plus,
    "URL in JSON in a URL": lambda text: quote(json.dumps(quote(text)), safe=""),
    "HTML": html.escape,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "lines": lambda text: "\n".join([text[:30], text[30:]]),
    "lines of Python": lambda text: repr("\n".join([text[:30], text[30:]])),
}


@pytest.mark.parametrize("way", CHANGED)
def test_a_secret_in_any_spelling(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_PASSWORD", AWKWARD)
    told = without_secrets(f"before {CHANGED[way](AWKWARD)} after")
    assert re.fullmatch(r"""before (b?\\*["']|%22)?\*\*\*(\\*["']|%22)? after""", told)


def test_where_a_secret_goes_on_in_another_way_its_tail_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_PASSWORD", secret("tail"))
    for tail in ("-and-more", "\N{HORIZONTAL ELLIPSIS}"):
        assert without_secrets(f'a "{secret("tail")[:20]}{tail}" is') == 'a "***" is'


def test_digits_are_not_taken_out_of_longer_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "12345678")
    text = "112345678 123456789 12345678.5 0.12345678 {}. {}, {} 5"
    assert without_secrets(text.format(*["12345678"] * 3)) == text.format(*["***"] * 3)


def test_a_file_that_a_variable_names_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_KEY", str(tmp_path))
    assert without_secrets(f"cannot write to {tmp_path}/out") == f"cannot write to {tmp_path}/out"


@pytest.mark.parametrize("name", ["DB_PWD", "GITHUB_PAT", "SIGNING_KEY", "APIKEY", "PGPASSWORD", "X_KEY_BASE64"])
def test_names_of_variables_that_hold_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, secret(name))
    monkeypatch.setenv(f"{name}_ID", secret("id"))
    assert without_secrets(f"{secret(name)} of {secret('id')}") == f"*** of {secret('id')}"


@pytest.mark.parametrize("part", ["x-", "://a:", "token:", "-eyJ", "%5c", "\\", "&amp;", "basic ", "&a"])
def test_time_grows_with_the_text_and_no_faster(part: str) -> None:
    """Squared, it would be hours, and no test has that long."""
    assert without_secrets(part * 1_000_000) == part * 1_000_000


def test_variables_may_go_while_a_message_is_made() -> None:
    names = [f"PASSING_{number}" for number in range(200)]
    going = threading.Event()

    def come_and_go() -> None:
        while not going.is_set():
            for name in names:
                os.environ[name] = ""
            for name in names:
                del os.environ[name]

    thread = threading.Thread(target=come_and_go)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(100):
            without_secrets("a message")
            with own_environment():
                pass
    finally:
        going.set()
        thread.join()
        sys.setswitchinterval(before)


def test_short_values_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "images")
    assert without_secrets("no images in images") == "no images in images"


def test_the_frame_of_a_key_is_no_secret(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", variables["GOOGLE_APPLICATION_CREDENTIALS"])
    assert without_secrets("no -----BEGIN CERTIFICATE----- in it") == "no -----BEGIN CERTIFICATE----- in it"


def test_output_for_programs_stays_what_they_can_read(tmp_path: Path) -> None:
    """Its numbers and keys; texts have no secrets."""
    variables = os.environ | {"DB_PASSWORD": "50000000"}
    assert fruitpipe("schema", variables=variables).stdout == fruitpipe("schema").stdout
    assert "50000000" in fruitpipe("schema").stdout
    (tmp_path / "config.yaml").write_text("password-50000000: 3\n")
    done = fruitpipe("validate", tmp_path / "config.yaml", "--json", code=2, variables=variables)
    (mistake,) = json.loads(done.stdout)
    assert mistake["key"] == "password-***"


def test_a_run_is_published_with_its_real_places(tmp_path: Path) -> None:
    """Though a password is a word, or a number, that they have in them."""
    images = tmp_path / "token=7"
    images.mkdir()
    Image.new("RGB", (9, 9)).save(images / "a.png")
    variables = os.environ | {"X_TOKEN": "features", "DB_PASSWORD": tmp_path.parent.name}
    places = ("run", images, tmp_path / "out", "--backbone", "efficientnet_lite0", "--set", "pca=none")
    fruitpipe(*places, variables=variables)
    (run,) = (tmp_path / "out" / "runs").iterdir()
    found = Manifest.read((run / "manifest.json").read_bytes())
    assert (found.config.inputs, found.config.output) == ([str(images)], str(tmp_path / "out"))
    assert [name for name in found.feature_parts if (tmp_path / "out" / name).exists()]
    assert {file.name for file in found.files} == {
        path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()
    } - {"manifest.json", "report.html", "log.gz"}


def test_command_line_errors_are_filtered_whatever_the_encoding() -> None:
    """Where that is ASCII, click writes to the buffer of a stream, if it has one."""
    done = process(
        f"--{secret('option').rstrip('=')}",
        code=2,
        variables=os.environ | {"PYTHONIOENCODING": "ascii", "X_TOKEN": secret("option").rstrip("=")},
    )
    assert "No such option: --***" in done.stderr


def test_files_that_cannot_be_read_are_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/proc/self/mem")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "a\udcff")
    monkeypatch.setenv("X_TOKEN", "not-utf-8-\udcff-at-all")
    assert without_secrets("a message") == "a message"


def test_keys_that_a_service_gave_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of a role: neither the environment nor a file has them, and each session gets others."""
    given = '{{"Version": 1, "AccessKeyId": "ASIAX", "SecretAccessKey": "{}", "SessionToken": "{}"}}'
    for number in (1, 2):
        (tmp_path / f"given-{number}").write_text(given.format(secret(f"key {number}"), secret(f"token {number}")))
    (tmp_path / "give").write_text(f"cd {tmp_path}; mv given-1 given && cat given || cat given-2\n")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {tmp_path}/give\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with Proxy("http://127.0.0.1:9", rewrite=lambda *_: Response(200)) as proxy:
        Credentials()()
        botocore_client(Place("s3", "photos", proxy.endpoint, "eu-west-3", S3Config())).head_bucket(Bucket="photos")
    told = without_secrets(f"{secret('key 1')}, {secret('token 1')}, {secret('token 2')}, {secret('token 3')}")
    assert told == f"***, ***, ***, {secret('token 3')}"


@pytest.mark.parametrize("arguments", [("run",), ("plan",), ("doctor",), ("doctor", "--json")], ids=" ".join)
def test_a_session_token_with_a_line_end(
    arguments: tuple[str, ...], variables: Mapping[str, str], tmp_path: Path
) -> None:
    verb, *rest = arguments
    mine = variables | {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "JAVA_HOME": "/nowhere"}
    settings = options("http://127.0.0.1:9", "backbone=efficientnet_lite0")
    done = fruitpipe(verb, "s3://photos/images", tmp_path / "out", *rest, *settings, code=2, variables=mine)
    told = done.stdout + done.stderr
    assert "the access key or session token (from env) has a line end" in told
    for kind in ("key", "token"):
        require_hidden(kind, told)
    if verb != "doctor":
        require_hidden("token", Path(variables["FRUITPIPE_TERMINATION_LOG"]).read_text())


@pytest.mark.parametrize("kind", HELD)
def test_a_secret_at_which_a_message_is_cut(kind: str, variables: Mapping[str, str], tmp_path: Path) -> None:
    """By a program that gives credentials and says too much where it fails."""
    (tmp_path / "said").write_text("x" * 233 + HELD[kind].replace("\n", ""))
    (tmp_path / "config").write_text(f"[profile x]\ncredential_process = sh -c 'cat {tmp_path}/said >&2; exit 1'\n")
    profile = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "x"}
    line = one_line_error(fruitpipe("plan", "s3://photos/images", tmp_path, code=2, variables=variables | profile))
    assert "Error when retrieving credentials from custom-process: xxx" in line
    assert HELD[kind][:6] not in line
    require_hidden(kind, line)


@pytest.fixture(scope="module")
def forwarded(variables: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where a store that repeats a secret of each kind leaves it: a run, and the traceback of a plan."""
    folder = tmp_path_factory.mktemp("forwarded")
    kinds = list(TEXTS)
    (folder / "images.txt").write_text("\n".join(f"s3://photos/{number}.jpg" for number in range(len(kinds))))

    def answer(method: str, path: str, headers: dict[str, str]) -> Response:
        if method == "HEAD":
            return Response(200)
        image = re.fullmatch(r"/photos/(\d+)\.jpg", path)
        said = " ".join(TEXTS[kinds[int(image[1])]].split()) if image else f"<Code>Odd</Code>{SAID}"
        return Response(400, said.encode())

    with Proxy("http://127.0.0.1:9", rewrite=answer) as proxy:
        settings = options(proxy.endpoint, "backbone=efficientnet_lite0")
        failed = fruitpipe("run", folder / "images.txt", folder / "out", *settings, code=3, variables=variables)
        planned = fruitpipe("--verbose", "plan", "s3://photos/x", folder, *settings, code=1, variables=variables)
    (run,) = (folder / "out" / "runs").iterdir()
    parts = (folder / "out" / "features").rglob("*.parquet")
    return {
        "failures.parquet": "\n".join(pq.read_table(run / "failures.parquet")["error"].to_pylist()),
        "features": "\n".join(error for part in parts for error in pq.read_table(part)["error"].to_pylist()),
        "traceback": planned.stderr,
        "standard error": failed.stderr,
        "outcome.json": (run / "outcome.json").read_text(),
        "runs": fruitpipe("runs", folder / "out", "--json", variables=variables).stdout,
    }


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("way", ["failures.parquet", "features", "traceback"])
def test_a_secret_that_a_store_repeats(way: str, kind: str, forwarded: Mapping[str, str]) -> None:
    assert f"[{kind}]" in forwarded[way]
    require_hidden(kind, forwarded[way])


@pytest.mark.parametrize("way", ["standard error", "outcome.json", "runs"])
def test_the_commonest_error_of_a_store_that_repeats_secrets(way: str, forwarded: Mapping[str, str]) -> None:
    assert "Most common error: read of s3://photos/" in forwarded[way]
    for kind in TEXTS:
        require_hidden(kind, forwarded[way])


LEAKY = """
    import logging
    import warnings
    from pathlib import Path
    from urllib.request import urlopen

    from fruitpipe import Description
    from fruitpipe.result.manifest import Record

    FOLDER = Path(__file__).parent
    SAID = (FOLDER / "said").read_text()


    def at(moment):
        if (FOLDER / moment).exists():
            (FOLDER / moment).unlink()
            raise RuntimeError(SAID)


    class Backbone:
        def describe(self):
            at("describe")
            return Description(8, 3, "1")

        def load(self):
            at("load")

        def feature(self, pixels):
            if not pixels.any():
                logging.getLogger("library").warning(SAID)
                raise RuntimeError(SAID)
            return pixels.mean((0, 1))


    class Stage:
        def wanted(self, config):
            return config.backbone == "leaky:Backbone"

        def run(self, context):
            at("stage")
            logging.getLogger("library").warning(SAID)
            warnings.warn(SAID)
            with urlopen((FOLDER / "metrics").read_text()) as answer:
                (FOLDER / "metrics").write_bytes(answer.read())
            return Record(label="leak", title="leak", note=SAID, columns=["said"], rows=[[SAID]])


    class Sink:
        def __init__(self, store, run, one_file):
            pass

        def write(self, number, table):
            pass

        def commit(self, parts, scratch):
            at("commit")
            return []

        def abort(self):
            pass
"""


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, variables: Mapping[str, str]) -> Iterator[Path]:
    """The folder of a backbone, a stage and a sink that say all secrets, with a picture at which the backbone fails."""
    folder = tmp_path_factory.mktemp("leaky")
    (folder / "said").write_text(SAID)
    (folder / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (9, 9), (40 * number, 7 * number * number, 0)).save(folder / "images" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        parts = {"fruitpipe.stages": {"leaky": "leaky:Stage"}, "fruitpipe.sinks": {"leaky": "leaky:Sink"}}
        install(folder, "leaky", LEAKY, parts, patch)
        patch.setenv("JAVA_TOOL_OPTIONS", f"-Dhttps.proxyPassword={secret('java')}")
        yield folder


OPTIONS = ("--backbone", "leaky:Backbone", "--set", "failures.max_rate=0.9")
SINK = ("--format", "leaky")
BY_SPARK = ("--set", "spark.master=local[2]")


@pytest.fixture(scope="module")
def published(leaky: Path) -> dict[str, str]:
    """Where a run that is published leaves what was said in it."""
    port, out = free_port(), leaky / "published"
    (leaky / "metrics").write_text(f"http://127.0.0.1:{port}/metrics")
    done = process("run", leaky / "images", out, *OPTIONS, "--metrics", port)
    (run,) = (out / "runs").iterdir()
    return {
        "standard output": done.stdout,
        "standard error": done.stderr,
        "manifest.json": (run / "manifest.json").read_text(),
        "report.html": (run / "report.html").read_text(),
        "failures.parquet": str(pq.read_table(run / "failures.parquet").to_pylist()),
        "show": fruitpipe("show", out).stdout,
        "show --json": fruitpipe("show", out, "--json").stdout,
        "metrics": (leaky / "metrics").read_text(),
    }


@pytest.fixture(scope="module")
def failed(leaky: Path) -> dict[str, str]:
    """The same of one that fails, and whose messages of Spark are shown; a task has failed before."""
    out = leaky / "failed"
    (leaky / "load").touch()
    (leaky / "commit").touch()
    done = process("run", leaky / "images", out, *OPTIONS, *BY_SPARK, *SINK, "--verbose", code=1)
    (run,) = (out / "runs").iterdir()
    _, traceback, after = done.stderr.rpartition("Traceback (most recent call last)")
    return {
        "spark": "".join(re.findall("WARN TaskSetManager: Lost task.*", done.stderr, re.DOTALL)),
        "standard error": done.stderr,
        "traceback": traceback + after,
        "termination log": Path(os.environ["FRUITPIPE_TERMINATION_LOG"]).read_text(),
        "outcome.json": (run / "outcome.json").read_text(),
        "runs": fruitpipe("runs", out).stdout,
        "runs --json": fruitpipe("runs", out, "--json").stdout,
    }


@pytest.fixture(scope="module")
def noted(leaky: Path) -> dict[str, str]:
    """The same of one that is published without what a further stage was to find."""
    out = leaky / "noted"
    (leaky / "stage").touch()
    done = process("run", leaky / "images", out, *OPTIONS)
    (run,) = (out / "runs").iterdir()
    return {"note": done.stdout.partition("\n")[0], "manifest.json": (run / "manifest.json").read_text()}


@pytest.fixture(scope="module")
def unwell(leaky: Path) -> dict[str, str]:
    """What `doctor` says."""
    ways = {}
    for name, arguments in {"doctor": (), "doctor --json": ("--json",)}.items():
        (leaky / "describe").touch()
        ways[name] = fruitpipe("doctor", *OPTIONS, *arguments, code=2).stdout
    return ways


WAYS = {
    "published": ["standard error", "manifest.json", "report.html", "failures.parquet", "show", "show --json"],
    "failed": ["spark", "standard error", "traceback", "termination log", "outcome.json", "runs --json"],
    "noted": ["note", "manifest.json"],
    "unwell": ["doctor", "doctor --json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(("case", "way"), [(case, way) for case, ways in WAYS.items() for way in ways])
def test_a_secret_that_somebody_s_code_repeats(case: str, way: str, kind: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(case)[way]
    assert NAMES in text
    assert f"[{kind}]" in text
    require_hidden(kind, text)


@pytest.mark.slow
def test_a_table_whose_lines_are_cut(failed: Mapping[str, str]) -> None:
    assert NAMES in failed["runs"]
    for kind in TEXTS:
        require_hidden(kind, failed["runs"])


@pytest.mark.slow
def test_metrics_and_standard_output_say_nothing_of_it(published: Mapping[str, str]) -> None:
    assert 'fruitpipe_images_total{status="rejected"} 1.0' in published["metrics"]
    for kind in TEXTS:
        require_hidden(kind, published["metrics"] + published["standard output"])


@pytest.mark.slow
def test_a_secret_that_java_repeats(leaky: Path, failed: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Picked up JAVA_TOOL_OPTIONS: -Dhttps.proxyPassword=***\n" in failed["standard error"]
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:+NoSuchThing")
    monkeypatch.setenv("FRUITPIPE_CACHE", str(leaky / "cache"))
    process("run", leaky / "images", leaky / "unstarted", *OPTIONS, *BY_SPARK, code=1)
    kept = (leaky / "cache" / "spark" / "failed-start.log").read_text()
    assert "Picked up JAVA_TOOL_OPTIONS: -Dhttps.proxyPassword=***\n" in kept


TASK = """
import logging, sys
from pathlib import Path
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import FruitpipeError
from fruitpipe.spark.cluster import cluster
folder, said = Path(sys.argv[1]), Path(sys.argv[1], "said").read_text()
def task(number):
    logging.warning("a warning: %s", said)
    try:
        raise ValueError(said)
    except ValueError as error:
        raise FruitpipeError("an error of ours") from error
with cluster(SparkConfig(master="local[1]"), Environment.read(), folder / "spark.log") as spark:
    try:
        spark.map(task, 1)
    except FruitpipeError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_secret_in_spark_s_log(variables: Mapping[str, str], tmp_path: Path) -> None:
    """As that of a pod, which nobody filters afterwards."""
    (tmp_path / "said").write_text(SAID)
    done = subprocess.run(
        [sys.executable, "-c", TASK, tmp_path], capture_output=True, text=True, check=False, env=variables
    )
    assert done.stdout == "an error of ours\n", done.stderr
    log = (tmp_path / "spark.log").read_text()
    assert f"a warning: {NAMES}" in log
    assert f"ValueError: {NAMES}" in log
    for kind in TEXTS:
        require_hidden(kind, log)
