"""The command line against an S3 server: its environment, its options, and what is in a bucket."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from faults import Forwarded, Head, Link, Proxy
from seaweed import BUCKET, Identity, Server


def environment(server: Server, identity: Identity | None, endpoint: str | None = None) -> dict[str, str]:
    """The tests' environment with the keys of one identity and with nothing else for AWS, neither variables nor files.

    With an `endpoint`, AWS tools and libraries find the server by themselves.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    variables |= {name: str(server.folder / "missing") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    if endpoint:
        variables["AWS_ENDPOINT_URL"] = endpoint
    if identity is None:
        return variables | {"AWS_EC2_METADATA_DISABLED": "true"}
    variables |= {"AWS_ACCESS_KEY_ID": identity.access_key, "AWS_SECRET_ACCESS_KEY": identity.secret_key}
    return variables | ({"AWS_SESSION_TOKEN": identity.token} if identity.token else {})


def options(endpoint: str, *assignments: str) -> list[str]:
    """What the command line needs to reach an endpoint, and further assignments."""
    own = [f"s3.endpoint={endpoint}", "s3.allow_http=true"]
    return [part for assignment in (*own, *assignments) for part in ("--set", assignment)]


def upload(client: Any, folder: Path, prefix: str, bucket: str = BUCKET) -> list[str]:
    """Put the files below a folder below a prefix, under the same names; return their URLs, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    keys = [f"{prefix}/{path.relative_to(folder).as_posix()}" for path in files]

    def put(key: str, path: Path) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, keys, files))
    return sorted(f"s3://{bucket}/{key}" for key in keys)


def objects(client: Any, prefix: str, bucket: str = BUCKET) -> dict[str, bytes]:
    """The objects below a prefix, by key, without those that a run deletes while they are read."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = {}
    for key in [listed["Key"] for page in pages for listed in page.get("Contents", [])]:
        with suppress(client.exceptions.NoSuchKey):
            found[key] = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return found


def image_requests(log: list[Forwarded], prefix: str) -> Counter[str]:
    """How often each image below a prefix was asked for."""
    paths = (unquote(urlsplit(each.path).path) for each in log if each.method == "GET")
    return Counter(path for path in paths if path.startswith(f"/{BUCKET}/{prefix}/"))


class Retelling(Proxy):
    """A proxy that changes headers of the server's responses."""

    headers: Mapping[str, str] = {}

    async def _answer(self, client: Link, server: Link, request: Head, response: Head, fault: str) -> bool:
        first, *lines = response.raw[:-4].decode("latin-1").split("\r\n")
        kept = [line for line in lines if line.partition(":")[0].lower() not in self.headers]
        told = [f"{name}: {value}" for name, value in self.headers.items()]
        raw = "\r\n".join([first, *kept, *told, "", ""]).encode("latin-1")
        return await super()._answer(client, server, request, response._replace(raw=raw), fault)
