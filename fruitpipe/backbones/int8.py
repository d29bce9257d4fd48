"""A flatbuffer in int8: its convolutions take and give 8 bits, within ranges that images have shown.

Rounded as a whole, MobileNetV2 has a cosine to float32 of 0.92 at worst. Two things make that 0.99, and cost no time.
What the rounding of weights shifts on average, which is much of it where an image has a plain background, the biases
take up again (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019). And
the first convolutions, of which the first depthwise one alone shifts more than all others, stay in float32: they have
few channels. `benchmarks/precision.py` prints what each is worth.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from warnings import catch_warnings

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from fruitpipe.engines.litert import silence

EXACT = 4
"""Convolutions that stay in float32: the first ones."""
DENSE, DEPTHWISE = "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"
CONVOLUTIONS = ("CONV_2D", DEPTHWISE, DENSE)
INTEGER = (*CONVOLUTIONS, "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D", "PAD", "RELU")
"""Operators that take and give 8 bits; all others stay in float32."""
LEVELS = 127
MOST_OF_A_BIAS = 1 << 30
"""A bias is an integer of 32 bits, in steps of the input times those of the weights."""
NONE = -1
"""Number of a tensor that is not there."""
SMALLEST = 1e-9
"""Range of values that is told from none."""
KINDS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


class Seen(NamedTuple):
    """What a network does with an image, or with several."""

    least: NDArray[np.float32]
    """of each tensor between operators, or zero"""
    most: NDArray[np.float32]
    """likewise"""
    inputs: list[NDArray[np.float64]]
    """of each convolution that is rounded: means of what its kernel meets, (height, width, channels)"""

    @classmethod
    def together(cls, each: Sequence[Seen]) -> Seen:
        least, most, inputs = zip(*each, strict=True)
        means = [np.mean(of_one, axis=0) for of_one in zip(*inputs, strict=True)]
        return cls(np.min(least, axis=0), np.max(most, axis=0), means)


class Convolution:
    """An operator with weights, in a flatbuffer."""

    def __init__(self, kind: str, operator: Any, model: Any) -> None:
        tensors = model.subgraphs[0].tensors

        def array(number: int) -> NDArray[np.float32]:
            return np.frombuffer(model.buffers[tensors[number].buffer].data, np.float32).reshape(tensors[number].shape)

        self.kind, self.operator = kind, operator
        self.input, weights, bias = operator.inputs
        self.output, self.weights = tensors[operator.outputs[0]], tensors[weights]
        stored = array(weights)
        if kind == DENSE:
            stored = stored[:, np.newaxis, np.newaxis]
        self.kernel = stored.transpose(3, 1, 2, 0) if kind == DEPTHWISE else stored
        """(outputs, height, width, inputs of a group)"""
        self.bias = array(bias) if bias != NONE else np.zeros(len(self.kernel), np.float32)

    def seen(self, given: NDArray[np.float32]) -> NDArray[np.float64]:
        """Means of what its kernel meets, (height, width, channels), of an input."""
        if self.kind == DENSE:
            return np.asarray(given.reshape(1, -1, given.shape[-1]).mean(axis=(0, 1), dtype=np.float64, keepdims=True))
        options = self.operator.builtinOptions
        strides = options.strideH, options.strideW
        steps = options.dilationHFactor, options.dilationWFactor
        spans = [(count - 1) * stride + 1 for count, stride in zip(self.output.shape[1:3], strides, strict=True)]
        offsets = [range(0, count * step, step) for count, step in zip(self.kernel.shape[1:3], steps, strict=True)]
        if options.padding == schema.Padding.SAME:
            sizes = zip(offsets, spans, given.shape[1:3], strict=True)
            lacking = [max(offset[-1] + span - size, 0) for offset, span, size in sizes]
            given = np.pad(given, [(0, 0), *((count // 2, count - count // 2) for count in lacking), (0, 0)])

        def mean(y: int, x: int) -> NDArray[np.float64]:
            met = given[0, y : y + spans[0] : strides[0], x : x + spans[1] : strides[1]]
            return np.asarray(met.mean(axis=(0, 1), dtype=np.float64))

        return np.array([[mean(y, x) for x in offsets[1]] for y in offsets[0]])

    @property
    def shape_of_steps(self) -> list[int]:
        """Of an array with a number for each output, beside the weights."""
        axis = len(self.weights.shape) - 1 if self.kind == DEPTHWISE else 0
        return [len(self.bias) if number == axis else 1 for number in range(len(self.weights.shape))]

    def set_bias(self, bias: NDArray[np.float32], model: Any) -> None:
        """Give the operator a bias of its own: several may have one buffer, if not one tensor, and some have none."""
        tensors, name = model.subgraphs[0].tensors, self.output.name + b"/bias"
        model.buffers.append(schema.BufferT(data=np.frombuffer(bias.tobytes(), np.uint8)))
        tensors.append(schema.TensorT([len(bias)], schema.TensorType.FLOAT32, len(model.buffers) - 1, name))
        self.operator.inputs = [*self.operator.inputs[:2], len(tensors) - 1]

    def bounds(self, step: float) -> NDArray[np.float32]:
        """The weight of each output that becomes 127: the largest, or what its bias needs. step: of the input."""
        largest = np.abs(self.kernel).max(axis=(1, 2, 3))
        needed = LEVELS * np.abs(self.bias) / (MOST_OF_A_BIAS * step)
        return np.asarray(np.maximum(np.maximum(largest, needed), SMALLEST), np.float32)

    def corrected(self, bounds: NDArray[np.float32], seen: NDArray[np.float64]) -> NDArray[np.float32]:
        """Biases with which outputs keep their means where weights are rounded."""
        steps = (bounds / LEVELS)[:, np.newaxis, np.newaxis, np.newaxis]
        lost = self.kernel - np.rint(self.kernel / steps) * steps
        groups = seen.shape[-1] // self.kernel.shape[-1]
        shifted = np.einsum(
            "gohwi,hwgi->go", lost.reshape(groups, -1, *lost.shape[1:]), seen.reshape(*seen.shape[:2], groups, -1)
        )
        return np.asarray(self.bias + shifted.ravel(), np.float32)


class Network:
    """A flatbuffer in float32, taken apart."""

    def __init__(self, flatbuffer: bytes) -> None:
        self.model: Any = schema.ModelT.InitFromPackedBuf(flatbuffer)
        (self.graph,) = self.model.subgraphs
        (self.image,) = map(int, self.graph.inputs)
        codes = [self.model.operatorCodes[operator.opcodeIndex] for operator in self.graph.operators]
        kinds = [KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes]
        found = [
            Convolution(kind, operator, self.model)
            for kind, operator in zip(kinds, self.graph.operators, strict=True)
            if kind in CONVOLUTIONS
        ]
        self.exact, self.rounded = found[:EXACT], found[EXACT:]
        self.between = [self.image, *(int(number) for each in self.graph.operators for number in each.outputs)]
        """Tensors between operators, by number."""


class Calibration:
    """What a flatbuffer in float32 does with images."""

    def __init__(self, flatbuffer: bytes) -> None:
        self._flatbuffer, self._network, self._local = flatbuffer, Network(flatbuffer), threading.local()

    def __call__(self, pixels: NDArray[np.uint8]) -> Seen:
        """What it does with one, RGB of shape (side, side, 3). May be called by many threads at once."""
        interpreter = self._interpreter
        interpreter.set_tensor(self._network.image, pixels[np.newaxis].astype(np.float32))
        interpreter.invoke()
        values = [interpreter.tensor(number)() for number in self._network.between]
        return Seen(
            np.array([min(value.min(), 0) for value in values], np.float32),
            np.array([max(value.max(), 0) for value in values], np.float32),
            [each.seen(interpreter.tensor(each.input)()) for each in self._network.rounded],
        )

    @property
    def _interpreter(self) -> Any:
        """Of this thread. It keeps all tensors."""
        if not hasattr(self._local, "interpreter"):
            with silence():
                self._local.interpreter = Interpreter(
                    model_content=self._flatbuffer,
                    num_threads=1,
                    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
                self._local.interpreter.allocate_tensors()
        return self._local.interpreter


def quantised(flatbuffer: bytes, seen: Seen) -> bytes:
    """The flatbuffer in int8. It takes and gives float32, as before. seen: what it did with images."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer

    network = Network(flatbuffer)
    ranges = {
        name_of(network.graph.tensors[number]): {"min": np.array(least), "max": np.array(most)}
        for number, least, most in zip(network.between, seen.least, seen.most, strict=True)
    }
    for each, met in zip(network.rounded, seen.inputs, strict=True):
        given = ranges[name_of(network.graph.tensors[each.input])]
        bounds = each.bounds(max(float(given["max"] - given["min"]), SMALLEST) / (2 * LEVELS + 1))
        each.set_bias(each.corrected(bounds, met), network.model)
        shaped = bounds.reshape(each.shape_of_steps)
        ranges[name_of(each.weights)] = {"min": -shaped, "max": shaped}
    quantizer = Quantizer(packed(network.model))
    for kind in INTEGER:
        quantizer.add_static_config(".*", TFLOperationName(kind), activation_num_bits=8, weight_num_bits=8)
    for each in network.exact:
        only = f"^{re.escape(name_of(each.output))}"
        quantizer.update_quantization_recipe(only, TFLOperationName(each.kind), None, AlgorithmName.NO_QUANTIZE)
    # The quantizer starts an interpreter for nothing but its tensors' names, which warns.
    with silence(), catch_warnings(action="ignore"):
        made = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(made.quantized_model)


def name_of(tensor: Any) -> str:
    return str(tensor.name.decode())


def packed(model: Any) -> bytes:
    """A model as the bytes of a file."""
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
