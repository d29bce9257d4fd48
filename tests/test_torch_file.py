from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from fruitpipe.backbones.torch_file import MAGIC, read_tensors


class Global:
    """Pickles as the name of something in a module that is not here."""

    def __init__(self, module: str, name: str) -> None:
        self.name = (module, name)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Global, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Storage:
    """Pickles as a reference to a storage."""

    def __init__(self, kind: str, key: str, values: NDArray[Any]) -> None:
        self.kind, self.key, self.values = kind, key, values


class Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """The Python one: it can be taught to write names that cannot be imported."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_global_name(self, each: Global) -> None:
        module, name = each.name
        self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def save_call(self, each: Call) -> None:
        self.save(each.function)
        self.save(tuple(each.arguments))
        self.write(pickle.REDUCE)

    dispatch[Global] = save_global_name
    dispatch[Call] = save_call

    def persistent_id(self, each: Any) -> Any:
        if isinstance(each, Storage):
            return "storage", Global("torch", each.kind), each.key, "cpu", each.values.size, None
        return None


def dump(each: Any) -> bytes:
    sink = io.BytesIO()
    Pickler(sink, 2).dump(each)
    return sink.getvalue()


def tensor(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, OrderedDict())


def torch_file(tensors: dict[str, Call], storages: list[Storage], magic: int = MAGIC) -> bytes:
    """A file as torch.save wrote it before 1.6."""
    head = [magic, 1001, {"little_endian": True}, OrderedDict(tensors), [storage.key for storage in storages]]
    raw = (struct.pack("<q", storage.values.size) + storage.values.tobytes() for storage in storages)
    return b"".join([*map(dump, head), *raw])


def read(tmp_path: Path, data: bytes) -> dict[str, NDArray[Any]]:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_tensors(path)


def test_tensors_are_read_with_their_offsets_and_strides(tmp_path: Path) -> None:
    floats = Storage("FloatStorage", "94", np.arange(100, dtype="<f4"))
    longs = Storage("LongStorage", "95", np.array([7, -8], "<i8"))
    tensors = {
        "plain": tensor(floats, 0, (2, 3), (3, 1)),
        "shifted": tensor(floats, 10, (2, 3), (3, 1)),
        "permuted": tensor(floats, 5, (4, 3, 2), (1, 8, 4)),
        "every other": tensor(floats, 1, (5,), (2,)),
        "count": tensor(longs, 1, (), ()),
    }
    found = read(tmp_path, torch_file(tensors, [longs, floats]))
    values = floats.values
    assert list(found) == list(tensors)
    np.testing.assert_array_equal(found["plain"], values[:6].reshape(2, 3))
    np.testing.assert_array_equal(found["shifted"], values[10:16].reshape(2, 3))
    np.testing.assert_array_equal(found["permuted"], values[5:29].reshape(3, 2, 4).transpose(2, 0, 1))
    np.testing.assert_array_equal(found["every other"], values[1:11:2])
    assert found["count"] == -8
    assert found["plain"].dtype == np.float32


CALLS = {
    "os.system": Call(Global("os", "system"), "touch owned"),
    "builtins.eval": Call(Global("builtins", "eval"), "open('owned', 'w')"),
    "builtins.getattr": Call(Global("builtins", "getattr"), {}, "clear"),
    "torch.load": Call(Global("torch", "load"), "x"),
    "collections.Counter": Call(Global("collections", "Counter")),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_other_code_can_be_called_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    floats = Storage("FloatStorage", "0", np.zeros(4, "<f4"))
    data = torch_file({"x": tensor(floats, 0, (4,), (1,)), "evil": CALLS[name]}, [floats])
    pickletools.dis(data, out=io.StringIO())  # what the test wrote is a pickle
    with pytest.raises(ValueError, match=f"{name} is not allowed"):
        read(tmp_path, data)
    assert not (tmp_path / "owned").exists()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return sink.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"text", bytes(100), zipped(), pickle.dumps(1) * 5, torch_file({}, [], 5)], ids=range(6)
)
def test_a_file_of_another_kind_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match="weights"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (3, 1)), (9, (1,), (1,))]
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    floats = Storage("FloatStorage", "0", np.zeros(4, "<f4"))
    with pytest.raises(ValueError, match="x"):
        read(tmp_path, torch_file({"x": tensor(floats, offset, shape, strides)}, [floats]))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    floats = Storage("FloatStorage", "0", np.zeros(100, "<f4"))
    data = torch_file({"x": tensor(floats, 0, (100,), (1,))}, [floats])
    with pytest.raises(ValueError, match="x"):
        read(tmp_path, data[:-80])
