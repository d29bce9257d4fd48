"""A network from elsewhere and its sidecar as one file: a ZIP archive of the two, not compressed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fruitpipe.config.sidecar import MOST_BYTES, Sidecar, sidecar_of

SUFFIXES = (".onnx", ".tflite")
MOST = 2 << 30
"""Bytes of a network: neither format has more in one file."""


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
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in ((self.name, self.network), (self.beside, self.sidecar)):
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


def archive_of(source: bytes | Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source))


def members(source: bytes | Path) -> list[zipfile.ZipInfo]:
    """Network and sidecar. Raises ValueError where there is anything else, or more than fruitpipe puts there."""
    try:
        with archive_of(source) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"no package of a network: {error}") from error
    names = [each.filename for each in found]
    if len(names) != 2 or not names[0].endswith(SUFFIXES) or names[1] != beside(names[0]):
        raise ValueError("no package of a network and its sidecar")
    for each, most in zip(found, (MOST, MOST_BYTES), strict=True):
        if each.compress_type != zipfile.ZIP_STORED or each.file_size > most:
            raise ValueError(f"{each.filename} is compressed, or larger than {most} bytes")
    return found
