"""Graphics cards that there are not: onnxruntime claims to have them, and computes on the CPU.

All but that claim is real: nvidia-smi is a program, and memory runs out where onnxruntime is told that it does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

MIB = 1 << 20
IMAGE = 100 * MIB
"""Bytes that a card needs for an image."""
LOG = "FRUITPIPE_TEST_CARD_LOG"
NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *query-gpu=index*) seq 0 {last} ;;
  *query-gpu=memory.total*) echo {memory} ;;
esac
"""
CUDA = "CUDAExecutionProvider"


class Computed(NamedTuple):
    """What a card was given at once."""

    number: int
    images: int


def install(folder: Path, memory: object = 16384, cards: int = 1) -> dict[str, str]:
    """Variables for processes that see cards of so many MiB, and note in a file of the folder what those compute."""
    program = folder / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(last=cards - 1, memory=memory))
    program.chmod(0o755)
    (folder / "sitecustomize.py").write_text("import card; card.pretend()\n")
    places = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        LOG: str(folder / "computed"),
    }


def computed(folder: Path) -> list[Computed]:
    """All that was computed."""
    return [Computed(*map(int, line.split())) for line in (folder / "computed").read_text().splitlines()]


def pretend() -> dict[str, Any]:
    """Have this process' onnxruntime claim to have cards; what it had before."""
    import onnxruntime

    before = {name: getattr(onnxruntime, name) for name in ("InferenceSession", "get_available_providers")}

    class Session(before["InferenceSession"]):  # type: ignore[misc]
        """A session on a card, if that is what it is asked for."""

        def __init__(self, network: bytes, options: Any, providers: list[Any]) -> None:
            self._card = next((each[1] for each in providers if each[0] == CUDA), None)
            super().__init__(network, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [*([CUDA] if self._card else []), *super().get_providers()]

        def run(self, outputs: Any, given: dict[str, Any], *others: Any) -> Any:
            if self._card:
                images = len(next(iter(given.values())))
                if images * IMAGE > int(self._card["gpu_mem_limit"]):
                    raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory")
                with Path(os.environ[LOG]).open("a") as log:
                    log.write(f"{self._card['device_id']} {images}\n")
            return super().run(outputs, given, *others)

    onnxruntime.InferenceSession = Session
    onnxruntime.get_available_providers = lambda: [CUDA, *before["get_available_providers"]()]
    return before
