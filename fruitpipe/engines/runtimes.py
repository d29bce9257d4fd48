"""Libraries that run a network as it is in its file, whatever it is called there and in whatever order its axes are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fruitpipe.engines.choice import CUDA, onnx_library
from fruitpipe.engines.gpu import Gpu
from fruitpipe.errors import UserError

Shape = tuple[int | None, ...]
"""None where an axis may have any length."""
EXTERNAL = b"\x0a\x08location\x12"
"""In an ONNX file, of a tensor that is in another one."""
AT_ONCE, INPUT = 64, 64 << 20
"""Images that a graphics card is given at once, at most, and bytes of them as floats."""


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

    def open(self, shapes: Sequence[tuple[int, ...]], output: int) -> None:
        """Make ready for inputs of these shapes, in the file's order, all zero, and for an output by its number."""

    @property
    def given(self) -> Sequence[NDArray[Any]]:
        """The inputs, of the types that the file says, to be written to."""

    def infer(self) -> NDArray[np.float32]:
        """The output, until the next one."""


def runtime_of(suffix: str, network: bytes, gpu: Gpu | None = None) -> Runtime:
    """A network in a file that ends in .onnx or .tflite; of the first, also on a graphics card.

    Raises UserError where no library for it is installed, or the card cannot be used.
    """
    if suffix == ".tflite":
        return LiteRtRuntime(network)
    if EXTERNAL in network:
        raise UserError("its weights are in another file: save it as one, such as by onnx.save(model, path).")
    if gpu:
        return CudaRuntime(network, gpu)
    return OpenVinoRuntime(network) if onnx_library() == "openvino" else OnnxRuntime(network)


class LiteRtRuntime:
    """By LiteRT."""

    def __init__(self, network: bytes) -> None:
        from fruitpipe.engines.litert import interpreter_of

        self._interpreter: Any = interpreter_of(network)
        self._details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = ([port_of(each) for each in details] for details in self._details)

    def open(self, shapes: Sequence[tuple[int, ...]], output: int) -> None:
        from fruitpipe.engines.litert import silence

        self._inputs, self._output = [each["index"] for each in self._details[0]], self._details[1][output]["index"]
        with silence():
            for index, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape)
            self._interpreter.allocate_tensors()
        for index in self._inputs:  # whatever lay in that memory may be no tokens
            self._interpreter.tensor(index)()[...] = 0

    @property
    def given(self) -> Sequence[NDArray[Any]]:
        return [self._interpreter.tensor(index)() for index in self._inputs]

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

    def open(self, shapes: Sequence[tuple[int, ...]], output: int) -> None:
        from fruitpipe.engines.openvino import load, settings_of

        self._model.reshape({port: list(shape) for port, shape in zip(self._model.inputs, shapes, strict=True)})
        self._request: Any = self._core.compile_model(self._model, "CPU", settings_of("f32")).create_infer_request()
        self._output, self._model = output, None  # whose weights would stay in memory beside the packed ones
        self.given = zeros(self.inputs, shapes)
        for number, each in enumerate(self.given):
            self._request.set_input_tensor(number, load().Tensor(each, shared_memory=True))

    def infer(self) -> NDArray[np.float32]:
        self._request.infer()
        return cast(NDArray[np.float32], self._request.get_output_tensor(self._output).data)


def type_in(port: Any) -> str:
    """Its type as NumPy names it."""
    name: str = port.element_type.get_type_name()
    known = {"f32": "float32", "u8": "uint8", "f16": "float16", "i64": "int64", "i32": "int32", "boolean": "bool"}
    return known.get(name, name)


def shape_in(shape: Any) -> Shape | None:
    """OpenVINO's partial shape."""
    if shape.rank.is_dynamic:
        return None
    return tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)


