"""What is a secret, by its name or its looks: no config takes it, by whatever door, and no run leaves it anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
import yaml
from command import command, fruitpipe, one_line_error
from processes import children_of, words_of
from pydantic import ValidationError
from s3 import environment, objects, upload
from seaweed import BUCKET, Server

from fruitpipe.config import RECORDED, Config, ConfigError, load_config
from fruitpipe.secret_patterns import SECRET_VALUE, says_secret

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCY"
VALIDATOR = jsonschema.Draft202012Validator(Config.model_json_schema())


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PWD", "PGPASSWORD", "SSH_PASSPHRASE", "AZURE_CONNECTION_STRING",
        "SIGNING_KEY_BASE64", "secret_key", "sas", "spark.authenticate.secret", "spark.executorEnv.HF_TOKEN",
        "spark.ssl.keyPassword", "spark.ssl.trustStorePassword", "spark.kubernetes.authenticate.driver.oauthToken",
        "spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.s3a.bucket.photos.session.token",
        "fs.azure.account.oauth2.client.secret", "fs.azure.account.oauth2.client.secret.me.dfs.core.windows.net",
        "fs.azure.account.key.me.dfs.core.windows.net", "fs.azure.sas.photos.me.blob.core.windows.net",
        "fs.gs.auth.service.account.private.key",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert says_secret(name)
    assert says_secret(name.upper())


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_WEB_IDENTITY_TOKEN_FILE", "PATH", "COMPASS",
        "spark.authenticate", "spark.authenticate.secret.file", "spark.authenticate.secretBitLength",
        "spark.io.encryption.keySizeBits", "spark.ssl.keyStore", "spark.kubernetes.executor.secretKeyRef.HF_TOKEN",
        "spark.kubernetes.driver.secrets.my-token", "spark.hadoop.hadoop.security.credential.provider.path",
        "fs.azure.account.oauth2.client.id", "fs.azure.account.auth.type.me.dfs.core.windows.net",
    ],
)  # fmt: skip
def test_names_of_what_is_none(name: str) -> None:
    assert not says_secret(name)


@pytest.mark.parametrize(
    "value",
    [
        "photos/token=7/x/y.jpg", "s3://photos/eye@2x.jpg", "http://127.0.0.1:9000", "https://[::1]:9000/eye@2x.jpg",
        "abfss://container@account.dfs.core.windows.net/folder", "(?i)secret|password", "a=b&c=d", "basic",
        "C:\\me@home", "-Xmx1g -Dfile.encoding=UTF-8", "me@example.org",
    ],
)  # fmt: skip
def test_values_that_are_none(value: str) -> None:
    assert not SECRET_VALUE.search(value)


PLANTED: dict[str, dict[str, Any]] = {
    "Spark's secret": {"spark": {"conf": {"spark.authenticate.secret": SECRET}}},
    "Azure's secret": {"spark": {"conf": {"spark.hadoop.fs.azure.account.oauth2.client.secret": SECRET}}},
    "variable": {"spark": {"conf": {"spark.executorEnv.HF_TOKEN": SECRET}}},
    "option of Java's": {"spark": {"conf": {"spark.driver.extraJavaOptions": f"-Djavax.net.ssl.keyPassword={SECRET}"}}},
    "connection string": {"spark": {"conf": {"spark.x": f"AccountName=me;AccountKey={SECRET}"}}},
    "token in a URL": {"spark": {"conf": {"spark.jars.repositories": f"https://{SECRET}@host/maven"}}},
    "password in any URL": {"spark": {"conf": {"spark.x": f"jdbc:postgresql://me:{SECRET}@host/photos"}}},
    "password in a query": {"spark": {"conf": {"spark.x": f"jdbc:postgresql://host/photos?password={SECRET}"}}},
    "key in a query": {"track": {"openlineage": f"https://host/?subscription-key={SECRET}"}},
    "code in a query": {"track": {"mlflow": f"https://host/?a=b&code={SECRET}"}},
    "master": {"spark": {"master": f"spark://me:{SECRET}@host:7077"}},
    "endpoint": {"s3": {"endpoint": f"https://{SECRET}@host"}},
    "endpoint and password": {"s3": {"endpoint": f"https://me:{SECRET}@host"}},
    "tag": {"s3": {"tags": {"from": f"https://host/x?X-Amz-Signature={SECRET}"}}},
    "input": {"input": f"s3://{SECRET}@photos/images"},
    "inputs": {"input": ["photos", f"az://photos/images?sv=2022&sig={SECRET}"]},
    "signed path": {"input": f"photos/a.jpg?X-Goog-Signature={SECRET}"},
    "output": {"output": f"s3://me:{SECRET}@photos/out"},
    "model": {"reuse": f"https://me:{SECRET}@host/model"},
    "weights": {"weights": f"https://{SECRET}@host/x.keras"},
}


@pytest.mark.parametrize("kind", PLANTED)
def test_no_door_takes_a_secret_or_repeats_it(kind: str, tmp_path: Path) -> None:
    tree = {"input": "photos", "output": str(tmp_path / "out")} | PLANTED[kind]
    with pytest.raises(ConfigError, match="credentials are not allowed in a config") as refused:
        load_config(None, (), **tree)
    with pytest.raises(ValidationError) as invalid:
        Config.model_validate(tree)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(tree)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    done = fruitpipe("plan", "--config", tmp_path / "run.yaml", code=2)
    assert "credentials are not allowed in a config" in one_line_error(done)
    for said in (str(refused.value), str(invalid.value), done.stdout, done.stderr):
        assert SECRET not in said
    assert not (tmp_path / "out").exists()


def test_advice_for_settings_of_spark_says_where_they_belong() -> None:
    with pytest.raises(ConfigError, match=r"in the environment, .*, in spark-defaults.conf .*, or .* in a Secret\."):
        load_config(input="a", output="b", **{"spark": PLANTED["variable"]["spark"]})


def test_results_that_recorded_one_can_still_be_read() -> None:
    tree = {"input": "photos", "output": "out"} | PLANTED["variable"]
    assert Config.model_validate(tree, context=RECORDED).spark.conf == PLANTED["variable"]["spark"]["conf"]


def test_settings_that_only_name_a_secret_are_taken() -> None:
    conf = {"spark.kubernetes.executor.secretKeyRef.HF_TOKEN": "tokens:hf"}
    tree = {
        "input": "photos",
        "output": "out",
        "spark": {"conf": conf},
        "s3": {"encryption": "aws:kms", "kms_key": "a"},
    }
    VALIDATOR.validate(tree)
    assert load_config(None, (), **tree).spark.conf == conf


@pytest.mark.slow
@pytest.mark.parametrize("user", [SECRET, f"me:{SECRET}"])
def test_a_user_in_the_endpoint_of_the_environment_is_left_out(user: str, tmp_path: Path) -> None:
    places = {"AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_REGION": "eu-west-3"}
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": planted("key")}
    variables = os.environ | places | keys | {"AWS_ENDPOINT_URL": f"http://{user}@127.0.0.1:9"}
    plan = ("--verbose", "plan", "s3://photos/images", tmp_path)
    said = fruitpipe(*plan, code=2, variables=variables).stderr
    assert "the endpoint http://127.0.0.1:9 has no TLS" in said
    assert SECRET not in said
    said = fruitpipe(*plan, "--set", "s3.allow_http=true", code=2, variables=variables).stderr
    assert "nothing answers at http://127.0.0.1:9: check AWS_ENDPOINT_URL" in said
    assert SECRET not in said


def planted(name: str) -> str:
    """44 characters, with + and / and = among them."""
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("master", "file", "words"),
    [("auto", "workers.log", "fruitpipe.workers.nursery"), ("local[2]", "spark.properties", "SparkSubmit")],
)
def test_a_run_leaves_no_secret_of_its_environment_anywhere(
    master: str, file: str, words: str, server: Server, fruits: Path, public_folder: Path, tmp_path: Path
) -> None:
    """Neither in the bucket, on disk and in what it says, nor, meanwhile, on command lines and in temporary files."""
    identity, client = server.identities["admin"], server.client(server.identities["admin"])
    upload(client, min(fruits.iterdir()), "secrets/images")
    names = ("HF_TOKEN", "DB_PASSWORD", "MY_API_KEY", "endpoint")
    held = {name: planted(name) for name in names} | {"AWS_SECRET_ACCESS_KEY": identity.secret_key}
    endpoint = server.endpoint.replace("://", f"://me:{quote(held['endpoint'], safe='')}@")
    variables = environment(server, identity, endpoint) | {name: held[name] for name in names[:3]}
    variables |= {"TMPDIR": str(public_folder), "FRUITPIPE_CACHE": str(tmp_path / "cache")}
    settings = ["s3.allow_http=true", "backbone=orb", "words.size=16", f"spark.master={master}"]
    options = [part for setting in settings for part in ("--set", setting)]
    out = f"secrets/{file}"
    places = (f"s3://{BUCKET}/secrets/images", f"s3://{BUCKET}/{out}")
    seen: dict[str, bytes] = {}

    with subprocess.Popen(
        command("run", *places, *options, "--verbose"), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:

        def watch() -> None:
            while run.poll() is None:
                look(run.pid, public_folder, seen)
                time.sleep(0.1)

        watching = threading.Thread(target=watch)
        watching.start()
        seen["standard output"], seen["standard error"] = run.communicate(timeout=300)
        watching.join()
    assert run.returncode == 0, seen["standard error"]
    assert [name for name in seen if name.endswith(file)]
    assert [name for name in seen if words in name]
    seen |= objects(client, out)
    seen |= {str(path): path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert json.loads(next(text for name, text in seen.items() if name.endswith("/manifest.json")))["config"]
    for name, secret in held.items():
        spellings = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
        assert not [
            place for place, text in seen.items() for each in spellings if each.encode() in text + place.encode()
        ], name


def look(pid: int, folder: Path, seen: dict[str, bytes]) -> None:
    """What others could see of a run while it goes on, and what lies in its temporary folders."""
    for each in children_of(pid):
        seen[" ".join(words_of(each))] = b""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and path.suffix != ".so":
                seen[str(path)] = path.read_bytes()
        except OSError:
            continue
