"""Images of containers and the program at hand that runs them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from contextlib import suppress
from functools import cache
from typing import IO, Any, NamedTuple

SMALL = 1 << 20
"""Bytes below which a part of a saved image may be a document."""


class Layer(NamedTuple):
    """One layer of an image, in the order in which they lie on each other."""

    digest: str
    """of the unpacked tar file, SHA-256"""
    size: int
    """bytes, unpacked"""
    compressed: int
    """bytes, by gzip as when it is pushed"""
    names: tuple[str, ...]
    """of its files"""
    command: str
    """what made it"""


@cache
def engine() -> str | None:
    """The program that runs containers here: docker may be installed without its daemon."""
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return name
    return None


def inspect(image: str) -> dict[str, Any]:
    done = subprocess.run([str(engine()), "image", "inspect", image], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def layers(image: str, compress: bool = False) -> list[Layer]:
    """The layers of an image. Without `compress` their compressed size is 0: that takes a minute."""
    found: dict[str, Layer] = {}
    documents: dict[str, Any] = {}
    with (
        subprocess.Popen([str(engine()), "save", image], stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|") as outer,
    ):
        for member in outer:
            file = outer.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if member.size < SMALL:
                data = file.read()
                with suppress(ValueError):
                    documents[member.name] = json.loads(data)
                    continue
                file = io.BytesIO(data)
            meter = Meter(file, compress)
            with suppress(tarfile.ReadError), tarfile.open(fileobj=meter, mode="r|") as layer:
                names = tuple(each.name for each in layer)
                while meter.read(SMALL):
                    pass
                found[member.name] = Layer(meter.hash.hexdigest(), meter.size, meter.compressed, names, "")
    manifest = documents["manifest.json"][0]
    commands = [each["created_by"] for each in documents[manifest["Config"]]["history"] if not each.get("empty_layer")]
    order = [found[name] for name in manifest["Layers"]]
    return [layer._replace(command=command) for layer, command in zip(order, commands, strict=True)]


class Meter:
    """A file that is read once, and what it amounts to."""

    def __init__(self, file: IO[bytes], compress: bool) -> None:
        self.hash = hashlib.sha256()
        self.size = self.compressed = 0
        self._file = file
        self._gzip = gzip.GzipFile(fileobj=self, mode="wb", compresslevel=6, mtime=0) if compress else None

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        self.size += len(data)
        if self._gzip and data:
            self._gzip.write(data)
        elif self._gzip:
            self._gzip.close()
        return data

    def write(self, data: bytes) -> int:
        """What comes out of gzip."""
        self.compressed += len(data)
        return len(data)
