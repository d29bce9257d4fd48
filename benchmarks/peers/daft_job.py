"""The whole job in Daft: daft_job.py IMAGES OUT FLATBUFFER."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import daft
import numpy as np
from daft import DataType
from network import DIMENSION, Network, image_paths, reduce
from numpy.typing import NDArray


# A process and an interpreter of its own for each core. Batches of 16 to 250 images take the same time.
@daft.cls(max_concurrency=os.cpu_count(), use_process=True)
class Featurizer:
    def __init__(self, flatbuffer: str) -> None:
        self._network = Network(flatbuffer)

    @daft.method.batch(return_dtype=DataType.fixed_size_list(DataType.float32(), DIMENSION), batch_size=64)
    def feature(self, path: daft.Series) -> NDArray[np.float32]:
        return self._network.features(path.to_pylist())


def main() -> None:
    images, out, flatbuffer = sys.argv[1:]
    daft.set_runner_native()
    table = daft.from_pydict({"path": image_paths(images)})
    table.with_column("feature", Featurizer(flatbuffer).feature(table["path"])).write_parquet(f"{out}/features")
    reduce(Path(out, "features"), Path(out, "vectors.parquet"))


if __name__ == "__main__":
    main()
