"""Why published projects on Fruits-360 report 36, 128, 138 or 166 components: what decides the number.

How many components explain 80, 90, 95 and 99 % of the variance: of more and of fewer images, with scaling and without,
of samples as those projects drew them, and of the same images prepared otherwise. The tables are those of
docs/fruits-360.md. Draws are by numbered seeds.

    python benchmarks/draws.py IMAGES
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import subset
from numpy.typing import NDArray
from reference import SIDE, features_of, row, run, show

from fruitpipe.backbones import efficientnet_lite0

Points = NDArray[np.floating]
Draw = Callable[[np.random.Generator], NDArray[np.int64]]
"""Positions of some images."""

SHARES = (0.80, 0.90, 0.95, 0.99)
PUBLISHED = (36, 128, 138, 166)
IMAGES = (50, 100, 200, 300, 500, 1000, 2000, 5000)
DRAWS, DRAWN = 6, 3000
"""Draws, and images in all of them: large ones hardly differ. One draw at least."""
OF_EACH = 5
"""Images of a fruit, in the sample that gave 138."""
SHARE = 0.10
"""Of the images, in the sample that gave 166."""
FRUITS, VARIETIES = 67, 131
"""In the release that both had."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, a folder for each variety")
    parser.add_argument("--count", type=int, help="take this many, evenly spaced [all]")
    parser.add_argument("--out", type=Path, help="keep fruitpipe's run here, and take features that are there")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

    with tempfile.TemporaryDirectory(prefix="fruitpipe-draws-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        paths, labels, features = features_of(run(images, options.out or Path(folder, "out"), "pca=none"), images)
        sizes = [size for size in IMAGES if size < len(features)]
        found = {size: mean_numbers(features, anywhere(len(features), size), draws_of(size)) for size in sizes}
        found[len(features)] = numbers(features)
        show("By images, means of draws", size_table(found))
        show("Images with which a number comes out, interpolated", image_table(found))
        show("The sample that gave 138: 95 % without scaling", fruit_table(features, labels))
        show("The sample that gave 166: 90 % without scaling", variety_table(features, labels))
        chosen = of_each_fruit(labels)(np.random.default_rng(0))
        show("Prepared otherwise", preparation_table([images / paths[number] for number in chosen]))


def numbers(points: Points) -> NDArray[np.float64]:
    """(2, 4): components for each share, with scaling and without."""
    return np.array([components(points, scale) for scale in (True, False)], np.float64)


def components(points: Points, scale: bool) -> list[int]:
    """For each share, of (n, d) points."""
    centred = points.astype(np.float64)
    centred -= centred.mean(axis=0)
    if scale:
        centred /= np.where(deviation := centred.std(axis=0), deviation, 1)
    n, d = centred.shape
    variances = np.linalg.eigvalsh(centred @ centred.T if n < d else centred.T @ centred)[::-1]
    cumulative = np.cumsum(np.maximum(variances, 0))
    return [int(np.searchsorted(cumulative, share * cumulative[-1]) + 1) for share in SHARES]


def mean_numbers(features: Points, draw: Draw, draws: int) -> NDArray[np.float64]:
    chosen = [draw(np.random.default_rng(seed)) for seed in range(draws)]
    return np.mean([numbers(features[each]) for each in chosen], axis=0)


def draws_of(size: int) -> int:
    return min(DRAWS, max(DRAWN // size, 1))


def anywhere(count: int, size: int) -> Draw:
    """So many of all images."""
    return lambda random: random.choice(count, size, replace=False)


def of_each_fruit(labels: NDArray[np.str_], most: int | None = None) -> Draw:
    """Five images of one variety of each fruit, whose name is the first word of the variety's; of `most` fruits."""
    varieties = np.unique(labels)
    fruits = np.array([variety.split()[0] for variety in varieties])

    def draw(random: np.random.Generator) -> NDArray[np.int64]:
        names = np.unique(fruits)
        names = names if most is None else random.choice(names, most, replace=False)
        folders = [random.choice(varieties[fruits == name]) for name in names]
        return np.concatenate([random.choice(np.flatnonzero(labels == folder), OF_EACH, False) for folder in folders])

    return draw


def of_some_varieties(labels: NDArray[np.str_], most: int) -> Draw:
    """A tenth of the images of so many varieties."""

    def draw(random: np.random.Generator) -> NDArray[np.int64]:
        there = np.flatnonzero(np.isin(labels, random.choice(np.unique(labels), most, replace=False)))
        return random.choice(there, round(len(there) * SHARE), replace=False)

    return draw


def head(first: str, *others: str) -> Iterator[str]:
    yield row(first, others)
    yield f"|---|{'---:|' * len(others)}"


def by_share(kinds: Iterable[str] = ("scaled", "unscaled")) -> list[str]:
    return [f"{share:.0%} {kind}" for kind in kinds for share in SHARES]


def size_table(found: dict[int, NDArray[np.float64]]) -> Iterator[str]:
    yield from head("images", *by_share())
    for size, each in found.items():
        yield row(f"{size:,}", (f"{number:.0f}" for number in each.ravel()))


def image_table(found: dict[int, NDArray[np.float64]]) -> Iterator[str]:
    """Linear in the logarithm of the images, between those that were drawn."""
    yield from head("components", *by_share())
    series = np.array([each.ravel() for each in found.values()])
    for wanted in PUBLISHED:
        yield row(f"{wanted}", (images_for(wanted, list(found), column) for column in series.T))


def images_for(wanted: int, sizes: list[int], series: NDArray[np.float64]) -> str:
    if not series[0] <= wanted <= series[-1]:
        return "none" if wanted > series[-1] else f"< {sizes[0]}"
    images = np.exp(np.interp(wanted, series, np.log(sizes)))
    return f"{float(f'{images:.2g}'):,.0f}"


def fruit_table(features: Points, labels: NDArray[np.str_]) -> Iterator[str]:
    there = len({label.split()[0] for label in labels})
    counts = [there - 12, there - 8, there - 4, there]
    draws = {count: of_each_fruit(labels, count) for count in counts}
    yield from growth_table("fruits", features, draws, 50, share=0.95, wanted=FRUITS)


def variety_table(features: Points, labels: NDArray[np.str_]) -> Iterator[str]:
    there = len(set(labels))
    draws = {count: of_some_varieties(labels, count) for count in (there - 30, there - 20, there - 10, there)}
    yield from growth_table("varieties", features, draws, DRAWS, share=0.90, wanted=VARIETIES)


def growth_table(
    of: str, features: Points, draws: dict[int, Draw], seeds: int, share: float, wanted: int
) -> Iterator[str]:
    """Components without scaling by what is drawn from, and what the line through the last two says of more."""
    yield from head(of, "images", "fewest", "mean", "most")
    means = []
    for count, draw in draws.items():
        chosen = [draw(np.random.default_rng(seed)) for seed in range(seeds)]
        found = [components(features[each], scale=False)[SHARES.index(share)] for each in chosen]
        images = np.mean([len(each) for each in chosen])
        yield row(f"{count}", (f"{images:.0f}", f"{min(found)}", f"{np.mean(found):.1f}", f"{max(found)}"))
        means.append(np.mean(found))
    before, last = list(draws)[-2:]
    beyond = means[-1] + (means[-1] - means[-2]) / (last - before) * (wanted - last)
    yield row(f"{wanted}, extrapolated", ("", "", f"{beyond:.1f}", ""))


def preparation_table(paths: list[Path]) -> Iterator[str]:
    yield from head("prepared", "numbers", *by_share())
    for name, points in prepared(paths):
        yield row(name, (f"{points.shape[1]:,}", *(f"{number:.0f}" for number in numbers(points).ravel())))


def prepared(paths: list[Path]) -> Iterator[tuple[str, Points]]:
    """The images as projects prepare them, and what a network or nothing makes of them."""
    import keras
    from PIL import Image

    def pixels(side: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> NDArray[np.float32]:
        made = []
        for path in paths:
            with Image.open(path) as image:
                made.append(np.asarray(image.convert("RGB").resize((side, side), resample), np.float32))
        return np.stack(made)

    def apply(network: Any, given: NDArray[np.float32]) -> Points:
        parts = np.array_split(given, -(-len(given) // 32))
        return np.concatenate([np.asarray(network(part, training=False)) for part in parts]).reshape(len(given), -1)

    whole = keras.applications.MobileNetV2()
    network = keras.Model(whole.input, whole.layers[-2].output)
    given = pixels(SIDE)
    yield "MobileNetV2, x / 127.5 - 1", apply(network, given / 127.5 - 1)
    yield "… resized bilinearly", apply(network, pixels(SIDE, Image.Resampling.BILINEAR) / 127.5 - 1)
    yield "… x / 255", apply(network, given / 255)
    yield "… x as it is", apply(network, given)
    small = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(100, 100, 3), pooling="avg")
    small.set_weights(whole.get_weights()[:-2])
    yield "… 100 x 100, not resized", apply(small, pixels(100) / 127.5 - 1)
    yield "… its 1,000 classes", apply(whole, given / 127.5 - 1)
    maps = keras.Model(whole.input, whole.layers[-3].output)
    yield "… its maps, flattened", apply(maps, given / 127.5 - 1)
    lite = efficientnet_lite0.classifier()
    lite = keras.Model(lite.input, lite.get_layer(efficientnet_lite0.LAYER).output)
    yield "EfficientNet-Lite0", apply(lite, (given - 127) / 128)
    yield "pixels, 100 x 100", pixels(100).reshape(len(paths), -1)


if __name__ == "__main__":
    main()
