"""Fruits-360 in scikit-learn, MLlib and fruitpipe, side by side: what docs/fruits-360.md says, for others to check.

fruitpipe runs on the images, with all components. MLlib and scikit-learn are given the features of those runs, which
are held against Keras' own on some of the images. Accuracies are those of the sample that `evaluate` takes: fruitpipe's
by itself, the others' by KNeighborsClassifier and LogisticRegression on vectors of theirs.

    python benchmarks/reference.py IMAGES
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import fruitpipe, output, subset
from numpy.typing import NDArray
from pca import DIMENSION, Fitted, alone, fit_mllib, fit_sklearn, separated, unlike, write_plain

from fruitpipe.model.model import load_model
from fruitpipe.numeric.evaluation import FOLDS, ITERATIONS, SAMPLE, Evaluation
from fruitpipe.numeric.pca import Pca
from fruitpipe.result.runs import Run, open_run
from fruitpipe.sinks import vectors_of
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.reduce import spread

SIDE = 224
SHAPE = (SIDE, SIDE, 3)
SHARES = (0.90, 0.95, 0.99)
FIRST, SUMS = 10, (8, 16, 32, 64, 128, 256, 512)
VERSIONS = ("fruitpipe", "scikit-learn", "pyspark", "keras", "tensorflow-cpu", "ai-edge-litert", "pillow", "numpy")


class Rows(NamedTuple):
    """What runs on the same images say of them, ordered by path."""

    paths: list[str]
    labels: NDArray[np.str_]
    features: NDArray[np.float32]
    sample: NDArray[np.int64]
    """positions of those whose labels are sought"""
    evaluation: Evaluation
    """of that sample, with scaling"""
    fitted: dict[bool, Fitted]
    """with scaling and without"""


class Accuracy(NamedTuple):
    nearest: float
    logistic: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, a folder for each label")
    parser.add_argument("--count", type=int, help="take this many, evenly spaced [all]")
    parser.add_argument("--memory", default="6g", help="heap of MLlib's driver [%(default)s]")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="keep fruitpipe's runs here, and take features that are there")
    parser.add_argument("--ratios", type=Path, metavar="CSV", help="write all explained variance ratios here")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

    with tempfile.TemporaryDirectory(prefix="fruitpipe-reference-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        rows = by_fruitpipe(images, options.out or Path(folder, "out"))
        show("What decides the figures", facts(images, rows))
        plain = Path(folder, "features.parquet")
        write_plain(plain, rows.features)
        sides: dict[bool, dict[str, Fitted]] = {}
        for scale, ours in rows.fitted.items():
            k = len(ours.components)
            sides[scale] = side = {
                "scikit-learn": fit_sklearn(rows.features, k, scale),
                "MLlib": alone(fit_mllib, plain, k, options.cores, options.memory, scale),
                "fruitpipe": ours,
            }
            show("With scaling" if scale else "Without scaling", ratio_table(side))
            show("Differences", difference_table(side))
    show("Components for a share of the variance", number_table(sides))
    show("Accuracy", accuracy_table(rows, sides[True]))
    if options.ratios:
        columns = [rows.fitted[scale].ratios for scale in (True, False)]
        lines = [f"{k},{scaled:.12f},{plain:.12f}" for k, (scaled, plain) in enumerate(zip(*columns, strict=True), 1)]
        options.ratios.write_text("\n".join(["component,scaled,unscaled", *lines, ""]))


def by_fruitpipe(images: Path, out: Path, *settings: str) -> Rows:
    """Three runs on the same images; the last two take the features of the first from the cache."""
    scaled = run(images, out, f"pca.components={DIMENSION}", "evaluate=true", *settings)
    unscaled = run(images, out, f"pca.components={DIMENSION}", "pca.scale=false", *settings)
    unreduced = run(images, out, "pca=none", *settings)
    paths, labels, features = features_of(unreduced, images)
    starts = unreduced.vector_parts.starts.tolist()
    most = max(SAMPLE // (len(starts) - 1), 1)
    return Rows(
        paths,
        labels,
        features,
        np.concatenate([start + spread(end - start, most) for start, end in pairwise(starts)]),
        Evaluation.model_validate(scaled.manifest.records["evaluation"].model_dump()),
        {True: fitted_of(scaled), False: fitted_of(unscaled)},
    )


def features_of(unreduced: Run, images: Path) -> tuple[list[str], NDArray[np.str_], NDArray[np.float32]]:
    """Paths below the folder of images, labels, and features (n, d) of a run without a PCA, ordered by path."""
    parts = unreduced.vector_parts
    tables = list(parts.each(["path", "label", "vector"]))
    paths = [str(Path(path).relative_to(images)) for table in tables for path in table["path"].to_pylist()]
    labels = np.array([label for table in tables for label in table["label"].to_pylist()])
    return paths, labels, np.concatenate([vectors_of(table) for table in tables])


def run(images: Path, out: Path, *settings: str) -> Run:
    output(fruitpipe(images, out, *(word for setting in settings for word in ("--set", setting))))
    return open_run(LocalStore(str(out)))


def fitted_of(done: Run) -> Fitted:
    fitted = load_model(done.path("model")).pca
    assert isinstance(fitted, Pca)
    return Fitted(done.manifest.timings["fit"], fitted.explained_variance_ratio, fitted.components)


def facts(images: Path, rows: Rows) -> Iterator[str]:
    """What decides everything that follows, line by line."""
    yield f"{len(rows.paths)} images of {len(set(rows.labels))} labels: {digest_of_images(images)}"
    yield f"weights: {digest_of_weights()}"
    yield ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    features = rows.features.astype(np.float64)
    yield f"features: mean {features.mean():.6f}, largest {features.max():.4f}, zeros {(features == 0).mean():.4%}"
    yield f"sum of their variances (n - 1): {features.var(axis=0, ddof=1).sum():.4f}"
    chosen = spread(len(rows.paths), 200)
    expected = by_keras([images / rows.paths[number] for number in chosen])
    furthest = np.abs(expected - rows.features[chosen]).max()
    yield f"largest difference from Keras' own features, {len(chosen)} images: {furthest:.1e}"


def digest_of_images(images: Path) -> str:
    """SHA-256 of what sha256sum prints of all images, ordered by path."""
    paths = sorted(f"./{path.relative_to(images)}".encode() for path in images.rglob("*.jpg"))
    lines = (f"{hashlib.sha256((images / os.fsdecode(path)).read_bytes()).hexdigest()}  ".encode() for path in paths)
    listed = b"".join(digest + path + b"\n" for digest, path in zip(lines, paths, strict=True))
    return hashlib.sha256(listed).hexdigest()


def digest_of_weights() -> str:
    """SHA-256 of the sorted SHA-256s of all arrays below the classifier: however a file has them, and in any order."""
    import keras

    arrays = keras.applications.MobileNetV2(include_top=False, input_shape=SHAPE).get_weights()
    digests = sorted(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def by_keras(paths: Iterable[Path]) -> NDArray[np.float32]:
    """(n, 1280): features of images by Keras and Pillow alone, as notebooks compute them."""
    import keras
    from PIL import Image

    network = keras.applications.MobileNetV2(include_top=False, input_shape=SHAPE, pooling="avg")
    found = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32)
        given = keras.applications.mobilenet_v2.preprocess_input(pixels[np.newaxis])
        found.append(np.asarray(network(given, training=False)))
    return np.concatenate(found)


def ratio_table(side: Mapping[str, Fitted]) -> Iterator[str]:
    """Explained variance ratios: the first ones, and sums."""
    yield f"| component | {' | '.join(side)} |"
    yield f"|---|{'---:|' * len(side)}"
    for number in range(FIRST):
        yield row(f"{number + 1}", (f"{fitted.ratios[number]:.8f}" for fitted in side.values()))
    for k in SUMS:
        yield row(f"sum of {k}", (f"{fitted.ratios[:k].sum():.8f}" for fitted in side.values()))


def difference_table(side: Mapping[str, Fitted]) -> Iterator[str]:
    """Of fruitpipe from the others."""
    *others, _ = side
    yield f"| fruitpipe against | {' | '.join(others)} |"
    yield f"|---|{'---:|' * len(others)}"
    ours = side["fruitpipe"]
    k = len(ours.components)
    apart = separated(ours.ratios, k)
    found = [difference(ours, side[name]) for name in others]
    yield row(f"explained variance ratio, all {k}", (f"{each.ratio:.1e}" for each in found))
    yield row(f"components, {apart.sum()} well apart, up to sign", (f"{each.component:.1e}" for each in found))
    for k in SUMS[-3:]:
        yield row(f"sine of the widest angle between spans of {k}", (f"{each.angles[k]:.1e}" for each in found))


class Difference(NamedTuple):
    """How far two PCAs are from one another."""

    ratio: float
    """largest of explained variance ratios"""
    component: float
    """largest of components whose eigenvalues are 1 % from their neighbours', up to sign"""
    angles: dict[int, float]
    """sine of the widest angle between the spans of the first k, by k: no sign and no order takes part in it"""


