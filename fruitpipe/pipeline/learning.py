"""A run's images and stored objects, for a backbone that is learnt from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config import ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.errors import NotLearnt
from fruitpipe.pipeline.plan import Plan
from fruitpipe.source import Reader
from fruitpipe.source.fetching import Data, Image, fetch
from fruitpipe.storage.side_by_side import in_advance
from fruitpipe.storage.store import Store
from fruitpipe.tasks.featurize import pictures_of
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import Look, Picture
from fruitpipe.workers.allowance import cores

Found = TypeVar("Found")


@dataclass(frozen=True)
class RunImages:
    """The images of a run, and the objects of its result: see `fruitpipe.backbones.family.Learning`."""

    store: Store
    plan: Plan
    rules: ImageConfig
    reused: EngineSpec | None
    """engine of the model that is reused"""
    reader: Reader | None
    """None where nothing may be learnt, as in a plan"""

    def sample(self, count: int) -> list[tuple[str, ...]]:
        return self.plan.sample(count)

    def map(
        self, work: Callable[[NDArray[np.uint8]], Found], sample: Sequence[tuple[str, ...]], side: int
    ) -> list[Found]:
        if self.reader is None:
            raise NotLearnt("the backbone is learnt by a run, and this is not a run.")

        def each(data: Data | BadImage) -> list[Found]:
            (picture,) = pictures_of(data, [Look(side, self.rules)])
            return [work(picture.pixels)] if isinstance(picture, Picture) else []

        fetched = fetch([Image(path, etag) for path, etag in sample], self.reader)
        return [found for _, future in in_advance(each, fetched, cores()) for found in future.result()]

    def find(self, name: str) -> bytes | None:
        return self.store.find(name)

    def keep(self, name: str, data: bytes) -> None:
        self.store.put(name, data)
