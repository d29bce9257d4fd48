"""What a vector part says of itself in its footer, so that a later run can take it over without any feature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from fruitpipe.numeric.distribution import Distribution

IMAGES, ERRORS, BLANK = "fruitpipe.images", "fruitpipe.errors", "fruitpipe.blank"


@dataclass(frozen=True)
class PartRecord:
    """Of which images a part is, and what was found as they were projected."""

    images: str
    """digest of the images in their order: paths, labels, and where their features lie"""
    errors: Distribution
    """reconstruction errors"""
    blank: int
    """images whose feature is zeros"""

    @property
    def metadata(self) -> dict[str, str]:
        """As a part's schema has it."""
        return {IMAGES: self.images, ERRORS: self.errors.packed(), BLANK: str(self.blank)}

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes], rows: int) -> Self:
        """That of a part of so many rows, made by anybody. Raises ValueError or KeyError where there is none."""
        images, errors, blank = (metadata[name.encode()].decode() for name in (IMAGES, ERRORS, BLANK))
        record = cls(images, Distribution.unpacked(errors, rows), int(blank))
        if not 0 <= record.blank <= rows:
            raise ValueError("there are more images without a feature than images")
        return record


IMAGE = "unhex(md5(concat_ws(' ', length(path), path, part, row, label)))"
"""The same as `image_digests` in DuckDB."""


def image_digests(rows: pa.Table) -> Iterable[bytes]:
    """Of each image of an index."""
    columns = (rows[name].to_pylist() for name in ("path", "part", "row", "label"))
    for path, part, row, label in zip(*columns, strict=True):
        text = f"{len(path)} {path} {part} {row}" + ("" if label is None else f" {label}")
        yield hashlib.md5(text.encode(), usedforsecurity=False).digest()


def digest_of_images(images: Iterable[bytes]) -> str:
    """Of all images of a part, by their own digests."""
    return hashlib.sha256(b"".join(images)).hexdigest()
