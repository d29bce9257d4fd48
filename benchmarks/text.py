"""What the reduction costs a search by texts: its ranking beside that by whole features, by number of components.

For each number of components k:

  recall      of the 12 images nearest to a label by whole features, how many are among the 12 nearest by vectors
  of words    the same for texts of a single word of the labels
  within 48   of both, how many are among the 48 nearest by vectors
  label       of the 12 nearest to a label by vectors, how many have it
  zero-shot   images whose own label fits best, of all labels
  as image    recall of both where a text is reduced as an image is, and compared by the cosine of vectors: wrongly

No weights of CLIP are needed. The two towers are made of a run's features f, MobileNetV2's, and have what is known of
CLIP's geometry. An image is f R / |f R|, with a seeded Gaussian R to 512 numbers. A text is 0.3 u + 0.25 m + 0.92 g: u
the direction of its meaning, the sum of the vectors of its words, which are fitted by least squares to the labels' mean
images less the mean of all; m the direction of that mean; g a seeded one at right angles to m, the gap between texts
and images. Words are fitted on every second image, and the others are searched.

    python benchmarks/text.py IMAGES --out OUT
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import fruitpipe, output
from numpy.typing import NDArray

from fruitpipe.numeric import pca
from fruitpipe.numeric.moments import Moments
from fruitpipe.result.runs import open_run
from fruitpipe.sinks import vectors_of
from fruitpipe.storage.store import LocalStore

Float64 = NDArray[np.float64]
WIDTH, NEAREST, FURTHER = 512, 12, 48
MEANING, MEAN = 0.3, 0.25
COMPONENTS = (8, 16, 32, 64, 128, 256, 384, WIDTH)
RIDGE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="images in folders that are their labels")
    parser.add_argument(
        "--out", type=Path, required=True, help="result for their features; where it has them, none are made"
    )
    options = parser.parse_args()

    output(fruitpipe(options.images, options.out, "--set", "pca=none"))
    run = open_run(LocalStore(str(options.out)))
    table = pq.read_table(run.vectors)
    labels = np.array(table["label"].to_pylist())
    drawn = np.random.default_rng(7)
    images = unit(vectors_of(table).astype(np.float64) @ drawn.normal(size=(run.manifest.model.components, WIDTH)))
    fitting, searched = slice(0, None, 2), slice(1, None, 2)
    names = np.unique(labels)
    words = sorted({word for name in names for word in words_in(name)})
    texts = [*names, *(word for word in words if [word] not in [words_in(name) for name in names])]
    towers = text_vectors(texts, words, images[fitting], labels[fitting], drawn)
    measure(images[searched], labels[searched], names, towers)


def unit(rows: Float64) -> Float64:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def words_in(label: str) -> list[str]:
    return re.findall(r"[a-z]+", label.lower())


def text_vectors(
    texts: list[str], words: list[str], images: Float64, labels: NDArray[np.str_], drawn: np.random.Generator
) -> Float64:
    """Of texts, (m, WIDTH)."""
    mean = images.mean(axis=0)
    names = np.unique(labels)
    bags, meanings = bags_of(names, words), np.stack([images[labels == name].mean(axis=0) - mean for name in names])
    fitted = np.linalg.solve(bags.T @ bags + RIDGE * np.eye(len(words)), bags.T @ meanings)
    centre = unit(mean)
    gap = drawn.normal(size=WIDTH)
    gap = unit(gap - gap @ centre * centre)
    meaning = unit(bags_of(texts, words) @ fitted)
    return unit(MEANING * meaning + MEAN * centre + np.sqrt(1 - MEANING**2 - MEAN**2) * gap)


def bags_of(texts: list[str] | NDArray[np.str_], words: list[str]) -> Float64:
    """How often each text has each word, (texts, words)."""
    return np.array([[words_in(text).count(word) for word in words] for text in texts], np.float64)


def measure(images: Float64, labels: NDArray[np.str_], names: NDArray[np.str_], texts: Float64) -> None:
    whole = images @ texts.T
    wanted = ranked(whole, NEAREST)
    own = np.array([names.tolist().index(label) for label in labels])
    count = len(names)
    of_own = whole[np.arange(len(own)), own]
    others = (whole[:, :count].sum() - of_own.sum()) / (whole[:, :count].size - len(own))
    print(f"{len(images)} images, {count} labels, {len(texts) - count} words; cosine of a label to its images "
          f"{of_own.mean():.3f}, to others {others:.3f}\n")  # fmt: skip
    print(f"{'':<22}{'recall':>9}{'of words':>10}{'within 48':>11}{'label':>8}{'zero-shot':>11}{'as image':>10}")
    right = (own[wanted[:count]] == np.arange(count)[:, None]).mean()
    print(f"{'whole features':<22}{1:>9.3f}{1:>10.3f}{1:>11.3f}{right:>8.3f}{zero_shot(whole[:, :count], own):>11.3f}")
    for scale in (True, False):
        print(f"\n{'scaled' if scale else 'not scaled'}")
        moments = Moments.of(images)
        usual = pca.fit(moments, scale=scale).length
        for k in sorted({*COMPONENTS, usual}):
            fitted = pca.fit(moments, components=k, scale=scale)
            vectors = fitted.transform(images)
            found = fitted.products(texts).of(vectors)
            near, far = ranked(found, NEAREST), ranked(found, FURTHER)
            each = shared(wanted, near)
            wrong = unit(vectors.astype(np.float64)) @ unit(fitted.transform(texts).astype(np.float64)).T
            label = (own[near[:count]] == np.arange(count)[:, None]).mean()
            print(
                f"  {f'k = {k}, {fitted.explained:.1%}':<20}{each[:count].mean():>9.3f}{each[count:].mean():>10.3f}"
                f"{shared(wanted, far).mean():>11.3f}{label:>8.3f}{zero_shot(found[:, :count], own):>11.3f}"
                f"{shared(wanted, ranked(wrong, NEAREST)).mean():>10.3f}{'  the default' if k == usual else ''}",
                flush=True,
            )


def ranked(scores: Float64, count: int) -> NDArray[np.int64]:
    """The images with the largest scores for each text, (m, count), of (n, m)."""
    return np.argsort(-scores, axis=0, kind="stable")[:count].T


def shared(wanted: NDArray[np.int64], found: NDArray[np.int64]) -> Float64:
    """Which share of what is wanted was found, (m,)."""
    return np.array([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)])


def zero_shot(scores: Float64, own: NDArray[np.int64]) -> float:
    return float((scores.argmax(axis=1) == own).mean())


if __name__ == "__main__":
    main()
