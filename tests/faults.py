"""A network that fails: an HTTP proxy on loopback in front of an S3 server, which forwards byte for byte or not."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

GONE = (OSError, EOFError, asyncio.CancelledError)  # one side has closed its connection, or the proxy stops


class Response(NamedTuple):
    """An answer that the proxy gives itself."""

    status: int
    body: bytes = b""


def s3_error(status: int, code: str, message: str = "says the proxy") -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status, body.encode())


OWN = {
    "slow_down": s3_error(503, "SlowDown", "Please reduce your request rate."),
    "internal_error": s3_error(500, "InternalError", "We encountered an internal error. Please try again."),
}
"""Answers of the proxy's own, by the names of their shares."""


class Forwarded(NamedTuple):
    method: str
    path: str  # with its query
    status: int


class Head(NamedTuple):
    """What is before the body of a request or of a response."""

    raw: bytes
    first: list[str]
    headers: dict[str, str]  # their names in lower case

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"


@dataclass
class Link:
    reader: StreamReader
    writer: StreamWriter
    idle: bool = True


class ServerSide(asyncio.StreamReaderProtocol):
    """A connection to the server for one of a client's. In an outage idle clients lose theirs too."""

    def __init__(self, reader: StreamReader, client: Link) -> None:
        super().__init__(reader)
        self.client = client

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.client.idle:
            self.client.writer.close()


@dataclass
class Proxy:
    """Runs from start() to stop(), or as a context. Shares are of requests, and may change while it runs."""

    upstream: str
    slow_down: float = 0  # answered 503, as S3 does under load; not forwarded
    internal_error: float = 0  # answered 500, likewise
    reset: float = 0  # forwarded, and the connection reset before the response or in the middle of its body
    truncated: float = 0  # of GETs that succeed: the connection closed after half of the body
    latency: float = 0  # seconds, for every request
    rewrite: Callable[[str, str, dict[str, str]], Response | None] | None = None  # of method, path, headers
    seed: int = 0
    port: int = 0
    injected: Counter[str] = field(default_factory=Counter)  # by their names, the faults that really were
    log: list[Forwarded] = field(default_factory=list)

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._random = random.Random(self.seed)
        listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listens)), daemon=True)
        self._thread.start()
        assert listens.wait(10), "the proxy does not listen"

    def calm(self) -> None:
        """No faults from now on; what is drawn begins anew, so that a test does not depend on those before it."""
        self.slow_down = self.internal_error = self.reset = self.truncated = 0
        self.rewrite = None
        self.log.clear()
        self.injected.clear()
        self._random.seed(self.seed)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _run(self, listens: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = listener.sockets[0].getsockname()[1]
        listens.set()
        await self._stopped.wait()
        listener.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection of a client, and one to the server for all of its requests."""
        client, server, lasts = Link(reader, writer), None, True
        try:
            while lasts:
                request = await read_head(reader)
                client.idle = False
                await asyncio.sleep(self.latency)
                fault = self._fault(request)
                if answer := self._own_answer(request, fault):
                    lasts = await reply(client, request, answer)
                else:
                    server = server or await connect(client, self.upstream)
                    lasts = await self._forward(client, server, request, fault)
                client.idle = True
        except GONE:
            pass
        finally:
            for link in filter(None, (client, server)):
                link.writer.close()

    def _fault(self, request: Head) -> str:
        truncated = self.truncated if request.first[0] == "GET" else 0
        draw = self._random.random()
        shares = {name: getattr(self, name) for name in (*OWN, "reset")} | {"truncated": truncated}
        for name, share in shares.items():
            if draw < share:
                return name
            draw -= share
        return ""

    def _own_answer(self, request: Head, fault: str) -> Response | None:
        method, path, _ = request.first
        if self.rewrite and (answer := self.rewrite(method, path, request.headers)):
            self.injected["rewritten"] += 1
            return answer
        if fault in OWN:
            self.injected[fault] += 1
        return OWN.get(fault)

    async def _forward(self, client: Link, server: Link, request: Head, fault: str) -> bool:
        """Whether the client's connection lasts."""
        server.writer.write(request.raw)
        # At the same time as the response, which may come early: 100 Continue, or a refusal.
        sending = asyncio.create_task(send(client, server, request)) if request.has_body else None
        response = await read_head(server.reader)
        while response.status < 200:
            client.writer.write(response.raw)
            response = await read_head(server.reader)
        self.log.append(Forwarded(request.first[0], request.first[1], response.status))
        lasts = await self._answer(client, server, request, response, fault)
        if sending and not (await asyncio.wait({sending}, timeout=0.1))[0]:
            sending.cancel()
            return False
        return lasts and not server.writer.is_closing()

    async def _answer(self, client: Link, server: Link, request: Head, response: Head, fault: str) -> bool:
        """Whether the client gets all of a response."""
        has_body = response.has_body and request.first[0] != "HEAD" and response.status != HTTPStatus.NOT_MODIFIED
        cut = fault == "reset" or (fault == "truncated" and has_body and response.status < 300)
        share = 0.5 if cut else 1
        if fault == "reset" and (not has_body or self._random.random() < 0.5):
            share = 0
        if share:
            client.writer.write(response.raw)
            if has_body:
                await copy_body(server.reader, client.writer, response, share)
            await client.writer.drain()
        if cut:
            self.injected[fault] += 1
        if fault == "reset":
            reset(client.writer)
        return not cut


async def connect(client: Link, upstream: str) -> Link:
    host, _, port = urlsplit(upstream).netloc.partition(":")
    reader, loop = StreamReader(), asyncio.get_running_loop()
    side = ServerSide(reader, client)
    transport, _ = await loop.create_connection(lambda: side, host, int(port))
    return Link(reader, StreamWriter(transport, side, reader, loop))


async def read_head(reader: StreamReader) -> Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, first.split(" ", 2), {name.lower(): value.strip() for name, _, value in pairs})


