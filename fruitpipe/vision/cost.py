"""What decoding an image takes, told by its header: which ones are cheap for sure, and what others take at least."""

from __future__ import annotations

import re
import struct
from itertools import islice

from fruitpipe.config import ImageConfig
from fruitpipe.vision.formats import JPEG, PNG, stated_size
from fruitpipe.vision.metadata import EXIF, HEAVIEST, START_OF_SCAN, jpeg_segments, weight
from fruitpipe.vision.scale import scale_of

CHEAP = 64 << 20
"""Bytes of memory, beside the file."""
MOST_SEGMENTS, MOST_SCANS = 256, 16
"""Of a cheap JPEG; of scans, the usual progressive one has 10."""
PNG_BYTES = 2 << 20
"""Of a cheap PNG, whose chunks may have 12 bytes each, and take as long as others."""
START = re.compile(bytes((0xFF, START_OF_SCAN)))
BASELINE, SEQUENTIAL, PROGRESSIVE = 0xC0, 0xC1, 0xC2
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frames (ITU-T T.81, table B.1), which say how large a picture is."""
WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
"""Markers that a header does not have, unless it wants to be read in two ways."""
APP1, APP2 = 0xE1, 0xE2
SEVERAL = b"MPF\0"
"""Before the directory of a JPEG with several pictures."""
SLY = re.compile(b"IHDR|Raw profile type")
"""In a PNG, after its header: another one, which Pillow takes instead, and texts that it reads as EXIF."""
PIXEL = 4
"""Bytes of a pixel in Pillow's memory, for all but grey ones."""


def is_cheap(data: bytes | memoryview, side: int, rules: ImageConfig) -> bool:
    """Whether decoding takes no more than CHEAP and a second or so, whatever follows the header.

    side: pixels, of the square that the picture becomes.
    """
    if data[: len(JPEG)] == JPEG:
        return jpeg_is_cheap(data, side, rules)
    return data[: len(PNG)] == PNG and png_is_cheap(data, side)


def png_is_cheap(data: bytes | memoryview, side: int) -> bool:
    if not 24 <= len(data) <= PNG_BYTES or data[12:16] != b"IHDR" or SLY.search(data, 16):
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return bool((2 * width + side) * height * PIXEL <= CHEAP)  # as it is, as RGB, and as wide as it will be


def jpeg_is_cheap(data: bytes | memoryview, side: int, rules: ImageConfig) -> bool:
    frame, exif = None, b""
    for number, (marker, segment) in enumerate(jpeg_segments(data)):
        if marker == START_OF_SCAN:
            return frame is not None and weight(exif) <= HEAVIEST and frame_is_cheap(frame, segment, side, rules)
        if number == MOST_SEGMENTS or marker in WITHOUT_LENGTH:
            return False
        if marker in FRAMES:
            if frame or marker not in (BASELINE, SEQUENTIAL, PROGRESSIVE) or len(segment) < 10:
                return False
            frame = segment
        elif marker == APP1 and segment[4:10] == EXIF:
            exif += segment[10:]  # Pillow takes several as one
        elif marker == APP2 and segment[4:8] == SEVERAL and weight(segment[8:]) > HEAVIEST:
            return False
    return False


def frame_is_cheap(frame: memoryview, scans: memoryview, side: int, rules: ImageConfig) -> bool:
    """Whether a JPEG is cheap, by its frame and what follows its header."""
    if scans[:2] != bytes((0xFF, START_OF_SCAN)) or len(scans) < 5:
        return False
    (height,) = struct.unpack_from(">H", frame, 5)
    scale = scale_of_frame(frame, side, rules)
    kept = coefficients(frame, scans)
    if kept and sum(1 for _ in START.finditer(scans)) > MOST_SCANS:
        return False
    pixels = picture(frame, scale) * (2 if frame[9] == 4 else 1)  # of CMYK, RGB is made
    return kept + pixels + side * int(height) // scale * PIXEL <= CHEAP


def scale_of_frame(frame: memoryview, side: int, rules: ImageConfig) -> int:
    """How many times smaller a JPEG is decoded, as `can_be_scaled` has it."""
    height, width, components = struct.unpack_from(">HHB", frame, 5)
    is_coarse = any(max(sampling >> 4, sampling & 15) > 2 for sampling in frame[11 : 10 + 3 * components : 3])
    return 1 if is_coarse else scale_of(width, height, side, rules)


def picture(frame: memoryview, scale: int) -> int:
    """Bytes of a JPEG's pixels, decoded so many times smaller."""
    height, width = struct.unpack_from(">HH", frame, 5)
    return int(width * height * PIXEL // scale**2)


def coefficients(frame: memoryview, scans: memoryview) -> int:
    """Bytes of a JPEG's coefficients, all of which are kept until the last of several scans; 0 for one scan."""
    height, width, components = struct.unpack_from(">HHB", frame, 5)
    several = frame[1] == PROGRESSIVE or scans[4] < components
    return int(2 * width * height * components) if several else 0


def least_memory(data: bytes | memoryview, side: int, rules: ImageConfig) -> int:
    """Bytes that decoding takes at least, of those whose libraries do not say that they got no memory; else 0."""
    if data[: len(JPEG)] == JPEG:
        frame = None
        for marker, segment in islice(jpeg_segments(data), MOST_SEGMENTS):
            if marker in FRAMES and len(segment) >= 10:
                frame = segment
            if marker == START_OF_SCAN and frame and len(segment) > 4 and (kept := coefficients(frame, segment)):
                return len(data) + kept + picture(frame, scale_of_frame(frame, side, rules))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = webp_size(data)
        return len(data) + 2 * width * height * PIXEL  # the first frame, and the one before
    elif size := stated_size(data):
        return len(data) + size[0] * size[1] * PIXEL
    return 0


def webp_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height in the header of a WebP (RFC 9649, sections 2.5 to 2.7); 0 where there are none."""
    if len(data) < 30:
        return 0, 0
    match bytes(data[12:16]):
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
