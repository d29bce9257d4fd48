"""Translate a backbone's flatbuffer to ONNX with tf2onnx. An extra: fruitpipe[onnx].

In a process of its own, as tf2onnx imports TensorFlow.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from fruitpipe.backbones.convert import QUIET
from fruitpipe.backbones.own_process import run_module
from fruitpipe.errors import FruitpipeError
from fruitpipe.extras import require
from fruitpipe.scratch import private_folder

OPSET = 18


def to_onnx(flatbuffer: bytes) -> bytes:
    """The network as an ONNX model with the same input and output.

    Raises UserError where tf2onnx is not installed, FruitpipeError where it cannot translate the network.
    """
    require("tf2onnx", "onnx", "translates networks")
    with private_folder() as folder:
        source, target = folder / "backbone.tflite", folder / "backbone.onnx"
        source.write_bytes(flatbuffer)
        if reason := run_module(__name__, source, target, variables=QUIET):
            raise FruitpipeError(f"tf2onnx cannot translate the model's network: {reason}")
        return target.read_bytes()


def know_gelu() -> None:
    """Tell tf2onnx what LiteRT's GELU is, exact or by tanh: of vision transformers' operators, it lacks this one."""
    import numpy as np
    from tf2onnx.handler import tfl_op
    from tf2onnx.utils import make_name as unique

    @tfl_op(["TFL_GELU"])
    class Gelu:
        @classmethod
        def version_1(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            (x,) = node.input
            shapes, dtypes = node.output_shapes, node.output_dtypes
            by_tanh = node.get_attr_value("approximate", 0)

            def apply(operator: str, *operands: Any) -> str:
                names = [
                    each if isinstance(each, str) else ctx.make_const(unique(node.name), np.float32(each)).output[0]
                    for each in operands
                ]
                made: str = ctx.make_node(operator, names, shapes=shapes, dtypes=dtypes).output[0]
                return made

            if by_tanh:
                cubed = apply("Mul", apply("Mul", apply("Mul", x, x), x), 0.044715)
                share = apply("Tanh", apply("Mul", apply("Add", x, cubed), math.sqrt(2 / math.pi)))
            else:
                share = apply("Erf", apply("Mul", x, math.sqrt(0.5)))
            ctx.remove_node(node.name)
            half = apply("Mul", apply("Add", share, 1.0), 0.5)
            ctx.make_node("Mul", [x, half], outputs=[node.output[0]], shapes=shapes, dtypes=dtypes)


def main() -> None:
    source, target = sys.argv[1:]
    import tf2onnx

    know_gelu()
    tf2onnx.convert.from_tflite(source, opset=OPSET, output_path=target)


if __name__ == "__main__":
    main()
