"""Pictures of the page: the thumbnails of a run's images, as far as they are kept and the page has room for them.

What lies in a result may have been made by anybody. It is decoded and encoded anew, so that nothing of it gets into the
page but pixels.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from fruitpipe.errors import UserError
from fruitpipe.explore.columns import packed
from fruitpipe.explore.facts import Facts
from fruitpipe.result.compaction import read_merges, with_merged
from fruitpipe.result.runs import Run
from fruitpipe.storage import layout
from fruitpipe.storage.side_by_side import in_advance, side_by_side
from fruitpipe.tasks.feature_part import AHEAD, damaged_part, have_thumbnails, read_facts, read_features
from fruitpipe.tasks.reduce import spread
from fruitpipe.vision.bad_image import OK, BadImage
from fruitpipe.vision.thumbnails import Cells, Shape, Sheet, cells, shape_of

LARGEST_PAGE = 24_000_000
"""Bytes of a page, its lists aside; images that would take more have no pictures."""
SHEET = 256
"""Pictures that a browser unpacks together."""
QUALITY, METHOD = 55, 4
"""Of WebP: half the bytes of what is kept."""
PROBED = 8
"""Parts whose pictures say how many bytes one takes."""
MARGIN = 1.1
"""How much larger those of others may be."""


class Part(NamedTuple):
    """A feature part whose thumbnails are kept."""

    name: str
    images: int
    """in it, those of other runs included"""


@dataclass(frozen=True)
class Found:
    """Images of a run whose thumbnails are kept, each once, ordered by where those are."""

    parts: list[Part]
    rows: NDArray[np.int64]
    """(m,) of the run"""
    part: NDArray[np.int64]
    """(m,): numbers of parts"""
    cell: NDArray[np.int64]
    """(m,): rows of those"""
    sizes: NDArray[np.int64]
    """(m, 2): width and height of the images as seen, pixels"""

    def only(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Found:
        return Found(self.parts, self.rows[chosen], self.part[chosen], self.cell[chosen], self.sizes[chosen])


@dataclass(frozen=True)
class Pictures:
    """Small pictures of some of a run's images."""

    side: int
    """pixels of the longer side of each"""
    rows: NDArray[np.uint32]
    """(m,) of the run"""
    shapes: NDArray[np.uint8]
    """(m, 2): width and height, pixels"""
    sheets: list[bytes]
    """WebP, of SHEET pictures each"""

    @property
    def facts(self) -> dict[str, int]:
        """What the page's script has to know."""
        return {"side": self.side, "count": len(self.rows), "sheet": SHEET}

    @property
    def columns(self) -> dict[str, str]:
        """As the page holds them."""
        sheets = {f"pictures-{number}": b64encode(data).decode() for number, data in enumerate(self.sheets)}
        rows = np.ascontiguousarray(self.rows.astype("<u4")).tobytes()
        return {"picture-rows": packed(rows), "picture-shapes": packed(self.shapes.tobytes()), **sheets}


def pictures_of(run: Run, facts: Facts, room: int) -> Pictures | None:
    """Pictures that take so many bytes in a page, at most: of listed images, and of others, evenly spaced by path.

    None where the run made no thumbnails. Thumbnails that are damaged are passed over.

    Raises FruitpipeError where features are damaged that are needed to tell old images from new ones.
    """
    side = run.manifest.config.thumbnails
    if side is None:
        return None
    found = find(run, facts, side)
    if not len(found.rows):
        return None
    most = int(room / (4 / 3 * MARGIN * probed(run, found, side)))
    return drawn(run, chosen(found, facts, most), side)


def find(run: Run, facts: Facts, side: int) -> Found:
    """The images whose thumbnails are kept."""
    of_run = with_merged(run.manifest.feature_parts, read_merges(run.store))
    names = have_thumbnails(run.store, sorted(filter(layout.is_feature_part, of_run)), side)
    parts: list[Part] = []
    tables: list[pa.Table] = []
    for name, table in side_by_side(partial(read_facts, run.store), names):
        if table is not None:
            number = pa.repeat(len(parts), len(table))
            seen = table.select(["path", "row", "width", "height"]).append_column("number", number)
            tables.append(seen.filter(pc.equal(table["status"], OK)))
            parts.append(Part(name, len(table)))
    if not tables:
        none = np.empty(0, np.int64)
        return Found([], none, none, none, np.empty((0, 2), np.int64))
    table = pa.concat_tables(tables)
    place = pc.index_in(table["path"], value_set=facts.paths.combine_chunks()).fill_null(-1).to_numpy()
    columns = (table[name].fill_null(1).to_numpy().astype(np.int64) for name in ("number", "row", "width", "height"))
    part, cell, width, height = columns
    sizes = np.maximum(np.stack([width, height], axis=1), 1)
    every = Found(parts, place.astype(np.int64), part, cell, sizes)
    return published(run, facts, every.only(place >= 0))


