"""`fruitpipe serve` in a process of its own, asked over HTTP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from command import command, hearing

from fruitpipe.model.model import Model, load_model


class Served(NamedTuple):
    model: Model
    host: str
    port: int
    process: subprocess.Popen[str]

    def ask(self, body: Any = None, *, headers: dict[str, str] | None = None, path: str = "/vectors") -> Answer:
        """GET without a body, else POST."""
        connection = HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return Answer(answer.status, json.loads(text) if is_json else {})
        finally:
            connection.close()


class Answer(NamedTuple):
    code: int
    content: dict[str, Any]


@contextmanager
def serving(folder: Path, *options: object) -> Iterator[Served]:
    words = hearing(command("serve", folder, "--port", 0, *options))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("http://"), process.communicate()
            place = urlsplit(line.strip())
            assert place.hostname
            assert place.port
            yield Served(load_model(folder), place.hostname, place.port, process)
        finally:
            process.kill()
