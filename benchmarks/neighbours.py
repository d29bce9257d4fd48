"""The k nearest of all images of a run: time, memory and recall, side by side with scikit-learn and faiss-cpu.

All search the same vectors, in processes of their own with as many threads as fruitpipe has tasks. fruitpipe's Spark
tasks read Parquet parts and write others; the others get an array in memory, and their seconds are those of the search.
Of more than 50,000 images, the others look for the neighbours of some that are evenly spaced, and their seconds are
multiplied: what an exact search takes grows with its queries. Recall is the share of neighbours that are as near as
those which scikit-learn's brute force finds in float64, for some of the images. Of imagededup, the search alone is
imported, which is scikit-learn's matrix of all pairs: its packages ask for PyTorch, and that does not. To have it,
`pip install tqdm && pip install --no-deps imagededup`.

With --folder, what was begun is gone on with, and its seconds count.

Then, with images, near-duplicates of some are planted and the groups of `fruitpipe curate` counted by kind; and 1 % of
the labels are swapped, which `fruitpipe curate`, cleanlab and scikit-learn look for.

And with --similar, how long `fruitpipe similar` takes for a new image, from its first line of Python to its answer.

    python benchmarks/neighbours.py IMAGES
    python benchmarks/neighbours.py --synthetic 1000000 128 --folder FOLDER
    python benchmarks/neighbours.py --similar OUT IMAGE
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from common import EVERY, Memory, cpu_time, fruitpipe, output, resident
from numpy.typing import NDArray
from planted import KINDS, plant, swapped

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.findings.curation import curate
from fruitpipe.findings.neighbours import require_neighbours, seek
from fruitpipe.result.runs import open_run
from fruitpipe.sinks import to_table, vectors_of
from fruitpipe.spark.cluster import cluster
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore, Store
from fruitpipe.tasks.vector_part import Vectors
from fruitpipe.tasks.warm_up import WarmUp

RUN = "20260101-000000-0000"
PART = 4096
SEARCH = """
import sys, time
from importlib.util import find_spec
from types import ModuleType
import numpy as np
from threadpoolctl import threadpool_limits
name, file, k, threads, queries = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
points = np.load(file)
points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
chosen = points[np.arange(queries) * len(points) // queries]
with threadpool_limits(threads):
    if name == "faiss":
        import faiss
        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatIP(points.shape[1])
        index.add(points)
        began = time.perf_counter(), time.process_time()
        index.search(chosen, k + 1)
    elif name == "scikit-learn":
        from sklearn.neighbors import NearestNeighbors
        fitted = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points)
        began = time.perf_counter(), time.process_time()
        fitted.kneighbors(chosen)
    else:
        for package in ("imagededup", "imagededup.utils"):
            found = find_spec(package).submodule_search_locations
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = found
        from imagededup.handlers.search.retrieval import get_cosine_similarity
        began = time.perf_counter(), time.process_time()
        np.argpartition(-get_cosine_similarity(points), k, axis=1)
for clock, start in zip((time.perf_counter, time.process_time), began):
    print((clock() - start) * len(points) / queries)
