"""A lossy world: runs that lose executors, requests and their driver give the bits of an undisturbed run.

Features of images that nobody has are stored, and a list names the images; so a run plans, fits and projects.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import scale
from faults import Proxy
from parts import Image, put_part
from processes import executors_of, jvms_of, kill
from seaweed import BUCKET, Server

from campaigns.crash import Place, Published, needed
from fruitpipe.backbones import resolve
from fruitpipe.config import Environment, load_config
from fruitpipe.model.model import CARD
from fruitpipe.result.garbage import collect
from fruitpipe.result.runs import open_run
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store

BACKBONE = "efficientnet_lite0"
SETTINGS = (
    f"backbone={BACKBONE}",
    "spark.master=local-cluster[2,1,1024]",
    "spark.conf.spark.executor.memory=512m",
)
"""Two executors of a core each, in processes of their own, which a master replaces."""
WITHIN = 0.5
"""Seconds after a task's end in which an executor is lost, so that it is amid another."""
MOST_RUNS = 5
"""Of a round."""


class Losses(NamedTuple):
    """How much is lost."""

    executors: float = 0.02
    """of tasks: after so many, an executor is killed"""
    requests: float = 0.01
    """of requests: answered 500 or 503, or cut off before their answer or amid it, a fourth each"""


class Outcome(NamedTuple):
    """What all runs must agree in."""

    published: Published
    model: dict[str, str]
    """digests of the model's files; of its card, without the run's name"""

    @classmethod
    def of(cls, store: Store) -> Outcome:
        manifest, model = open_run(store).manifest, {}
        for file in manifest.files:
            if file.name.startswith("model/"):
                data = store.get(layout.run(manifest.run, file.name))
                if file.name.endswith(CARD):
                    data = json.dumps({name: each for name, each in json.loads(data).items() if name != "run"}).encode()
                model[file.name] = hashlib.sha256(data).hexdigest()
        return cls(Published.of(store), model)


class Campaign:
    """Rounds over the same images, whose features are in one result on an S3 server."""

    def __init__(self, server: Server, scratch: Path, images: int, components: int, losses: Losses) -> None:
        self.losses, self._tasks, self._objects = losses, 0, 0
        scratch.mkdir(parents=True)
        paths = [f"s3://{BUCKET}/{path}" for path in scale.paths(0, images)]
        pq.write_table(pa.table({"path": paths, "etag": pa.repeat("1", images)}), scratch / "images.parquet")
        settings = (*SETTINGS, f"pca.components={components}")
        self.place = Place(str(scratch / "images.parquet"), f"s3://{BUCKET}", scratch, (), server, settings)
        self.store = self.place.store("lossy")
        config = load_config(input="a", output="b", backbone=BACKBONE)
        digest = resolve(config, Environment.read()).features
        for part, first in enumerate(range(0, images, scale.ROWS)):
            some = [Image(path) for path in paths[first : first + scale.ROWS]]
            put_part(self.store, digest, some, scale.features(part, len(some)))
        process = self.place.start("lossy")
        seen = self._watched(process)
        assert process.wait() == 0, self.place.log("lossy").read_text()
        self._objects, self.undisturbed = len(seen), Outcome.of(self.store)

    def play(self, seed: str) -> Counter[str]:
        """One result, from the first run to the last; says what was lost.

        Raises AssertionError where vectors or model have other bits, or anything is left over.
        """
        self._clear()
        draw, told, most = random.Random(seed), Counter[str](), self.losses.requests / 4
        shares = {"slow_down": most, "internal_error": most, "reset": most, "truncated": most}
        server = self.place.server
        assert server
        with Proxy(server.endpoint, **shares, seed=draw.randrange(1 << 30)) as proxy:
            place = replace(self.place, settings=(*self.place.settings, f"s3.endpoint={proxy.endpoint}"))
            driver: int | None = draw.randrange(self._objects)
            for _ in range(MOST_RUNS):
                process = place.start("lossy")
                self._watched(process, draw, told, driver)
                if process.wait() == 0:
                    break
                if driver is None or process.returncode > 0:
                    said = place.log("lossy").read_text()
                    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said
                    told["run that failed, and was run again"] += 1
                driver = None
            assert process.returncode == 0, f"after {MOST_RUNS} runs: {place.log('lossy').read_text()}"
            told["requests"] += len(proxy.log)
            told += Counter({f"requests, {name}": count for name, count in proxy.injected.items()})
        self._compare()
        return told

    def _clear(self) -> None:
        """Leave the features alone."""
        for name, _ in self.store.names(""):
            if not name.startswith(f"{layout.FEATURES}/") and name != layout.MARKER:
                self.store.delete(name)

    def _watched(
        self,
        process: subprocess.Popen[bytes],
        draw: random.Random | None = None,
        told: Counter[str] | None = None,
        driver: int | None = None,
    ) -> set[str]:
        """What a run has written when it has ended; meanwhile, what is drawn is killed.

        driver: of how many objects, after which the driver is killed.
        """
        names: set[str] = set()
        while process.poll() is None:
            now = {name for name, _ in self.store.names(layout.RUNS)} - names
            names |= now
            if draw and told is not None:
                tasks = sum("/moments-" in name or "/vectors/" in name for name in now)
                told["tasks"] += tasks
                if driver is not None and len(names) > driver:
                    told["driver"] += kill_driver(process)
                    break
                if lost := sum(draw.random() < self.losses.executors for _ in range(tasks)):
                    time.sleep(draw.uniform(0, WITHIN))
                    there = executors_of(process.pid)
                    told["executor"] += kill(draw.sample(there, min(lost, len(there))))
            time.sleep(0.1)
        return names

    def _compare(self) -> None:
        found, expected = Outcome.of(self.store), self.undisturbed
        assert found.model == expected.model, f"the model differs: {found.model}, {expected.model}"
        assert found.published.counts == expected.published.counts
        for one, other in zip(found.published[1:], expected.published[1:], strict=True):
            assert one.equals(other), "vectors or failures differ"
        assert self.store.find(layout.LEASE) is None, "the lease is still there"
        collect(self.store)
        there = {name for name, _ in self.store.names("")}
        assert there == needed(self.store), f"left over or missing: {sorted(there ^ needed(self.store))}"


def kill_driver(process: subprocess.Popen[bytes]) -> int:
    """With its JVM, as a pod goes; executors notice it themselves."""
    jvms = jvms_of(process.pid, recursive=False)
    process.kill()
    kill(jvms)
    return 1
