"""What a worker does before its first task: load the code of all tasks and connect to buckets."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fruitpipe.late_pandas import let_pandas_wait
from fruitpipe.objects import Bucket
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks import neighbours, reduce  # noqa: F401 - to have them loaded
from fruitpipe.tasks.feature_part import to_parquet
from fruitpipe.tasks.featurize import Facts
from fruitpipe.vision.decoder import Decoder


@dataclass(frozen=True)
class WarmUp:
    """Called before every task; does nearly all of its work once per process."""

    store: Store
    buckets: tuple[Bucket, ...]
    done: ClassVar[bool] = False

    def __call__(self, again: bool) -> None:
        """again: whether the task has failed before, perhaps of an image that ended its worker."""
        Decoder.of_all = again
        if WarmUp.done:
            return
        WarmUp.done = True
        let_pandas_wait()
        self.store.find(layout.MARKER)
        for bucket in self.buckets:
            bucket.client()
        to_parquet(Facts().to_table(), np.zeros((0, 1), np.float32))  # Arrow does some work at its first array
        # PySpark collects garbage after each task, and the longer the more a worker has imported.
        gc.freeze()