def published(run: Run, facts: Facts, found: Found) -> Found:
    """Each image once: of one that has changed, or that was tried again, that whose feature gives its vector."""
    far = np.zeros(len(found.rows))
    several = np.bincount(found.rows, minlength=1)[found.rows] > 1
    if several.any():
        names = pa.chunked_array([[found.parts[number].name for number in found.part[several].tolist()]])
        try:
            features = read_features(run.store, names, pa.chunked_array([found.cell[several].astype(np.int32)]))
            vectors = run.model.pca.transform(features)
        except ValueError as error:  # features of several lengths, or of another one
            raise damaged_part(run.store, names[0].as_py()) from error
        width = min(vectors.shape[1], facts.components.shape[1])
        far[several] = np.linalg.norm(vectors[:, :width] - facts.components[found.rows[several], :width], axis=1)
    order = np.lexsort((far, found.rows))
    _, first = np.unique(found.rows[order], return_index=True)
    once = order[first]
    return found.only(once[np.lexsort((found.cell[once], found.part[once]))])


def chosen(found: Found, facts: Facts, most: int) -> Found:
    """At most so many of the images: those in lists first, then others, evenly spaced by path."""
    if len(found.rows) <= most:
        return found
    by_path = np.argsort(found.rows)
    is_listed = np.isin(found.rows[by_path], list(listed(facts)))
    first, others = by_path[is_listed][:most], by_path[~is_listed]
    return found.only(np.sort(np.concatenate([first, others[spread(len(others), most - len(first))]])))


def listed(facts: Facts) -> Iterator[int]:
    """Rows of the images in lists."""
    return (entry.image for each in facts.listings for entry in each.entries if isinstance(entry.image, int))


def probed(run: Run, found: Found, side: int) -> float:
    """Bytes of a picture, as some are."""
    parts = np.unique(found.part)
    some = found.only(np.isin(found.part, parts[spread(len(parts), PROBED)]))
    pictures = drawn(run, some.only(spread(len(some.rows), PROBED * SHEET)), side)
    return sum(map(len, pictures.sheets)) / len(pictures.rows) if pictures else 1


def drawn(run: Run, found: Found, side: int) -> Pictures | None:
    """All of the images, but for those whose thumbnails are damaged; None where all are."""
    rules = run.manifest.config.image
    rows: list[NDArray[np.int64]] = []
    shapes: list[Shape] = []
    sheets: list[bytes] = []
    sheet, count = Sheet(SHEET, side), 0
    for group, pixels in unpacked(run, found, side):
        rows.append(group.rows)
        for cell, (width, height) in zip(group.cell.tolist(), group.sizes.tolist(), strict=True):
            shape = shape_of(width, height, side, rules)
            sheet.place(count % SHEET, Image.fromarray(pixels[cell, : shape.height, : shape.width]))
            shapes.append(shape)
            count += 1
            if count % SHEET == 0:
                sheets.append(sheet.encoded(QUALITY, METHOD))
                sheet = Sheet(SHEET, side)
    if not rows:
        return None
    if count % SHEET:
        sheets.append(sheet.encoded(QUALITY, METHOD))
    return Pictures(side, np.concatenate(rows).astype(np.uint32), np.array(shapes, np.uint8), sheets)


def unpacked(run: Run, found: Found, side: int) -> Iterator[tuple[Found, Cells]]:
    """Images of one part and all cells of its sheet, part by part, but for thumbnails that are damaged or gone."""
    groups = np.split(np.arange(len(found.rows)), np.flatnonzero(np.diff(found.part)) + 1)
    parts = [found.parts[found.part[group[0]]] for group in groups]
    sheets = in_advance(run.store.get, [layout.thumbnails(part.name, side) for part in parts], AHEAD)
    for part, group, (_, data) in zip(parts, groups, sheets, strict=True):
        try:
            pixels = cells(data.result(), part.images, side)
        except (BadImage, FileNotFoundError, UserError):
            continue
        yield found.only(group), pixels
