"""The file of an engine, on its way to the tasks of a cluster."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from fruitpipe.engines import EngineSpec
from fruitpipe.errors import FruitpipeError
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store


@dataclass(frozen=True)
class EngineFile:
    """An engine whose file lies at the same place in containers of one image. Where it does not, or is another, its
    bytes come from the result's store: a broadcast would reach every executor, encrypted by one JVM."""

    engine: EngineSpec
    digest: str
    store: Store
    name: str
    """of the object"""
    known: ClassVar[dict[tuple[EngineSpec, str], EngineSpec]] = {}
    """in this process"""

    @classmethod
    def put(cls, engine: EngineSpec, store: Store, run: str) -> EngineFile:
        """Put the file where tasks of a run find it."""
        data = engine.data
        digest = hashlib.sha256(data).hexdigest()
        name = layout.engine(run, digest)
        store.put(name, data)
        return cls(engine, digest, store, name)

    def __call__(self) -> EngineSpec:
        """Raises FruitpipeError where the store has another file by now."""
        key = self.engine, self.digest
        if key not in self.known:
            self.known[key] = self.engine if self._is_here() else self._fetched()
        return self.known[key]

    def _is_here(self) -> bool:
        try:
            return self.engine.digest == self.digest
        except OSError:
            return False

    def _fetched(self) -> EngineSpec:
        data = self.store.get(self.name)
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise FruitpipeError(f"{self.store.location(self.name)} is not what this run wrote there: run again.")
        return self.engine._replace(source=data)
