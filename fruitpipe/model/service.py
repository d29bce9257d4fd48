"""A model behind HTTP: an image in, its vector out, and the most similar images. An extra: fruitpipe[serve].

GET / says which model it is. POST /vectors takes the bytes of one image and answers in JSON: `status`, with `vector`
where that is `ok`, and `error` where it is not. Where there are images to search, `neighbours` are the nearest 12 of
them, or as many as /vectors?k=5 says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from fruitpipe.errors import UserError
from fruitpipe.model.model import Model, Vector
from fruitpipe.vision.bad_image import OK
from fruitpipe.workers.allowance import cores

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:
    raise UserError(
        f"{error.name}, which answers requests, is not installed: pip install 'fruitpipe[serve]'."
    ) from error

WAITING = 4
"""Requests for each core that are read or wait for one, at most; others are told to come again."""
PATIENCE = 30.0
"""Seconds that an image may take to arrive."""
USUAL, MOST = 12, 1000
"""Neighbours that are answered."""
CODES = {OK: 200, "bad_request": 400, "too_large": 413, "unreadable": 503, "busy": 503, "too_late": 408}
"""By status; 422 for all others, whose image is bad."""


class Searched(Protocol):
    """Images among which the most similar are found. Called by many threads at once."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Which they are."""

    def nearest(self, vector: NDArray[np.float32], k: int) -> list[Any]:
        """What JSON is to have of the k nearest to a vector (d,), nearest first.

        Raises UserError for a vector that cannot be compared with others.
        """


class Service:
    """Takes at most so many images at once, each of at most the bytes, pixels, memory and seconds of the model's
    `image`."""

    def __init__(self, model: Model, searched: Searched | None) -> None:
        self._model, self._searched = model, searched
        threads = cores()
        self._pool = ThreadPoolExecutor(threads)
        self._places = asyncio.Semaphore(WAITING * threads)

    async def about(self, request: Request) -> Response:
        card = self._model.card
        said = {"run": card.run, "backbone": card.backbone, "components": self._model.pca.length}
        return answer(200, said | ({"neighbours": self._searched.about} if self._searched else {}))

    async def vectors(self, request: Request) -> Response:
        k = request.query_params.get("k", str(USUAL))
        if not (k.isascii() and k.isdecimal() and len(k) < 9 and int(k) <= MOST):
            return answer_of(failed("bad_request", f"k is not a whole number from 0 to {MOST}"))
        if self._places.locked():
            return answer_of(failed("busy", "the server is at its limit: try again"))
        async with self._places:
            try:
                async with asyncio.timeout(PATIENCE):
                    data = await self._body(request)
            except TimeoutError:
                return answer_of(failed("too_late", f"the image did not arrive within {PATIENCE:g} s"))
            except ClientDisconnect:
                return answer_of(failed("too_late", "the image did not arrive"))
            if data is None:
                most = self._model.card.image.max_bytes
                return answer_of(failed("too_large", f"more bytes than image.max_bytes ({most})"))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._found, data, int(k))

    def _found(self, data: bytes, k: int) -> Response:
        found = self._model.transform_bytes(data)
        if self._searched is None or found.vector is None or not k:
            return answer_of(found)
        try:
            return answer_of(found, self._searched.nearest(found.vector, k))
        except UserError as error:
            return answer_of(failed("rejected", str(error)))

    async def _body(self, request: Request) -> bytes | None:
        """The bytes that were sent; None where they are too many, of which no more are read."""
        most = self._model.card.image.max_bytes
        if int(request.headers.get("content-length", "0")) > most:
            return None
        data = bytearray()
        async for chunk in request.stream():
            if len(data) + len(chunk) > most:
                return None
            data += chunk
        return bytes(data)


def failed(status: str, error: str) -> Vector:
    return Vector("", status, error, None)


def answer_of(found: Vector, neighbours: list[Any] | None = None) -> Response:
    content = {"status": found.status, "error": found.error, "vector": found.vector, "neighbours": neighbours}
    said = {name: value for name, value in content.items() if value is not None}
    return answer(CODES.get(found.status, 422), said)


def answer(code: int, content: dict[str, Any]) -> Response:
    headers = {"Retry-After": "1"} if code == CODES["busy"] else {}
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, code, headers, media_type="application/json")


def listening(host: str, port: int) -> socket.socket:
    """A socket. Raises UserError where the port is taken or forbidden, or the address is none of this machine."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}, port {port} ({error.strerror}): choose others by --host and --port."
        ) from error


def hosts_of(listener: socket.socket) -> list[str]:
    """By which names it may be asked: at an address of this machine alone, by its own only, so that no page of another
    host, whose name leads here, reads answers."""
    address = ip_address(listener.getsockname()[0])
    if not address.is_loopback:
        return ["*"]
    # Starlette 1.0 takes [::1]:8000 for a host that is called [, as none can be.
    return ["localhost", str(address)] if address.version == 4 else ["localhost", f"[{address}]", "["]


def serve(model: Model, listener: socket.socket, searched: Searched | None = None) -> None:
    """Answer requests until the process is told to end.

    searched: whose most similar images are answered, too.

    Raises UserError where the model would run code that the caller has not named, or its parts do not fit.
    """
    model.require_named_code()
    model.transform_bytes(b"")  # starts an engine, which may not be for this machine
    service = Service(model, searched)
    app = Starlette(
        routes=[Route("/", service.about), Route("/vectors", service.vectors, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts_of(listener))],
    )
    settings = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
                               timeout_graceful_shutdown=int(PATIENCE))  # fmt: skip
    uvicorn.Server(settings).run([listener])
