"""JPEG XL, whose plug-in for Pillow decodes a picture on opening it: how large it says it is before that.

Layouts are those of ISO/IEC 18181: SizeHeader in part 1, boxes in part 2.
"""

from __future__ import annotations

import struct

from fruitpipe.vision.bad_image import BadImage

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
LENGTHS = (9, 13, 18, 30)
"""Bits of a side, by the selector before it."""
RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height, by their number in the header."""
HEADER = 32
"""Bytes of a codestream in which all that is read here lies."""


class Bits:
    """Numbers of some bits each, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def side(self, small: bool) -> int:
        """A side of a picture, pixels."""
        return 8 * (self.take(5) + 1) if small else self.take(LENGTHS[self.take(2)]) + 1

    def size(self) -> tuple[int, int]:
        """Width and height (SizeHeader)."""
        small = bool(self.take(1))
        height = self.side(small)
        if ratio := RATIOS.get(self.take(3)):
            return height * ratio[0] // ratio[1], height
        return self.side(small), height


def stated_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height that a file states, before any turning.

    Raises BadImage where it states none, or is an animation, of which the plug-in would show the last picture.
    """
    stream = codestream(data)
    if stream[: len(CODESTREAM)] != CODESTREAM:
        raise BadImage("undecodable", "a JPEG XL without a picture")
    bits = Bits(stream[len(CODESTREAM) :])
    size = bits.size()
    if not bits.take(1) and bits.take(1):  # not all of its metadata is as usual, and there is more than colours
        bits.take(3)  # how it is turned
        if bits.take(1):
            bits.size()  # of which it is to be shown
        if bits.take(1) or bits.take(1):
            raise BadImage("undecodable", "a JPEG XL that moves or has a preview, which are not read")
    return size


def codestream(data: bytes | memoryview) -> bytes:
    """The first HEADER bytes of the codestream in a file; fewer where there are no more."""
    if data[: len(CONTAINER)] != CONTAINER:
        return bytes(data[:HEADER])
    found, at = b"", 0
    while at + 8 <= len(data) and len(found) < HEADER:
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and start + 8 <= len(data):  # a longer length follows
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + length if length else len(data)
        if kind == b"jxlp":  # one of several, with its number
            start += 4
        if kind in (b"jxlc", b"jxlp"):
            found += bytes(data[start : min(end, start + HEADER)])
        if end <= at:
            break
        at = end
    return found
