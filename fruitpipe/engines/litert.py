"""Run a backbone's flatbuffer on one thread with LiteRT."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from fruitpipe.engines.engine import BATCH, CPU, require_cpu
from fruitpipe.vision.bad_image import BadImage

_silencing = threading.Lock()


@contextmanager
def silence() -> Iterator[None]:
    """Keep LiteRT from announcing its delegate on file descriptor 2, where no setting of Python's reaches."""
    with _silencing, Path(os.devnull).open("wb") as nowhere:
        try:
            kept = os.dup(2)
        except OSError:  # closed, as in some services
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def interpreter_of(flatbuffer: bytes | Path) -> Any:
    """LiteRT's interpreter on one thread, before it has room for tensors."""
    given = {"model_path": str(flatbuffer)} if isinstance(flatbuffer, Path) else {"model_content": flatbuffer}
    with silence():
        return Interpreter(**given, num_threads=1)


class LiteRt:
    """An interpreter of one flatbuffer, an image at a time."""

    batch = BATCH

    def __init__(self, flatbuffer: bytes | Path, device: str = CPU) -> None:
        """Raises UserError for another device than the CPU."""
        require_cpu("LiteRT", device)
        self._interpreter: Any = interpreter_of(flatbuffer)
        with silence():
            self._interpreter.allocate_tensors()
        self._image = self._interpreter.get_input_details()[0]["index"]
        self._feature = self._interpreter.get_output_details()[0]["index"]
        self.side: int = int(self._interpreter.get_input_details()[0]["shape"][1])
        self.dimension: int = int(self._interpreter.get_output_details()[0]["shape"][-1])

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        for pixels, feature in zip(batch, out, strict=True):
            # Straight into and out of the interpreter's tensors: floats in between cost 0.5 ms in page faults.
            self._interpreter.tensor(self._image)()[0][...] = pixels
            self._interpreter.invoke()
            feature[...] = self._interpreter.tensor(self._feature)()[0]
        return {}