async def send(client: Link, server: Link, request: Head) -> None:
    """The body of a request. If the client is gone, the server would wait for the rest in vain."""
    try:
        await copy_body(client.reader, server.writer, request)
    except GONE:
        server.writer.close()


async def reply(client: Link, request: Head, answer: Response) -> bool:
    """Whether the connection lasts: a client that waits for 100 Continue may send its body or not."""
    lasts = "expect" not in request.headers
    if lasts and request.has_body:
        await copy_body(client.reader, None, request)
    status, connection = HTTPStatus(answer.status), "keep-alive" if lasts else "close"
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: {connection}\r\n\r\n"
    )
    client.writer.write(lines.encode() + (b"" if request.first[0] == "HEAD" else answer.body))
    await client.writer.drain()
    return lasts


async def copy_body(reader: StreamReader, writer: StreamWriter | None, head: Head, share: float = 1) -> None:
    """All of a body, or a share of it, or of its first chunk. Without a writer, to nowhere."""
    if "transfer-encoding" not in head.headers:
        await copy_bytes(reader, writer, int(int(head.headers["content-length"]) * share))
        return
    while size := int((await copy_line(reader, writer)).split(b";")[0], 16):
        await copy_bytes(reader, writer, int(size * share))
        if share < 1:
            return
        await copy_line(reader, writer)
    while await copy_line(reader, writer) != b"\r\n":
        pass  # trailers


async def copy_line(reader: StreamReader, writer: StreamWriter | None) -> bytes:
    line = await reader.readuntil(b"\n")
    if writer:
        writer.write(line)
    return line


async def copy_bytes(reader: StreamReader, writer: StreamWriter | None, count: int) -> None:
    while count:
        block = await reader.read(min(count, 1 << 16))
        if not block:
            raise EOFError
        if writer:
            writer.write(block)
            await writer.drain()
        count -= len(block)


def reset(writer: StreamWriter) -> None:
    """RST instead of FIN: what the client has not read yet may be lost too."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
