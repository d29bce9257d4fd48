"""What the peers' scripts share: decode an image, run the flatbuffer, and reduce features with scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

SIDE, DIMENSION = 224, 1280


class Network:
    """The flatbuffer on one thread. A process makes one."""

    def __init__(self, flatbuffer: str) -> None:
        self._interpreter = Interpreter(model_path=flatbuffer, num_threads=1)
        self._interpreter.allocate_tensors()
        self._image = self._interpreter.get_input_details()[0]["index"]
        self._feature = self._interpreter.get_output_details()[0]["index"]

    def features(self, paths: list[str]) -> NDArray[np.float32]:
        """Features of image files, shape (n, DIMENSION)."""
        rows = np.empty((len(paths), DIMENSION), np.float32)
        for row, path in zip(rows, paths, strict=True):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            # Straight into the interpreter's tensor, as fruitpipe does: set_tensor would copy once more.
            self._interpreter.tensor(self._image)()[0][...] = pixels
            self._interpreter.invoke()
            row[...] = self._interpreter.tensor(self._feature)()[0]
        return rows


def image_paths(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.jpg"))


def reduce(features: Path, vectors: Path) -> None:
    """From a folder of Parquet files with path and feature to one file with path, label and vector."""
    table = pq.read_table(features)
    column = table["feature"].combine_chunks()
    rows = getattr(column, "storage", column).flatten().to_numpy().reshape(-1, DIMENSION)
    # The fastest of scikit-learn's solvers where there are many more rows than columns.
    pca = PCA(0.95, svd_solver="covariance_eigh")
    reduced = pca.fit_transform(StandardScaler().fit_transform(rows))
    labels = [path.rsplit("/", 2)[-2] for path in table["path"].to_pylist()]
    column = pa.FixedSizeListArray.from_arrays(pa.array(reduced.ravel()), reduced.shape[1])
    pq.write_table(pa.table({"path": table["path"], "label": labels, "vector": column}), vectors)
    print(f"{len(rows)} images, {reduced.shape[1]} components", file=sys.stderr)
