"""What image files say beside their pixels. It never decides whether a picture is read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from PIL import Image

from fruitpipe.vision.formats import JPEG, PNG
from fruitpipe.vision.resampling import Box

ORIENTATION, SHORT = 0x0112, 3
"""Tag of EXIF and type of its value."""
EXIF = b"Exif\0\0"
"""Before an EXIF block, where a JPEG has it."""
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
"""How a TIFF begins, by the order of its bytes."""
LARGEST_VALUE = 8
"""Bytes of the largest type of value in a TIFF."""
HEAVIEST = 64 << 20
"""Bytes of an EXIF block's entries beyond which it is no photograph's."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF orientation."""
SWAPPED = frozenset(TURNS[number] for number in (5, 6, 7, 8))
"""Turns after which rows are columns."""
FROM_RIGHT = frozenset(TURNS[number] for number in (2, 3, 6, 7))
FROM_BELOW = frozenset(TURNS[number] for number in (3, 4, 7, 8))
"""Turns after which what was first, of columns or of rows, is last."""
KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
"""Chunks of a PNG that its pixels need, and its EXIF."""
LEFT_OUT = frozenset({0xFE, *range(0xE2, 0xEE), 0xEF})
"""Markers of a JPEG's comments and application data, but for JFIF's and Adobe's, which say what its colours are, and
EXIF's."""
START_OF_SCAN = 0xDA


def turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a decoded picture upright; None where it is, or where nothing that can be read says otherwise."""
    if image.format == "JXL" and not image.jpeg:  # type: ignore[attr-defined]
        return None  # its own header said so, and its decoder has turned it
    block = (image.info.get("exif") or b"").removeprefix(EXIF)
    found = orientation(block)
    if not found and image.format not in ("AVIF", "HEIF"):  # which know EXIF's, and their own
        found = by_pillow(image)
    return TURNS.get(found)


def turned(box: Box, size: tuple[int, int], upward: Image.Transpose) -> Box:
    """Where a box that begins at the first pixel of a picture of this size lies once that is turned."""
    (_, _, width, height), (across, down) = box, size
    if upward in SWAPPED:
        width, height, across, down = height, width, down, across
    left = across - width if upward in FROM_RIGHT else 0
    upper = down - height if upward in FROM_BELOW else 0
    return left, upper, left + width, upper + height


def orientation(block: bytes) -> int:
    """The orientation in an EXIF block, a TIFF (6.0, p. 14), whatever else is wrong with it; 0 where there is none."""
    return next((value for tag, kind, _, value in entries(block) if (tag, kind) == (ORIENTATION, SHORT)), 0)


def entries(block: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and first 16 bits of the value of each entry of a TIFF's first directory, as far as it goes."""
    order = ORDERS.get(bytes(block[:4]))
    with suppress(struct.error):
        if order:
            (at,) = struct.unpack_from(f"{order}I", block, 4)
            (count,) = struct.unpack_from(f"{order}H", block, at)
            for number in range(count):
                yield struct.unpack_from(f"{order}HHIH", block, at + 2 + 12 * number)


def weight(block: bytes | memoryview) -> int:
    """Bytes that an EXIF block may take when Pillow reads it, which copies what each entry says is its own."""
    if bytes(block[:4]) not in ORDERS:
        return 0xFFFF * len(block)
    return sum(min(count * LARGEST_VALUE, len(block)) for _, _, count, _ in entries(block))


def by_pillow(image: Image.Image) -> int:
    """The orientation elsewhere, such as in XMP or in a text of a PNG; 0 where it cannot be read."""
    if weight((image.info.get("exif") or b"").removeprefix(EXIF)) > HEAVIEST:
        return 0
    try:
        return int(image.getexif().get(ORIENTATION, 0))
    except Exception:  # noqa: BLE001 - Pillow raises whatever a broken block leads it to
        return 0


def without_metadata(data: bytes | memoryview) -> bytes | None:
    """The same picture without texts and profiles; None where there are none, or none that can be left out."""
    if data[: len(PNG)] == PNG:
        rest = PNG + b"".join(chunk for kind, chunk in png_chunks(data) if kind in KEPT)
    elif data[: len(JPEG)] == JPEG:
        rest = JPEG + b"".join(segment for marker, segment in jpeg_segments(data) if marker not in LEFT_OUT)
    else:
        return None
    return rest if len(rest) < len(data) else None


def png_chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and bytes of each chunk; the last may be cut short."""
    view, at = memoryview(data), len(PNG)
    while at + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        yield kind, view[at : at + 12 + length]
        at += 12 + length


def jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Marker and bytes of each segment before the first scan, then all that follows as one."""
    view, at = memoryview(data), len(JPEG)
    while at + 4 <= len(view) and view[at] == 0xFF and view[at + 1] != START_OF_SCAN:
        (length,) = struct.unpack_from(">H", view, at + 2)
        yield view[at + 1], view[at : at + 2 + length]
        at += 2 + length
    yield START_OF_SCAN, view[at:]
