"""The whole job in Ray Data: ray_job.py IMAGES OUT FLATBUFFER."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
from network import Network, image_paths, reduce
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext

CORES = os.cpu_count() or 1


class Featurizer:
    """An actor, one for each core."""

    def __init__(self, flatbuffer: str) -> None:
        self._network = Network(flatbuffer)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"path": batch["path"], "feature": self._network.features(batch["path"].tolist())}


def main() -> None:
    images, out, flatbuffer = sys.argv[1:]
    # Ray would take a third of the memory for its object store; only paths and features pass through it.
    ray.init(num_cpus=CORES, object_store_memory=256 << 20, include_dashboard=False, log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    paths = ray.data.from_items([{"path": path} for path in image_paths(images)], override_num_blocks=8 * CORES)
    features = paths.map_batches(
        Featurizer,
        fn_constructor_args=(flatbuffer,),
        batch_size=64,
        compute=ActorPoolStrategy(size=CORES),
        num_cpus=0.5,  # leaves room for writing to go on beside the actors
    )
    features.write_parquet(f"{out}/features")
    reduce(Path(out, "features"), Path(out, "vectors.parquet"))


if __name__ == "__main__":
    main()
