"""A network from elsewhere and its sidecar, or its text tower, as one file: a ZIP archive, not compressed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fruitpipe.config.sidecar import MOST_BYTES, Sidecar, TextTower, sidecar_of

SUFFIXES = (".onnx", ".tflite")
MOST = 2 << 30
"""Bytes of a network: neither format has more in one file."""
MOST_OF_A_TOKENIZER = 128 << 20
"""Bytes; SigLIP 2's, of 256,000 tokens, has 34 MB."""
TEXT = "text.zip"
"""Name of the archive of a text tower, beside that of its network."""
MEMBERS = ("text", "text.json", "tokenizer.json")
"""Of it: network, what the sidecar says of it, tokenizer."""


class Package(NamedTuple):
    """A network's file, and what its sidecar says."""

    name: str
    """of the file, such as model.onnx"""
    network: bytes
    sidecar: bytes
    """empty where there is none"""

    @property
    def told(self) -> Sidecar:
        """The sidecar. Raises ConfigError where it is none."""
        return sidecar_of(self.sidecar, self.beside)

    @property
    def beside(self) -> str:
        """The sidecar's name."""
        return beside(self.name)

    def write(self, path: Path) -> None:
        """The same bytes for the same network and sidecar."""
        pack(path, {self.name: self.network, self.beside: self.sidecar})


class TextPackage(NamedTuple):
    """A text tower: its network's file, what the sidecar says of it, and its tokenizer."""

    told: TextTower
    network: bytes
    tokenizer: bytes

    def write(self, path: Path) -> None:
        """The same bytes for the same tower, whatever else its sidecar says."""
        parts = (self.network, self.told.model_dump_json(indent=2).encode(), self.tokenizer)
        pack(path, dict(zip(MEMBERS, parts, strict=True)))


def pack(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an archive, of the same bytes for the same files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def beside(name: str) -> str:
    """Name of the sidecar of a network."""
    return f"{name.removesuffix(PurePosixPath(name).suffix)}.yaml"


def open_package(source: bytes | Path) -> Package:
    """The network and sidecar of a package. Raises ValueError where it is none."""
    network, sidecar = members(source)
    with archive_of(source) as archive:
        return Package(network.filename, archive.read(network), archive.read(sidecar))


def told_in(path: Path) -> Sidecar:
    """The sidecar of a package, whose network is not read."""
    _, sidecar = members(path)
    with archive_of(path) as archive:
        return sidecar_of(archive.read(sidecar), sidecar.filename)


def open_text_package(source: bytes | Path) -> TextPackage:
    """The parts of an archive of a text tower. Raises ValueError where it is none."""
    found = listed(source)
    if [each.filename for each in found] != list(MEMBERS):
        raise ValueError("not a package of a text tower")
    require_small(found, (MOST, MOST_BYTES, MOST_OF_A_TOKENIZER))
    with archive_of(source) as archive:
        network, told, tokenizer = map(archive.read, MEMBERS)
    return TextPackage(TextTower.model_validate_json(told), network, tokenizer)


def archive_of(source: bytes | Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source))


def members(source: bytes | Path) -> list[zipfile.ZipInfo]:
    """Network and sidecar. Raises ValueError where there is anything else, or more than fruitpipe puts there."""
    found = listed(source)
    names = [each.filename for each in found]
    if len(names) != 2 or not names[0].endswith(SUFFIXES) or names[1] != beside(names[0]):
        raise ValueError("not a package of a network and its sidecar")
    require_small(found, (MOST, MOST_BYTES))
    return found


def listed(source: bytes | Path) -> list[zipfile.ZipInfo]:
    """What is in an archive. Raises ValueError where it is none."""
    try:
        with archive_of(source) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"not a package of a network: {error}") from error


def require_small(found: Sequence[zipfile.ZipInfo], limits: Sequence[int]) -> None:
    """Raise ValueError where a member is compressed, or has more bytes than it may."""
    for each, most in zip(found, limits, strict=True):
        if each.compress_type != zipfile.ZIP_STORED or each.file_size > most:
            raise ValueError(f"{each.filename} is compressed, or larger than {most} bytes")