"""
MOST, SOME = 50_000, 20_000
"""Images whose neighbours the others look for, at most; and of more, how many of them."""


def made_up(store: Store, count: int, width: int) -> Vectors:
    """Vectors in clusters of some 200, ordered by these as images are by their folders; some are nearly equal."""
    files = []
    for number in range(-(-count // PART)):
        random = np.random.default_rng(number)
        size = min(PART, count - number * PART)
        rows = np.arange(number * PART, number * PART + size)
        centres = np.stack(
            [np.random.default_rng([7, cluster]).standard_normal(width) for cluster in np.unique(rows // 200)]
        )
        points = centres[rows // 200 - rows[0] // 200] + 0.5 * random.standard_normal((size, width))
        points[1::50] = points[::50][: len(points[1::50])] + 1e-3
        paths = pa.array([f"photos/{row // 200:05}/{row:08}.jpg" for row in rows])
        labels = pa.array([f"{row // 200:05}" for row in rows])
        sink = pa.BufferOutputStream()
        pq.write_table(
            to_table(paths, labels, points.astype(np.float32), {}), sink, compression="zstd", row_group_size=8192
        )
        data, name = memoryview(sink.getvalue()), layout.vectors(RUN, number)
        store.put(name, data)
        files.append(File.of(layout.within(RUN, name), data, size))
    return Vectors(store, RUN, tuple(files), width)


def search(name: str, points: Path, k: int, threads: int, queries: int) -> tuple[float, float, int]:
    """Seconds and CPU time of another's search for the neighbours of all, by those of so many; its largest resident
    memory."""
    words = [sys.executable, "-c", SEARCH, name, str(points), str(k), str(threads), str(queries)]
    limits = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | limits) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(psutil.Process(process.pid)) if process.poll() is None else 0)
            time.sleep(EVERY)
        assert process.stdout is not None
        seconds, cpu = map(float, process.stdout.read().split())
        return seconds, cpu, peak


def recall(vectors: Vectors, parts: list[File], points: NDArray[np.float32], k: int, sample: int) -> float:
    """Of the neighbours of some images, evenly spaced, those that scikit-learn finds, too, or that are as near.

    How near they are is measured here, and one that is named twice, or is the image itself, does not count.
    """
    from sklearn.neighbors import NearestNeighbors

    chosen = np.arange(min(sample, len(points))) * len(points) // min(sample, len(points))
    unit = points.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    expected, _ = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(unit).kneighbors(unit[chosen])
    farthest = expected[:, k] ** 2 / 2
    lists = pa.concat_tables(
        pq.read_table(vectors.store.location(layout.run(vectors.run, file.name))) for file in parts
    )
    places = {path: place for place, path in enumerate(lists["path"].to_pylist())}
    right = 0
    for place, limit, row in zip(chosen, farthest, lists.take(pa.array(chosen))["neighbours"].to_pylist(), strict=True):
        found = list({places[each["path"]] for each in row} - {int(place)})
        right += int((1 - unit[found] @ unit[place] <= limit + 1e-6).sum())
    return right / (k * len(chosen))


def race(vectors: Vectors, k: int, cores: int, sample: int, folder: Path) -> None:
    count = len(vectors)
    print(f"{count} vectors of {vectors.width} numbers, k = {k}, {cores} cores", flush=True)
    peak, clock = Memory(), folder / "seconds"
    spark_config, warm_up = SparkConfig(master=f"local[{cores}]"), WarmUp(vectors.store, ())
    with cluster(spark_config, Environment.read(), folder / "spark.log", first=warm_up) as spark:
        began = time.perf_counter() - (float(clock.read_text()) if clock.exists() else 0)
        done = 0

        def watch(images: int) -> None:
            nonlocal done
            done += images
            ours = time.perf_counter() - began
            clock.write_text(str(ours))
            print(f"{done} of {count} images, {ours:.0f} s", file=sys.stderr, flush=True)

        used = cpu_time()
        with peak:
            found = seek(spark, vectors, RUN, k, "cosine", watch)
        ours, used = time.perf_counter() - began, cpu_time() - used
    print(f"fruitpipe: {ours:.1f} s, CPU {used:.1f} s; {peak.python / 1e9:.2f} GB of Python, {peak.all / 1e9:.2f} GB "
          "with the JVM", flush=True)  # fmt: skip
    file = folder / "points.npy"
    points = np.lib.format.open_memmap(file, "w+", np.float32, (count, vectors.width))
    for number, start in enumerate(vectors.starts[:-1].tolist()):
        part = vectors.vectors(number)
        points[start : start + len(part)] = part
    print(f"recall {recall(vectors, found.parts, points, k, sample):.6f}", flush=True)
    queries = count if count <= MOST else SOME
    told = "" if queries == count else f", by {queries} of the queries"
    for name, module in (("faiss", "faiss"), ("scikit-learn", "sklearn"), ("imagededup", "imagededup")):
        if find_spec(module) is None:
            print(f"{name}: {module} is not installed")
        elif name == "imagededup" and count > MOST:
            print(f"{name}: its matrix of all pairs would take {4e-9 * count**2:.0f} GB")
        else:
            seconds, cpu, memory = search(name, file, k, cores, queries)
            print(f"{name}: {seconds:.1f} s, CPU {cpu:.1f} s{told}; {memory / 1e9:.2f} GB; fruitpipe takes "
                  f"{ours / seconds:.2f} of its time", flush=True)  # fmt: skip


def similar(out: str, image: str, times: int = 7) -> None:
    """The whole command for a new image, a process each time."""
    count = open_run(LocalStore(out)).manifest.counts.ok
    words = [sys.executable, "-m", "fruitpipe", "similar", out, image]
    seconds, cpu = [], []
    for _ in range(times):
        before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(time.perf_counter() - before)
        cpu.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
    print(f"fruitpipe similar, {count} images: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
          f"{max(seconds):.2f}), of which the CPU {statistics.median(cpu):.2f} s")  # fmt: skip


def run(images: Path, out: Path, k: int, cores: int, backbone: str) -> Any:
    settings = (f"backbone={backbone}", f"spark.master=local[{cores}]", f"neighbours.k={k}")
    output(fruitpipe(images, out, *(part for setting in settings for part in ("--set", setting))))
    return open_run(LocalStore(str(out)))


def duplicates(images: Path, folder: Path, k: int, cores: int, backbone: str) -> None:
    """Precision and recall of groups of near-duplicates, by the kind of change."""
    planted = plant(images, folder / "planted")
    done = run(folder / "planted", folder / "out-planted", k, cores, backbone)
    table = curate(done, require_neighbours(done.store, done.manifest))
    print(f"\nnear-duplicates: at most {table.duplicates.limit:.4f} apart (usual: {table.duplicates.usual:.4f})")
    rows = {Path(row["path"]).name: row for row in table.table.select(["path", "duplicate_of"]).to_pylist()}
    group = {name: Path(row["duplicate_of"] or row["path"]).name for name, row in rows.items()}
    members: dict[str, set[str]] = {}
    for name, leader in group.items():
        members.setdefault(leader, set()).add(name)
    print(f"{'kind':<14}{'planted':>9}{'recall':>9}{'precision':>11}")
    for kind in KINDS:
        pairs = [(copy, source) for copy, (source, its) in planted.items() if its == kind]
        hit = sum(group[copy] == group[source] for copy, source in pairs)
        beside = [other for copy, _ in pairs for other in members[group[copy]] - {copy}]
        right = sum(
            planted.get(other, (other,))[0] == planted[copy][0]
            for copy, _ in pairs
            for other in members[group[copy]] - {copy}
        )
        precision = f"{right / len(beside):.2f}" if beside else "none"
        print(f"{kind:<14}{len(pairs):>9}{hit / len(pairs):>9.2f}{precision:>11}")


def labels(images: Path, folder: Path, k: int, cores: int, backbone: str) -> None:
    """Precision and recall of doubtful labels where 1 % were swapped, by three ways to look for them."""
    wrong = swapped(images, folder / "swapped", 0.01)
    done = run(folder / "swapped", folder / "out-swapped", k, cores, backbone)
    found = curate(done, require_neighbours(done.store, done.manifest)).table
    names = [Path(path).name for path in found["path"].to_pylist()]
    truth = np.array([name in wrong for name in names])
    parts = done.vector_parts
    points = np.concatenate([vectors_of(part) for part in parts.each(["vector"])])
    answers = {"fruitpipe curate": np.asarray(found["label_suspect"])}
    answers |= others(points, found["label"].to_pylist(), k)
    print(f"\nswapped labels: {truth.sum()} of {len(truth)}\n{'by':<30}{'found':>9}{'recall':>9}{'precision':>11}")
    for name, said in answers.items():
        right = (said & truth).sum()
        print(f"{name:<30}{said.sum():>9}{right / max(truth.sum(), 1):>9.2f}{right / max(said.sum(), 1):>11.2f}")


def others(points: NDArray[np.float32], labels: list[str], k: int) -> dict[str, NDArray[np.bool_]]:
    """Which labels cleanlab doubts, and which scikit-learn's k nearest outvote; both by cosine."""
    from cleanlab.filter import find_label_issues
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    _, codes = np.unique(labels, return_inverse=True)
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    left_out = cross_val_predict(model, points, codes, cv=5, method="predict_proba")
    return {
        "cleanlab, kNN left out in 5": find_label_issues(codes, left_out),
        "scikit-learn, kNN left out in 5": left_out.argmax(axis=1) != codes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="folder of images, with labels as folders")
    parser.add_argument("--synthetic", type=int, nargs=2, metavar=("N", "K"), help="N made-up vectors of K numbers")
    parser.add_argument("--folder", type=Path, help="where the made-up vectors and their neighbours are kept")
    parser.add_argument("--similar", nargs=2, metavar=("OUT", "IMAGE"), help="a result, and an image that is not in it")
    parser.add_argument("--neighbours", type=int, default=12)
    parser.add_argument("--sample", type=int, default=1000, help="images whose recall is measured")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="fruitpipe-neighbours-") as name:
        folder = Path(name)
        if options.synthetic:
            kept = (options.folder or folder) / "-".join(map(str, options.synthetic))
            vectors = made_up(LocalStore(str(kept / "made")), *options.synthetic)
            race(vectors, options.neighbours, options.cores, options.sample, kept)
        if options.similar:
            similar(*options.similar)
        if options.images:
            chosen = (options.neighbours, options.cores, options.backbone)
            duplicates(options.images, folder, *chosen)
            labels(options.images, folder, *chosen)


if __name__ == "__main__":
    main()
