"""Arrays of a file that somebody else may have made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError


class Header(NamedTuple):
    """What stands before the numbers of an array."""

    start: int
    """where these begin, bytes"""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_arrays(file: BinaryIO, kinds: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """Arrays of a file that `numpy.savez` has written, by name; read-only.

    Their headers are looked at before there is any array, and none may be compressed: a small file cannot ask for much
    memory.

    kinds: of each array its type as NumPy writes it, such as `f8`, without the length where it is text (`U`), and the
    number of its dimensions.

    Raises ValueError where they are not there, of another kind, or damaged.
    """
    try:
        with ZipFile(file) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in kinds}
            headers = {name: header_of(archive, member, *kinds[name]) for name, member in members.items()}
            arrays = {}
            for name, header in headers.items():
                numbers = np.frombuffer(archive.read(members[name]), header.dtype, offset=header.start)
                arrays[name] = numbers.reshape(header.shape)
            return arrays
    except (OSError, FruitpipeError, ValueError):
        raise
    except Exception as error:  # of zipfile or Python's parser, which NumPy gives headers to
        raise ValueError(f"these are no arrays of fruitpipe: {str(error) or type(error).__name__}") from error


def header_of(archive: ZipFile, member: ZipInfo, kind: str, dimensions: int) -> Header:
    """The header of an array. Raises ValueError where it is of another kind, or not as long as its header says."""
    with archive.open(member) as file:
        npy.read_magic(file)
        shape, fortran, dtype = npy.read_array_header_1_0(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} has Python objects, which would need pickles")
    is_kind = dtype.isnative and dtype.str[1:].startswith(kind) and len(shape) == dimensions and not fortran
    if not is_kind or min(shape, default=0) < 0:
        raise ValueError(f"{member.filename} is another array: {dtype} of shape {shape}")
    size = start + dtype.itemsize * math.prod(shape)
    if member.compress_type != ZIP_STORED or not size == member.file_size == member.compress_size:
        raise ValueError(f"{member.filename} is compressed, or not as long as its header says")
    return Header(start, shape, dtype)
