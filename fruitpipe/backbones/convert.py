"""Convert a Keras backbone to a LiteRT flatbuffer, once for each machine and set of weights.

TensorFlow runs in a process of its own: it costs seconds and half a gigabyte, which neither the driver nor the
Python workers should carry.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fruitpipe.backbones.backbone import Backbone, by_name, definition
from fruitpipe.config import Environment
from fruitpipe.errors import FruitpipeError, UserError


def flatbuffer(name: str, environment: Environment) -> tuple[Backbone, Path]:
    """The backbone and its flatbuffer, converted now if this machine has not done so before.

    Raises UserError where its weights are not to be had.
    """
    backbone = by_name(name, environment.keras_home)
    target = path_of(backbone, environment) if backbone else None
    if backbone and target and target.is_file():
        return backbone, target
    folder = environment.cache / "backbones"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder)
    except OSError as error:
        raise UserError(f"cannot write to the cache {folder} ({error.strerror}): set FRUITPIPE_CACHE.") from error
    with temporary as scratch:
        made = Path(scratch) / "backbone.tflite"
        run_conversion(name, made, environment)
        # Keras may have downloaded the weights just now.
        backbone = backbone or by_name(name, environment.keras_home)
        if backbone is None:
            raise FruitpipeError(f"Keras did not leave its weights of {name} in {environment.keras_home}.")
        target = path_of(backbone, environment)
        made.replace(target)
    return backbone, target


def path_of(backbone: Backbone, environment: Environment) -> Path:
    return environment.cache / "backbones" / f"{backbone.name}-{backbone.digest[:16]}.tflite"


def run_conversion(name: str, target: Path, environment: Environment) -> None:
    command = [sys.executable, "-m", "fruitpipe.backbones.convert", name, str(target)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    quiet["KERAS_HOME"] = str(environment.keras_home)
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        error = UserError if done.returncode == UserError.exit_code else FruitpipeError
        raise error(reason if error is UserError else f"converting {name} failed: {reason}")


def convert(name: str) -> bytes:
    """Build a backbone in Keras and convert it, float32, batch size 1.

    Variables are frozen into the graph first: TensorFlow 2.21 converts a
    Keras 3 model itself to a flatbuffer without its weights.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    module = definition(name)
    model = module.build()
    image = tf.TensorSpec((1, module.INPUT_SIZE, module.INPUT_SIZE, 3), tf.float32, name="image")
    graph = tf.function(lambda x: model(x, training=False), input_signature=[image]).get_concrete_function()
    frozen = convert_variables_to_constants_v2(graph)
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())


def main() -> None:
    name, target = sys.argv[1:]
    try:
        Path(target).write_bytes(convert(name))
    except FruitpipeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
