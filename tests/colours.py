"""Pictures in all ways that containers write their values, each with the RGB that a viewer shows.

The values are made here and written by tifffile, imagecodecs or byte by byte, not by Pillow, which reads them in
fruitpipe; but for HEIC, which no other package at hand writes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from hostile import chunk
from numpy.typing import NDArray

SIDE = 32
Y, X = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
GREY = X
COLOUR = np.stack([X, Y, 1 - X * Y], axis=-1)
ALPHA = np.where(Y < 0.5, 1.0, X)
"""Opaque above, fading below."""
SOFT = 0.25 + 0.5 * COLOUR
"""What compression by colour differences keeps best."""
INK = np.stack([X, Y, 0 * X, 0.25 * (1 - Y)], axis=-1)
"""Shares of cyan, magenta, yellow and black."""


class Case(NamedTuple):
    """A picture."""

    container: str
    kind: str
    """what its values mean"""
    bits: int
    """of a sample"""
    data: bytes
    seen: NDArray[Any] | None
    """RGB from 0 to 1, shape (32, 32, 3); None where it is to be refused"""
    variant: str = ""
    lossy: bool = False
    """whether the container keeps values only nearly"""


def levels(shares: NDArray[Any], bits: int) -> NDArray[Any]:
    """Shares from 0 to 1 as whole numbers of so many bits."""
    return np.round(shares * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def exact(shares: NDArray[Any], bits: int) -> NDArray[Any]:
    """The shares that are left once they are written with so many bits, as RGB."""
    kept = levels(shares, bits) / (2**bits - 1)
    return kept if kept.ndim == 3 else np.repeat(kept[..., np.newaxis], 3, axis=-1)


def on_white(seen: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    return seen * alpha[..., np.newaxis] + (1 - alpha[..., np.newaxis])


def all_cases() -> Iterator[Case]:
    yield from png_cases()
    yield from bmp_cases()
    yield from tiff_cases()
    yield from lossy_tiffs()
    yield from jpegs()
    yield from newer()


# PNG


def packed(samples: NDArray[Any], bits: int) -> bytes:
    """Rows of samples, shape (height, samples of a row), each row beginning with filter 0."""
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        of_bits = np.unpackbits(samples.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in of_bits]
    return b"".join(b"\0" + row for row in rows)


def png(samples: NDArray[Any], bits: int, colours: int, **chunks: bytes) -> bytes:
    """colours: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colours, 0, 0, 0)
    between = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(packed(samples.reshape(SIDE, -1), bits)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + pixels + chunk(b"IEND", b"")


def png_cases() -> Iterator[Case]:
    for bits in (1, 2, 4, 8, 16):
        values, seen = levels(GREY, bits), exact(GREY, bits)
        yield Case("PNG", "grey", bits, png(values, bits, 0), seen)
        clear = int(values[0, SIDE // 2])
        shown = np.where((values == clear)[..., np.newaxis], 1.0, seen)
        yield Case("PNG", "grey, a transparent level", bits, png(values, bits, 0, tRNS=struct.pack(">H", clear)), shown)
    for bits in (1, 2, 4, 8):
        index = levels(GREY, bits)
        colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
        opaque = np.linspace(0, 255, 2**bits).astype(np.uint8)
        yield Case("PNG", "palette", bits, png(index, bits, 3, PLTE=colours.tobytes()), colours[index] / 255)
        data = png(index, bits, 3, PLTE=colours.tobytes(), tRNS=opaque.tobytes())
        yield Case("PNG", "palette with alpha", bits, data, on_white(colours[index] / 255, opaque[index] / 255))
    for bits in (8, 16):
        values, seen, alpha = levels(COLOUR, bits), exact(COLOUR, bits), levels(ALPHA, bits)
        yield Case("PNG", "RGB", bits, png(values, bits, 2), seen)
        clear = struct.pack(">HHH", *values[SIDE // 2, SIDE // 2].tolist())
        shown = np.where((values == values[SIDE // 2, SIDE // 2]).all(-1, keepdims=True), 1.0, seen)
        data = png(values, bits, 2, tRNS=clear)
        yield Case("PNG", "RGB, a transparent colour", bits, data, shown if bits == 8 else None)
        faded = on_white(seen, exact(ALPHA, bits)[..., 0])
        yield Case("PNG", "RGB with alpha", bits, png(np.dstack([values, alpha]), bits, 6), faded)
        faded = on_white(exact(GREY, bits), exact(ALPHA, bits)[..., 0])
        yield Case("PNG", "grey with alpha", bits, png(np.dstack([levels(GREY, bits), alpha]), bits, 4), faded)


# BMP


def bmp(rows: NDArray[Any], bits: int, palette: bytes = b"", masks: tuple[int, ...] = (), down: bool = False) -> bytes:
    """rows: bytes of each row from the top, padded to four.

    masks: of red, green, blue and alpha, which make it a file with bit fields (a BITMAPV4HEADER).
    """
    size = 108 if masks else 40
    offset = 14 + size + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", size, SIDE, -SIDE if down else SIDE, 1, bits, 3 if masks else 0, rows.size, 2835, 2835,
        len(palette) // 4, 0,
    )  # fmt: skip
    header += struct.pack("<4I", *masks) + b"BGRs" + bytes(48) if masks else b""
    pixels = rows if down else rows[::-1]
    return b"BM" + struct.pack("<IHHI", offset + rows.size, 0, 0, offset) + header + palette + pixels.tobytes()


def bmp_cases() -> Iterator[Case]:
    for bits in (1, 4, 8):
        index = levels(GREY, bits)
        colours = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
        entries = np.hstack([colours[:, ::-1], np.zeros((len(colours), 1), np.uint8)]).tobytes()
        rows = np.frombuffer(packed(index, bits), np.uint8).reshape(SIDE, -1)[:, 1:]
        yield Case("BMP", "palette", bits, bmp(rows, bits, entries), colours[index] / 255)
    blue_first, seen = levels(COLOUR, 8)[..., ::-1], exact(COLOUR, 8)
    for down in (False, True):
        variant = "rows from the top" if down else "rows from the bottom"
        yield Case("BMP", "RGB", 8, bmp(blue_first.reshape(SIDE, -1), 24, down=down), seen, f"24 bits, {variant}")
    five = levels(COLOUR, 5).astype(np.uint16)
    rows = (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]).astype("<u2").view(np.uint8)
    yield Case("BMP", "RGB", 5, bmp(rows, 16), exact(COLOUR, 5))
    six = levels(COLOUR[..., 1], 6).astype(np.uint16)
    rows = (five[..., 0] << 11 | six << 5 | five[..., 2]).astype("<u2").view(np.uint8)
    mixed = np.dstack([five[..., 0] / 31, six / 63, five[..., 2] / 31])
    yield Case("BMP", "RGB, bit fields", 5, bmp(rows, 16, masks=(0xF800, 0x7E0, 0x1F, 0)), mixed)
    for alpha, kind, shown in (
        (0 * GREY, "RGB, a fourth byte of 0", seen),
        (ALPHA, "RGB, a fourth byte of anything", seen),
    ):
        rows = np.dstack([blue_first, levels(alpha, 8)]).reshape(SIDE, -1)
        yield Case("BMP", kind, 8, bmp(rows, 32), shown)
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for alpha, kind, shown in (
        (0 * GREY, "RGB with alpha of 0 everywhere", seen),
        (ALPHA, "RGB with alpha", on_white(seen, exact(ALPHA, 8)[..., 0])),
    ):
        rows = np.dstack([blue_first, levels(alpha, 8)]).reshape(SIDE, -1)
        yield Case("BMP", kind, 8, bmp(rows, 32, masks=masks), shown)


# TIFF

PLANES = {"interleaved": "contig", "separate": "separate"}


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, software=False, **options)
    return file.getvalue()


def tiff_cases() -> Iterator[Case]:
    for order, compression in (("<", None), (">", None), ("<", "deflate"), (">", "lzw")):
        for case in tiffs(byteorder=order, compression=compression):
            stored = [{"<": "II", ">": "MM"}[order], compression or "uncompressed", case.variant]
            yield case._replace(variant=" ".join(filter(None, stored)))


def tiffs(**how: Any) -> Iterator[Case]:
    for bits in (1, 8, 12, 16):
        if bits == 12 and how["compression"]:
            continue  # tifffile packs 12 bits only where it does not compress
        values = levels(GREY, bits).astype(bool) if bits == 1 else levels(GREY, bits)
        packing = {"bitspersample": 12} if bits == 12 else {}
        for photometric in ("minisblack", "miniswhite"):
            kind, seen = "grey", exact(GREY, bits)
            if photometric == "miniswhite":
                kind, seen = "grey, white is zero", 1 - seen
            yield Case("TIFF", kind, bits, tiff(values, photometric=photometric, **packing, **how), seen)
    for bits in (8, 16):
        values, seen, alpha = levels(COLOUR, bits), exact(COLOUR, bits), exact(ALPHA, bits)[..., 0]
        faded, premultiplied = on_white(seen, alpha), levels(seen * alpha[..., np.newaxis], bits)
        for planes in ("interleaved", "separate"):
            for colours, extra, kind, shown in (
                (values, None, "RGB", seen),
                (values, "unspecified", "RGB and another channel", seen),
                (values, "unassalpha", "RGB with alpha", faded),
                (premultiplied, "assocalpha", "RGB with premultiplied alpha", faded),
            ):
                samples = colours if extra is None else np.dstack([colours, levels(ALPHA, bits)])
                if planes == "separate":
                    samples = np.moveaxis(samples, -1, 0)
                options = {"extrasamples": [extra]} if extra else {}
                data = tiff(samples, photometric="rgb", planarconfig=PLANES[planes], **options, **how)
                yield Case("TIFF", kind, bits, data, shown, planes)
        grey, shown = levels(GREY, bits), on_white(exact(GREY, bits), alpha)
        for extra, kind, first, seen_so in (
            ("unspecified", "grey and another channel", grey, exact(GREY, bits)),
            ("unassalpha", "grey with alpha", grey, shown),
            ("assocalpha", "grey with premultiplied alpha", levels(exact(GREY, bits)[..., 0] * alpha, bits), shown),
        ):
            samples = np.dstack([first, levels(ALPHA, bits)])
            data = tiff(samples, photometric="minisblack", planarconfig="contig", extrasamples=[extra], **how)
            yield Case("TIFF", kind, bits, data, seen_so)
        ink = levels(INK, bits) / (2**bits - 1)
        shown = np.stack([(1 - ink[..., n]) * (1 - ink[..., 3]) for n in range(3)], axis=-1)
        for planes in ("interleaved", "separate"):
            samples = levels(INK, bits) if planes == "interleaved" else np.moveaxis(levels(INK, bits), -1, 0)
            data = tiff(samples, photometric="separated", planarconfig=PLANES[planes], **how)
            yield Case("TIFF", "CMYK", bits, data, shown, planes)
    colours = np.random.default_rng(8).integers(0, 2**16, (3, 256), np.uint16)
    data = tiff(levels(GREY, 8), photometric="palette", colormap=colours, **how)
    yield Case("TIFF", "palette", 8, data, colours.T[levels(GREY, 8)] / 65535)
    for dtype in (np.int8, np.float16, np.float32, np.float64):
        data = tiff(GREY.astype(dtype), photometric="minisblack", **how)
        yield Case("TIFF", f"grey, {np.dtype(dtype).name}", 8 * np.dtype(dtype).itemsize, data, None)
    for dtype in (np.uint32, np.int32):
        values = (GREY * 2**30).astype(dtype)
        data = tiff(values, photometric="minisblack", **how)
        yield Case("TIFF", f"grey, {np.dtype(dtype).name} beyond 16 bits", 32, data, None)
    values = (GREY * (2**15 - 1)).astype(np.int16)
    yield Case("TIFF", "grey, int16", 16, tiff(values, photometric="minisblack", **how), None)
    yield Case("TIFF", "RGB, float32", 32, tiff(COLOUR.astype(np.float32), photometric="rgb", **how), None)


def lossy_tiffs() -> Iterator[Case]:
    values, seen = levels(SOFT, 8), exact(SOFT, 8)
    data = tiff(values, photometric="rgb", compression="jpeg", compressionargs={"level": 98})
    yield Case("TIFF", "YCbCr", 8, data, seen, "jpeg", lossy=True)
    red, green, blue = np.moveaxis(seen, -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    differences = np.dstack([luminance, (blue - luminance) / 1.772 + 0.5, (red - luminance) / 1.402 + 0.5])
    for compression in (None, "lzw"):
        data = tiff(levels(differences, 8), photometric="ycbcr", subsampling=(1, 1), compression=compression)
        yield Case("TIFF", "YCbCr", 8, data, seen, compression or "uncompressed", lossy=True)
    lightness, *opponents = np.moveaxis(lab(seen), -1, 0)
    samples = [levels(lightness / 100, 8), *(np.round(each).astype(np.int8).view(np.uint8) for each in opponents)]
    data = tiff(np.dstack(samples), photometric="cielab")
    yield Case("TIFF", "CIE L*a*b*", 8, data, seen, lossy=True)
    yield Case("TIFF", "ICC L*a*b*", 8, tiff(np.dstack(samples), photometric="icclab"), None)


def lab(rgb: NDArray[Any]) -> NDArray[Any]:
    """CIE L*a*b* of sRGB in the light of D50, as TIFF has it (IEC 61966-2-1 and CIE 15, with Bradford's adaptation)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    x, y, z = np.moveaxis(np.cbrt(linear @ to_xyz.T / [0.9642, 1, 0.8249]), -1, 0)  # nothing here is nearly black
    return np.dstack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# JPEG, and what is newer


def jpegs() -> Iterator[Case]:
    values, seen = levels(SOFT, 8), exact(SOFT, 8)
    yield Case("JPEG", "grey", 8, imagecodecs.jpeg8_encode(levels(GREY, 8), level=98), exact(GREY, 8), lossy=True)
    for sampling in ("444", "422", "440", "420", "411"):
        data = imagecodecs.jpeg8_encode(values, level=98, subsampling=sampling)
        yield Case("JPEG", "YCbCr", 8, data, seen, sampling, lossy=True)
    data = imagecodecs.jpeg8_encode(values, level=98, outcolorspace="RGB")
    yield Case("JPEG", "RGB", 8, data, seen, lossy=True)
    yield Case("JPEG", "RGB, without loss", 8, imagecodecs.jpeg8_encode(values, lossless=True), seen)
    ink = levels(INK, 8)
    shown = (1 - ink[..., :3] / 255) * (1 - ink[..., 3:] / 255)
    for space in ("CMYK", "YCCK"):  # with Adobe's marker, and so with values the other way round
        data = imagecodecs.jpeg8_encode(255 - ink, level=98, colorspace="CMYK", outcolorspace=space)
        yield Case("JPEG", space, 8, data, shown, lossy=True)
        if space == "CMYK":  # browsers take all for Adobe's
            yield Case("JPEG", "CMYK without Adobe's marker", 8, without_adobe(data), shown, lossy=True)
    data = imagecodecs.jpeg8_encode(levels(SOFT, 12), level=98, bitspersample=12)
    yield Case("JPEG", "YCbCr", 12, data, None)


def without_adobe(data: bytes) -> bytes:
    """A JPEG without the marker that says how Adobe's programs write colours."""
    at = data.index(b"\xff\xee\0\x0eAdobe")
    return data[:at] + data[at + 16 :]


def on_canvas(data: bytes, x: int, y: int) -> bytes:
    """A GIF whose frame begins at x, y of a larger canvas."""
    sides = data[6:10]
    data = data[:6] + struct.pack("<HH", SIDE, SIDE) + data[10:]
    return data.replace(b"," + bytes(4) + sides, b"," + struct.pack("<HH", x, y) + sides)


def newer() -> Iterator[Case]:
    values, seen, alpha = levels(SOFT, 8), exact(SOFT, 8), levels(ALPHA, 8)
    see_through, faded = np.dstack([values, alpha]), on_white(seen, alpha / 255)
    grey, grey_seen = levels(GREY, 8), exact(GREY, 8)
    for lossless in (True, False):
        how, lossy = ({"lossless": True}, False) if lossless else ({"level": 98}, True)
        kept = "without loss" if lossless else "with loss"
        yield Case("WebP", "RGB", 8, imagecodecs.webp_encode(values, **how), seen, kept, lossy)
        yield Case("WebP", "RGB with alpha", 8, imagecodecs.webp_encode(see_through, **how), faded, kept, lossy)
    colours = np.random.default_rng(8).integers(0, 256, (256, 3), np.uint8)
    yield Case("GIF", "palette", 8, imagecodecs.gif_encode(grey, colormap=colours), colours[grey] / 255)
    shown = np.ones((SIDE, SIDE, 3))
    shown[3:23, 5:29] = colours[grey[:20, :24]] / 255
    data = on_canvas(imagecodecs.gif_encode(grey[:20, :24], colormap=colours), 5, 3)
    yield Case("GIF", "palette, a frame within the canvas", 8, data, shown)
    for bits in (8, 10, 12):
        data = imagecodecs.avif_encode(levels(SOFT, bits), level=98, bitspersample=bits)
        yield Case("AVIF", "RGB", bits, data, seen, lossy=True)
    yield Case("AVIF", "RGB with alpha", 8, imagecodecs.avif_encode(see_through, level=98), faded, lossy=True)
    yield Case("AVIF", "grey", 8, imagecodecs.avif_encode(grey, level=98), grey_seen, lossy=True)
    for bits in (8, 16):
        for kind, samples, shown in (
            ("RGB", levels(SOFT, bits), seen),
            ("RGB with alpha", np.dstack([levels(SOFT, bits), levels(ALPHA, bits)]), faded),
            ("grey", levels(GREY, bits), grey_seen),
            ("grey with alpha", np.dstack([levels(GREY, bits), levels(ALPHA, bits)]), on_white(grey_seen, alpha / 255)),
        ):
            known = None if (kind, bits) == ("grey with alpha", 16) else shown
            yield Case("JPEG XL", kind, bits, imagecodecs.jpegxl_encode(samples, lossless=True), known)
    yield Case("JPEG XL", "RGB, float32", 32, imagecodecs.jpegxl_encode(SOFT.astype(np.float32), lossless=True), seen)
    yield Case("HEIC", "RGB", 8, heic("RGB", values), seen, lossy=True)
    yield Case("HEIC", "RGB with alpha", 8, heic("RGBA", see_through), faded, lossy=True)
    yield Case("HEIC", "grey", 8, heic("L", grey), grey_seen, lossy=True)
    yield Case("HEIC", "RGB", 10, heic("RGB;16", levels(SOFT, 16)), seen, lossy=True)


def heic(mode: str, values: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    pillow_heif.from_bytes(mode, (SIDE, SIDE), values.tobytes()).save(sink, quality=98)
    return sink.getvalue()
