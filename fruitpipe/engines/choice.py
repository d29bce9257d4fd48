"""Which engine runs a network."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from fruitpipe.errors import UserError

CUDA = "CUDAExecutionProvider"
"""What onnxruntime calls NVIDIA's graphics cards."""
LARGE = 20_000_000
"""Parameters of a network from which OpenVINO takes less CPU time than LiteRT: see `benchmarks/backbones.py`."""


def network_kind(
    engine: Literal["auto", "litert", "openvino"], precision: Literal["float32", "bf16"], parameters: int
) -> str:
    """Kind of the engine that a config names; of `auto`, OpenVINO where it is installed and the network is large.

    Raises UserError where it is not to be had here.
    """
    if precision == "float32" and engine == "auto":
        engine = "openvino" if parameters >= LARGE and find_spec("openvino") else "litert"
    if engine == "litert":
        return "litert"
    from fruitpipe.engines.openvino import core_for

    core_for("bf16" if precision == "bf16" else "f32")
    return "openvino_bf16" if precision == "bf16" else "openvino"


def onnx_library() -> Literal["openvino", "onnxruntime"]:
    """What runs ONNX here: OpenVINO, where it is installed.

    CPU time of an image, ms, by OpenVINO and onnxruntime: MobileNetV2 5.4 and 5.9, ResNet50 47 and 50, ViT-S/16 62 and
    70 (`benchmarks/onnx_libraries.py`).

    Raises UserError where neither is there.
    """
    if find_spec("openvino"):
        return "openvino"
    if find_spec("onnxruntime"):
        return "onnxruntime"
    raise UserError(
        "nothing that runs ONNX is installed: pip install 'fruitpipe[openvino]', or 'fruitpipe[onnx]' for onnxruntime."
    )


def without_gpu(kind: str) -> str | None:
    """Why an engine of fruitpipe's own does not run on a GPU that a task has, and the next step; None where it does."""
    if kind != "onnx":
        return f"features are made on the CPU, as {kind} runs nowhere else: take a network in ONNX, or no GPUs"
    if find_spec("onnxruntime"):
        import onnxruntime

        if CUDA in onnxruntime.get_available_providers():
            return None
    return (
        "features are made on the CPU, as this onnxruntime knows no GPU: install fruitpipe[gpu] instead of "
        "fruitpipe[onnx] (an image by make image EXTRAS=gpu), or take no GPUs"
    )
