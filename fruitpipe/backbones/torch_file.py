"""Read the tensors of a `torch.save` file older than PyTorch 1.6, without PyTorch.

Such a file is a row of pickles: magic number, protocol version, system description, the saved object, the keys of its
storages; then each storage as an int64 count and raw values. Tensors refer to storages by key, with offset and strides.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class Tensor(NamedTuple):
    """A view of a storage, as `torch._utils._rebuild_tensor_v2` is given it; strides in elements."""

    storage: tuple[str, np.dtype[Any]]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: object


class Unpickler(pickle.Unpickler):
    """Resolves only the four names that a file of tensors needs, so that it cannot call other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, *_ = pid
        return key, dtype


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors by name. Raises ValueError where the file is of another kind, damaged, or would run code."""
    try:
        with path.open("rb") as file:
            return tensors_of(file)
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a complete torch.save file from before PyTorch 1.6: {error}") from error


def tensors_of(file: BinaryIO) -> dict[str, NDArray[Any]]:
    if Unpickler(file).load() != MAGIC:
        raise ValueError("another magic number")
    _, _, saved, keys = (Unpickler(file).load() for _ in range(4))
    dtypes = {tensor.storage[0]: tensor.storage[1] for tensor in saved.values()}
    storages = {key: read_storage(file, dtypes[key]) for key in keys}
    return {name: view(name, storages[tensor.storage[0]], tensor) for name, tensor in saved.items()}


def read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    count = int.from_bytes(file.read(8), "little")
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def view(name: str, storage: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, 0, *tensor.shape, *tensor.strides) < 0 or (0 not in tensor.shape and last >= len(storage)):
        raise ValueError(f"tensor {name} reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
