"""JPEG XL, whose plug-in for Pillow decodes a picture on opening it: how large it says it is before that.

Layouts are those of ISO/IEC 18181: SizeHeader in part 1, boxes in part 2.
"""

from __future__ import annotations

import struct

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
LENGTHS = (9, 13, 18, 30)
"""Bits of a side, by the selector before it."""
RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height, by their number in the header."""
HEADER = 16
"""Bytes of a codestream in which its size is told, and more."""


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


def stated_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height that a file states, before any turning. Raises ValueError where it states none."""
    stream = codestream(data)
    if stream[: len(CODESTREAM)] != CODESTREAM:
        raise ValueError("a JPEG XL without a codestream")
    bits = Bits(stream[len(CODESTREAM) :])
    small = bool(bits.take(1))
    height = bits.side(small)
    if ratio := RATIOS.get(bits.take(3)):
        return height * ratio[0] // ratio[1], height
    return bits.side(small), height


def codestream(data: bytes | memoryview) -> bytes:
    """The beginning of the codestream in a file; nothing where there is none."""
    if data[: len(CONTAINER)] != CONTAINER:
        return bytes(data[:HEADER])
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:  # a longer length follows
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        if kind == b"jxlp":  # the first of several, with its number
            start += 4
        if kind in (b"jxlc", b"jxlp"):
            return bytes(data[start : start + HEADER])
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return b""
