"""Publish vectors as a run would, without the images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fruitpipe.findings.neighbours import Neighbours
from fruitpipe.numeric.neighbours import Metric, Nearest, blocks_of
from fruitpipe.result.manifest import Counts, Manifest
from fruitpipe.result.runs import Run, point_latest
from fruitpipe.sinks import to_table
from fruitpipe.sinks.files import Parquet
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.neighbours import FindNeighbours

RELEASED = Path(__file__).parent / "golden/released/result/runs/20261126-203525-2f91/manifest.json"
PART = 65_536
FAILED = pa.schema([(name, pa.string()) for name in ("path", "status", "error")])


def publish(
    store: Store,
    run_id: str,
    paths: Sequence[str],
    labels: Sequence[str | None],
    vectors: NDArray[np.float32],
    failures: Sequence[tuple[str, str, str]] = (),
) -> Run:
    """The run, published, of vectors (n, k) in as many parts as a run would have, and failures: path, status, error."""
    released = Manifest.read(RELEASED.read_bytes())
    files, parquet = [], Parquet(store, run_id)
    for number, start in enumerate(range(0, len(paths), PART)):
        part = slice(start, start + PART)
        columns = pa.chunked_array([paths[part]], pa.string()), pa.chunked_array([labels[part]], pa.string())
        files.append(parquet.write(number, to_table(*columns, vectors[part], {})))
    failed = pa.Table.from_pylist([dict(zip(FAILED.names, each, strict=True)) for each in failures], FAILED)
    sink = pa.BufferOutputStream()
    pq.write_table(failed, sink)
    store.put(layout.failures(run_id), sink.getvalue().to_pybytes())
    variance = np.sort(vectors.var(axis=0, dtype=np.float64))[::-1]
    ratio = variance / max(variance.sum(), 1e-9)
    model = released.model.model_copy(
        update={
            "fitted_by": run_id,
            "images": len(paths),
            "components": vectors.shape[1],
            "explained": 0.95,
            "explained_variance": variance.tolist(),
            "explained_variance_ratio": (0.95 * ratio).tolist(),
        }
    )
    by_label = dict(Counter(filter(None, labels)).most_common())
    counts = Counts(
        images=len(paths) + len(failures),
        ok=len(paths),
        failed=len(failures),
        by_status={"ok": len(paths), **Counter(status for _, status, _ in failures)},
        by_label=by_label,
    )
    manifest = released.model_copy(update={"run": run_id, "model": model, "counts": counts, "files": files})
    store.put(layout.manifest(run_id), manifest.model_dump_json().encode())
    store.swap(layout.MARKER, None, json.dumps({"layout": layout.VERSION}).encode())
    point_latest(store, run_id)
    return Run(store, manifest)


def find_nearest(run: Run, k: int, within: int | None = None) -> None:
    """Put the neighbours of a run beside it, by cosine, without Spark.

    within: look for them only among so many images that follow one another, for a result of the same size in less time.
    """
    vectors = run.vector_parts
    metric: Metric = "cosine"
    task, files = FindNeighbours(vectors, k, metric, together=1), []
    for number in range(len(vectors.files)):
        if within is None:
            files += task(number, lambda: None)[0]
            continue
        lists, first = [], vectors.positions(number)[0]
        every = task.compared(number)
        for start in range(0, len(every), within):
            some = every[start : start + within]
            positions = np.arange(first + start, first + start + len(some))
            nearest = Nearest(some, positions, k, metric)
            nearest.add(blocks_of(some, positions))
            lists.append((nearest.distances, nearest.positions))
        distances, found = map(np.concatenate, zip(*lists, strict=True))
        files.append(task.write(number, distances, found))
    record = Neighbours(run=run.id, k=k, metric=metric, images=len(vectors), earlier=None, taken=0, parts=files)
    run.store.put(layout.neighbours(run.id, metric, k), record.model_dump_json().encode())
