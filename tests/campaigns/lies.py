"""Lies: an S3 server behind a proxy that says what is not so, or says nothing.

A run ends right or with one line that says why; whatever it kept, an honest server's next run is right.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from faults import Head, Link, Proxy, Response, s3_error
from s3 import upload
from seaweed import BUCKET, Server

import fruitpipe
from campaigns.concurrency import Template, Watch, vectors_of
from fruitpipe.config import S3Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.result.garbage import collect

Rewrite = Callable[[str, str, dict[str, str]], Response | None]
NOTHING = Response(200, b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>')


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    key: str
    query: dict[str, str]

    @classmethod
    def of(cls, method: str, path: str) -> Request:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return cls(method, unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/"), query)

    @property
    def lists(self) -> str | None:
        return self.query.get("prefix", "") if "list-type" in self.query else None


class Some:
    """Answers the first `most` of the requests that are meant, after the first `after` of them."""

    def __init__(self, meant: Callable[[Request], bool], answer: Response, most: int = 1 << 30, after: int = 0) -> None:
        self._meant, self._answer, self._range = meant, answer, range(after, after + most)
        self._count, self._lock = 0, threading.Lock()

    def __call__(self, method: str, path: str, _: dict[str, str]) -> Response | None:
        if not self._meant(Request.of(method, path)):
            return None
        with self._lock:
            self._count += 1
            return self._answer if self._count - 1 in self._range else None


class Liar(Proxy):
    """Also tells a wrong etag with every n-th image, and does not answer some requests at all."""

    wrong_etags = 0
    hangs: Callable[[str, str, dict[str, str]], Response | None] = staticmethod(lambda *_: None)
    """as `rewrite`; where it would answer, nobody does"""
    _reads = 0

    async def _forward(self, client: Link, server: Link, request: Head, fault: str) -> bool:
        if self.hangs(request.first[0], request.first[1], request.headers):
            await asyncio.sleep(3600)
        return await super()._forward(client, server, request, fault)

    async def _answer(self, client: Link, server: Link, request: Head, response: Head, fault: str) -> bool:
        if self.wrong_etags and reads_image(Request.of(request.first[0], request.first[1])):
            self._reads += 1
            if self._reads % self.wrong_etags == 0:
                raw = re.sub(rb'(?i)(\netag: )"\w+"', rb'\1"0123456789abcdef0123456789abcdef"', response.raw)
                response = response._replace(raw=raw)
        return await super()._answer(client, server, request, response, fault)


class Lie(NamedTuple):
    """What a server does, as attributes of a Liar, and how a run ends: `right`, or part of its error."""

    ends: str
    attributes: dict[str, Any]
    after_a_run: bool = False
    """whether the result has a run of the same images already, and so their features"""


def lies(outage: float) -> dict[str, Lie]:
    """All, by name.

    outage: seconds that the server answers 503
    """
    error = s3_error(200, "InternalError", "We encountered an internal error. Please try again.")
    changed = "changed between listing and reading: run again"

    def rewritten(ends: str, *some: Any, **more: int) -> Lie:
        return Lie(ends, {"rewrite": Some(*some, **more)})

    def images(it: Request) -> bool:
        return it.lists == "few/"

    def features(it: Request) -> bool:
        return (it.lists or "").startswith("out/features")

    def written(it: Request) -> bool:
        return it.method == "PUT"

    return {
        "images listed late": rewritten("no images in", images, NOTHING),
        "features listed late": rewritten("right", features, NOTHING)._replace(after_a_run=True),
        "slow, partial and broken answers": Lie("right", {"latency": 0.1, "truncated": 0.1, "reset": 0.05}),
        "200 with an error, for images": rewritten(changed, reads_image, error, 3),
        "200 with an error, for a list, once": rewritten("right", images, error, 1),
        "200 with an error, for a list, always": rewritten("(InternalError)", images, error),
        "200 with an error, for what is written": rewritten("ETag Header missing", written, error, 3, 6),
        "200 with an error, for the manifest": rewritten("ETag Header missing", is_manifest, error, 1),
        "wrong etags": Lie(changed, {"wrong_etags": 5}),
        "a clock that jumps amid the run": rewritten(
            "clock differs", reads_image, s3_error(403, "RequestTimeTooSkewed"), after=9
        ),
        "a session that ends between list and read": rewritten("expired", reads_image, s3_error(400, "ExpiredToken")),
        "503 for a while": Lie("right", {"rewrite": Outage(outage)}),
        "some answers never come": Lie("right", {"hangs": Some(reads_image, NOTHING, 3, 5)}),
        "no answer ever comes": Lie("does not answer in time", {"hangs": Some(lambda _: True, NOTHING)}),
    }


def reads_image(it: Request) -> bool:
    return it.method == "GET" and it.key.endswith(".png")


def is_manifest(it: Request) -> bool:
    return it.method == "PUT" and it.key.endswith("manifest.json")


class Outage:
    """503 for some seconds from the first image on."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, 0.0

    def __call__(self, method: str, path: str, _: dict[str, str]) -> Response | None:
        if not self._end and reads_image(Request.of(method, path)):
            self._end = time.monotonic() + self._seconds
        return s3_error(503, "ServiceUnavailable") if time.monotonic() < self._end else None


class Campaign:
    """One result behind the proxy after another."""

    def __init__(self, template: Template, server: Server) -> None:
        self.template, self.server = template, server
        self.admin: Any = server.client(server.identities["admin"], attempts=3)
        upload(self.admin, template.folder / "few", "few")

    def play(self, name: str, lie: Lie) -> str:
        """How a run ended to which the proxy lied; then an honest one must be right.

        Raises AssertionError where it is not, or where the first one published what is not so.
        """
        for each in self.admin.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="out/"):
            for found in each.get("Contents", []):
                self.admin.delete_object(Bucket=BUCKET, Key=found["Key"])
        if lie.after_a_run:
            self._run(self.server.endpoint)
        with Liar(self.server.endpoint) as proxy:
            vars(proxy).update(lie.attributes)
            try:
                run = self._run(proxy.endpoint)
                counts = run.manifest.counts
                right = counts.ok == counts.images == 30
                ended = run.reason or ("right" if right else f"published with {counts.by_status}")
            except FruitpipeError as error:
                ended = str(error)
                assert "\n" not in ended, f"{name}: more than a line: {ended}"
                assert "unexpected" not in ended, f"{name}: {ended}"
        assert lie.ends in ended, f"{name}: {ended}"
        run = self._run(self.server.endpoint, image={"max_seconds": 21})  # or there would be nothing to do
        assert run.manifest.counts.ok == 30, f"{name}, then: {run.manifest.counts}"
        expected = self.template.vectors["few", "few"]
        assert vectors_of(run.store, run.manifest).equals(expected), f"{name}, then: other vectors"
        collect(run.store)
        Watch(run.store, self.template)
        return ended

    def _run(self, endpoint: str, **others: Any) -> fruitpipe.Run:
        s3 = S3Config(endpoint=endpoint, allow_http=True)
        config = self.template.config("few", f"s3://{BUCKET}/out", s3, **others)
        return fruitpipe.run(config.model_copy(update={"input": f"s3://{BUCKET}/few"}))
