"""Run a backbone's flatbuffer on one thread with OpenVINO, in float32 or bfloat16. An extra: fruitpipe[openvino]."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from fruitpipe.engines.engine import BATCH, CPU, require_cpu
from fruitpipe.errors import UserError
from fruitpipe.scratch import private_folder
from fruitpipe.vision.bad_image import BadImage

CONVERTER = "openvino.tools.ovc"
"""What turns networks of TensorFlow and PyTorch into OpenVINO's."""


class OpenVino:
    """A compiled flatbuffer in float32, an image at a time."""

    batch = BATCH
    precision: ClassVar[str] = "f32"

    def __init__(self, flatbuffer: bytes | Path, device: str = CPU) -> None:
        """Raises UserError where OpenVINO is not installed, this CPU does not compute in the precision, or for another
        device."""
        require_cpu("OpenVINO", device)
        core = core_for(self.precision)
        openvino = load()
        with as_file(flatbuffer) as path:
            compiled = core.compile_model(core.read_model(path), "CPU", settings_of(self.precision))
        self._request: Any = compiled.create_infer_request()
        self._image: NDArray[np.float32] = np.zeros(tuple(compiled.input(0).shape), np.float32)
        self._request.set_input_tensor(openvino.Tensor(self._image, shared_memory=True))
        self._feature: NDArray[np.float32] = self._request.get_output_tensor().data
        self.side: int = self._image.shape[1]
        self.dimension: int = self._feature.shape[-1]

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        for pixels, feature in zip(batch, out, strict=True):
            self._image[0] = pixels
            self._request.infer()
            feature[...] = self._feature[0]
        return {}


class OpenVinoBf16(OpenVino):
    """The same in bfloat16."""

    precision = "bf16"


def settings_of(precision: str) -> dict[str, object]:
    """One thread, as each Spark task has one core; not pinned, or all workers would be on the first one."""
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


@contextmanager
def as_file(flatbuffer: bytes | Path) -> Iterator[Path]:
    """The path of a flatbuffer: OpenVINO reads them by their file's name only."""
    if isinstance(flatbuffer, Path):
        yield flatbuffer
        return
    with private_folder() as folder:
        path = folder / "backbone.tflite"
        path.write_bytes(flatbuffer)
        yield path


def load() -> Any:
    """Import OpenVINO without its converter, which takes as long as all else, and whose telemetry would tell Google
    Analytics of every process that has it."""
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[CONVERTER] = cast(Any, None)
    try:
        return importlib.import_module("openvino")
    finally:
        sys.modules.pop(CONVERTER, None)  # for who wants it by its own name


def core_for(precision: str) -> Any:
    """OpenVINO's core, where it can compute in `precision`, f32 or bf16. Raises UserError where it cannot."""
    try:
        openvino = load()
    except ImportError as error:
        raise UserError(
            "OpenVINO, which engine: openvino and precision: bf16 need, is not installed: "
            "pip install 'fruitpipe[openvino]', or leave them out."
        ) from error
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError("precision: bf16 needs a CPU with AVX512-BF16 or AMX, and this one has neither: leave it out.")
    return core
