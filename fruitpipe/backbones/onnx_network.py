"""Translate a backbone's flatbuffer to ONNX with tf2onnx. An extra: fruitpipe[onnx].

In a process of its own, as tf2onnx imports TensorFlow.
"""

from __future__ import annotations

import os
import subprocess
import sys

from fruitpipe.backbones.convert import QUIET
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
        command = [sys.executable, "-m", __name__, str(source), str(target)]
        done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise FruitpipeError(f"tf2onnx cannot translate the model's network: {reason}")
        return target.read_bytes()


def main() -> None:
    source, target = sys.argv[1:]
    import tf2onnx

    tf2onnx.convert.from_tflite(source, opset=OPSET, output_path=target)


if __name__ == "__main__":
    main()
