"""Libraries that run a network as it is in its file, whatever it is called there and in whatever order its axes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fruitpipe.engines.choice import onnx_library
from fruitpipe.errors import UserError

Shape = tuple[int | None, ...]
"""None where an axis may have any length."""
EXTERNAL = b"\x0a\x08location\x12"
"""In an ONNX file, of a tensor that is in another one."""


class Port(NamedTuple):
    """An input or output."""

    names: tuple[str, ...]
    """of which OpenVINO may have several, and none"""
    shape: Shape | None
    """None where not even the number of axes is known"""
    dtype: str

    def __str__(self) -> str:
        return min(self.names, default="one without a name", key=lambda name: (len(name), name))


class Runtime(Protocol):
    """A network. Belongs to one thread, which is the only one that it uses."""

    @property
    def inputs(self) -> Sequence[Port]:
        """In the file's order."""

    @property
    def outputs(self) -> Sequence[Port]:
        """Likewise."""

    def open(self, shape: tuple[int, ...], output: int) -> None:
        """Make ready for an input of this shape, and for an output by its number."""

    @property
    def image(self) -> NDArray[np.float32]:
        """The input, to be written to."""

    def infer(self) -> NDArray[np.float32]:
        """The output, until the next one."""


def runtime_of(suffix: str, network: bytes) -> Runtime:
    """A network in a file that ends in .onnx or .tflite. Raises UserError where no library for it is installed."""
    if suffix == ".tflite":
        return LiteRtRuntime(network)
    if EXTERNAL in network:
        raise UserError("its weights are in another file: save it as one, such as by onnx.save(model, path).")
    return OpenVinoRuntime(network) if onnx_library() == "openvino" else OnnxRuntime(network)


class LiteRtRuntime:
    """By LiteRT."""

    def __init__(self, network: bytes) -> None:
        from fruitpipe.engines.litert import interpreter_of

        self._interpreter: Any = interpreter_of(network)
        self._details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = ([port_of(each) for each in details] for details in self._details)

    def open(self, shape: tuple[int, ...], output: int) -> None:
        from fruitpipe.engines.litert import silence

        self._input, self._output = self._details[0][0]["index"], self._details[1][output]["index"]
        with silence():
            self._interpreter.resize_tensor_input(self._input, shape)
            self._interpreter.allocate_tensors()

    @property
    def image(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._interpreter.tensor(self._input)())

    def infer(self) -> NDArray[np.float32]:
        self._interpreter.invoke()
        return cast(NDArray[np.float32], self._interpreter.get_tensor(self._output))


def port_of(details: dict[str, Any]) -> Port:
    """A tensor as LiteRT describes it."""
    lengths = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    shape = tuple(None if length < 0 else int(length) for length in lengths)
    return Port((details["name"],), shape, np.dtype(details["dtype"]).name)


class OpenVinoRuntime:
    """By OpenVINO, in float32."""

    def __init__(self, network: bytes) -> None:
        from fruitpipe.engines.openvino import core_for

        self._core = core_for("f32")
        self._model = self._core.read_model(network)
        self.inputs, self.outputs = (
            [Port(tuple(each.get_names()), shape_in(each.partial_shape), type_in(each)) for each in ports]
            for ports in (self._model.inputs, self._model.outputs)
        )

    def open(self, shape: tuple[int, ...], output: int) -> None:
        from fruitpipe.engines.openvino import load, settings_of

        self._model.reshape({self._model.inputs[0]: list(shape)})
        self._request: Any = self._core.compile_model(self._model, "CPU", settings_of("f32")).create_infer_request()
        self._output, self._model = output, None  # whose weights would stay in memory beside the packed ones
        self._image: NDArray[np.float32] = np.zeros(shape, np.float32)
        self._request.set_input_tensor(load().Tensor(self._image, shared_memory=True))

    @property
    def image(self) -> NDArray[np.float32]:
        return self._image

    def infer(self) -> NDArray[np.float32]:
        self._request.infer()
        return cast(NDArray[np.float32], self._request.get_output_tensor(self._output).data)


def type_in(port: Any) -> str:
    """Its type as NumPy names it."""
    name: str = port.element_type.get_type_name()
    return {"f32": "float32", "u8": "uint8", "f16": "float16", "i64": "int64"}.get(name, name)


def shape_in(shape: Any) -> Shape | None:
    """OpenVINO's partial shape."""
    if shape.rank.is_dynamic:
        return None
    return tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)


class OnnxRuntime:
    """By onnxruntime, on the CPU."""

    def __init__(self, network: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; the rest is for its authors
        self._session: Any = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = (
            [Port((each.name,), lengths_of(each.shape), dtype_of(each.type)) for each in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )

    def open(self, shape: tuple[int, ...], output: int) -> None:
        self._image: NDArray[np.float32] = np.zeros(shape, np.float32)
        self._given, self._output = {str(self.inputs[0]): self._image}, [str(self.outputs[output])]

    @property
    def image(self) -> NDArray[np.float32]:
        return self._image

    def infer(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._session.run(self._output, self._given)[0])


def lengths_of(shape: Sequence[int | str | None] | None) -> Shape | None:
    """onnxruntime's shape, whose axes may have names."""
    return None if shape is None else tuple(each if isinstance(each, int) else None for each in shape)


def dtype_of(name: str) -> str:
    """onnxruntime's type, such as tensor(float), as NumPy names it."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