class OnnxRuntime:
    """By onnxruntime, on the CPU."""

    def __init__(self, network: bytes, *providers: Any) -> None:
        """providers: of onnxruntime, each with its options, which come before the CPU's."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised; the rest is for its authors
        options.use_deterministic_compute = bool(providers)
        self._session: Any = onnxruntime.InferenceSession(
            network, options, providers=[*providers, "CPUExecutionProvider"]
        )
        self.inputs, self.outputs = (
            [Port((each.name,), lengths_of(each.shape), dtype_of(each.type)) for each in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )

    def open(self, shapes: Sequence[tuple[int, ...]], output: int) -> None:
        self.given = zeros(self.inputs, shapes)
        self._named = dict(zip(map(str, self.inputs), self.given, strict=True))
        self._output = [str(self.outputs[output])]

    def infer(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._session.run(self._output, self._named)[0])


def zeros(ports: Sequence[Port], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[Any]]:
    """Room for inputs."""
    return [np.zeros(shape, port.dtype) for port, shape in zip(ports, shapes, strict=True)]


class CudaRuntime(OnnxRuntime):
    """By onnxruntime on a graphics card, as many images at once as it has memory for."""

    settings: ClassVar[dict[str, str]] = {
        "arena_extend_strategy": "kSameAsRequested",  # or it would take twice as much as it needs
        "cudnn_conv_algo_search": "HEURISTIC",  # or what is fastest just now would decide how sums are rounded
        "use_tf32": "0",  # as float32 as on the CPU
    }

    def __init__(self, network: bytes, gpu: Gpu) -> None:
        """Raises UserError where the card cannot be used: onnxruntime would go on by the CPU, and say nothing."""
        import onnxruntime

        given = self.settings | {"device_id": str(gpu.number), "gpu_mem_limit": str(gpu.memory)}
        onnxruntime.set_default_logger_severity(3)  # errors, of which it does not tell otherwise
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()  # of CUDA, as pip brings them
        super().__init__(network, (CUDA, given))
        if CUDA not in self._session.get_providers():
            raise UserError(
                f"onnxruntime cannot use GPU {gpu.number}, and this task's log says why: it needs NVIDIA's driver, and "
                "the libraries that come with fruitpipe[gpu]."
            )

    def open(self, shapes: Sequence[tuple[int, ...]], output: int) -> None:
        """Tries how many images the card and the network take at once, from many to one."""
        free = all(is_free(port.shape) for port in self.inputs)
        most = min(AT_ONCE, INPUT // (4 * int(np.prod(shapes[0])))) if free else 1
        for count in (*halves(most), 1):
            super().open([(count, *shape[1:]) for shape in shapes], output)
            try:
                if len(self.infer()) == count:
                    return
            except Exception:  # for want of memory, or of a network that was made for one image
                if count == 1:
                    raise


def is_free(shape: Shape | None) -> bool:
    """Whether an input takes any number of images, as far as its file says."""
    return shape is None or shape[0] is None


def halves(count: int) -> Iterator[int]:
    """A number, half of it and so on, down to 2."""
    while count > 1:
        yield count
        count //= 2


def lengths_of(shape: Sequence[int | str | None] | None) -> Shape | None:
    """onnxruntime's shape, whose axes may have names."""
    return None if shape is None else tuple(each if isinstance(each, int) else None for each in shape)


def dtype_of(name: str) -> str:
    """onnxruntime's type, such as tensor(float), as NumPy names it."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


def chosen_output(runtime: Runtime, wanted: str | None, name: str, told: str) -> tuple[int | None, int | None]:
    """Number of an output, None where it must be said, and of its axes, None where they are not known.

    wanted: its name, where there is one. name: of the network. told: what says `wanted`, for errors.

    Raises UserError where there is no such output, or it is not in float32.
    """
    outputs = runtime.outputs
    number = 0 if len(outputs) == 1 else None
    if wanted:
        number = next((at for at, each in enumerate(outputs) if wanted in each.names), None)
        if number is None:
            names = ", ".join(map(str, outputs))
            raise UserError(f"{told}: {name} has no output {wanted}: it gives {names}.")
    if number is None:
        return None, None
    if outputs[number].dtype != "float32":
        raise UserError(f"{name} gives {outputs[number].dtype}: choose an output in float32, or export one.")
    shape = outputs[number].shape
    return number, None if shape is None else len(shape)


def shown(shape: Shape | None) -> str:
    """A shape for people."""
    return "any shape" if shape is None else " x ".join("?" if each is None else str(each) for each in shape)