def difference(ours: Fitted, theirs: Fitted) -> Difference:
    k = len(ours.components)
    apart = separated(ours.ratios, k)
    return Difference(
        float(np.abs(ours.ratios[:k] - theirs.ratios[:k]).max()),
        float(unlike(ours.components, theirs.components)[apart].max()),
        {each: widest(ours.components[:each], theirs.components[:each]) for each in SUMS if each <= k},
    )


def widest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Sine of the widest angle between the spans of orthonormal rows."""
    return float(np.linalg.norm(ours - ours @ theirs.T @ theirs, 2))


def number_table(sides: Mapping[bool, Mapping[str, Fitted]]) -> Iterator[str]:
    """How many components reach a share of the variance."""
    names = [f"{name}, {'scaled' if scale else 'unscaled'}" for scale, side in sides.items() for name in side]
    yield f"| share | {' | '.join(names)} |"
    yield f"|---|{'---:|' * len(names)}"
    every = [fitted for side in sides.values() for fitted in side.values()]
    for share in SHARES:
        yield row(f"{share:.0%}", (str(np.searchsorted(np.cumsum(fitted.ratios), share) + 1) for fitted in every))


def accuracy_table(rows: Rows, side: Mapping[str, Fitted]) -> Iterator[str]:
    """Shares of labels that are found, by number of components."""
    *others, _ = side
    _, codes, counts = np.unique(rows.labels[rows.sample], return_inverse=True, return_counts=True)
    chosen = (counts >= FOLDS)[codes]
    codes = codes[chosen]
    standard = rows.features.astype(np.float64)
    standard = (standard - standard.mean(axis=0)) / np.where(deviation := standard.std(axis=0), deviation, 1)
    sample = standard[rows.sample][chosen]
    names = [f"{kind}, {name}" for kind in ("nearest", "logistic") for name in side]
    yield f"| components | {' | '.join(names)} |"
    yield f"|---|{'---:|' * len(names)}"
    judged = [(each.dimension, each) for each in rows.evaluation.reduced if each.dimension in SUMS]
    for k, own in [*judged, (None, rows.evaluation.full)]:
        # All features are the same for the others: no PCA takes part.
        spaces = [sample @ side[name].components[:k].T for name in others] if k else [sample]
        found = [accuracy(space, codes) for space in spaces] * (1 if k else len(others))
        every = [*(each.nearest for each in found), own.nearest, *(each.logistic for each in found), own.logistic]
        yield row(f"{k}" if k else "all features", (f"{value:.4f}" for value in every))


def accuracy(points: NDArray[np.float64], codes: NDArray[np.intp]) -> Accuracy:
    """Leaving one out, and cross-validated."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    others = KNeighborsClassifier(1).fit(points, codes).kneighbors(return_distance=False)  # never a point itself
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = cross_val_predict(LogisticRegression(max_iter=ITERATIONS), points, codes, cv=folds)
    return Accuracy(float((codes[others[:, 0]] == codes).mean()), float((found == codes).mean()))


def show(title: str, lines: Iterable[str]) -> None:
    print(f"\n## {title}\n")
    for line in lines:
        print(line, flush=True)


def row(name: str, cells: Iterable[Any]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
