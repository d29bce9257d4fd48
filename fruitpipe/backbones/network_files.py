"""The bytes of a network's file and of its sidecar, wherever they lie."""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fruitpipe import units
from fruitpipe.config import Config, is_remote
from fruitpipe.config.sidecar import MOST_BYTES
from fruitpipe.engines.package import MOST, MOST_OF_A_TOKENIZER, Package, TextPackage, beside
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import open_bucket, open_object, split

TIMEOUT = 60
"""Seconds that a web server may be silent."""


class OnlyTls(HTTPRedirectHandler):
    """Follows redirections, but not to where anybody between could change what comes."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            fp.close()
            raise URLError("it redirects to a place without TLS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def read_network(config: Config) -> tuple[bytes, bytes]:
    """A network and its sidecar, empty where there is none.

    Raises UserError where there is no network, it is too large, or not the one of `sha256`.
    """
    name = config.backbone
    network = required(config, name, MOST, "check its name")
    actual = hashlib.sha256(network).hexdigest()
    if config.sha256 not in {None, actual}:
        raise UserError(
            f"backbone: {name} has the SHA-256 {actual}, and sha256 says {config.sha256}: it is another file, or was "
            "changed. Ask whoever it is from, and correct one of them."
        )
    return network, found(config, beside(name), MOST_BYTES) or b""


def read_text_tower(config: Config, package: Package) -> TextPackage | None:
    """The text tower that the sidecar of a network names; None where it names none.

    Raises ConfigError where the sidecar is none, UserError where a file is missing or too large.
    """
    if (told := package.told.text) is None:
        return None
    folder = config.backbone.removesuffix(package.name)
    advice = f"put it there, or correct {package.beside}"
    network = required(config, f"{folder}{told.network}", MOST, advice)
    return TextPackage(told, network, required(config, f"{folder}{told.tokenizer}", MOST_OF_A_TOKENIZER, advice))


def required(config: Config, name: str, most: int, advice: str) -> bytes:
    """A file. Raises UserError as `found` does, and where there is none."""
    if (data := found(config, name, most)) is None:
        raise UserError(f"backbone: there is no {name}: {advice}.")
    return data


def network_size(config: Config) -> int:
    """Bytes of a network; 0 where a web server does not say. Raises UserError where there is none."""
    name = config.backbone
    try:
        if name.startswith("https://"):
            with asked(name) as answer:
                return int(answer.headers.get("Content-Length") or 0)
        if is_remote(name):
            with open_object(name, config.s3) as file:
                return file.seek(0, io.SEEK_END)
        return Path(name).stat().st_size
    except FileNotFoundError:
        raise UserError(f"backbone: there is no {name}: check its name.") from None


def found(config: Config, name: str, most: int) -> bytes | None:
    """A file; None where there is none. Raises UserError where it has more than so many bytes or cannot be read."""

    def admit(size: int) -> None:
        if size > most:
            raise UserError(f"backbone: {name} has {units.size(size)}, more than {units.size(most)}: choose another.")

    try:
        if name.startswith("https://"):
            return downloaded(name, most, admit)
        if is_remote(name):
            return bytes(open_bucket(name, config.s3).get(split(name)[2], admit=admit).data)
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"backbone: {name} is not a regular file: choose another.")
        admit(status.st_size)
        with Path(name).open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"backbone: cannot read {name}: {error.strerror or error}.") from error


def asked(url: str) -> Any:
    """A web server's answer, to be read. Raises FileNotFoundError, and UserError where there is none."""
    try:
        return build_opener(OnlyTls).open(url, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            raise FileNotFoundError(url) from None
        said = f"{url} answers {error.code} ({error.reason})"
        raise UserError(f"backbone: {said}: download it in another way, and name the file.") from None
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        said = f"cannot reach {url} ({reason})"
        raise UserError(f"backbone: {said}: check it, or download it in another way, and name the file.") from error


def downloaded(url: str, most: int, admit: Callable[[int], None]) -> bytes:
    """What a web server gives."""
    try:
        with asked(url) as answer:
            admit(int(answer.headers.get("Content-Length") or 0))
            data: bytes = answer.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FruitpipeError(f"backbone: {url} arrived incomplete ({error}): try again.") from error
    admit(len(data))
    return data
