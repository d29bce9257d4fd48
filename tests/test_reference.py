"""The reference that others check figures against: that three implementations agree, and that its page says so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from draws import SHARES, components, images_for
from numpy.typing import NDArray
from pca import Fitted, fit_mllib_on, fit_sklearn, make_features, write_plain
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fruitpipe.sklearn import FruitpipePCA

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/fruits-360.md").read_text()
RATIOS = np.loadtxt(ROOT / "docs/fruits-360.csv", delimiter=",", skiprows=1)
SCALED, UNSCALED = RATIOS[:, 1], RATIOS[:, 2]
CLOSE = 1e-6


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table(first: str, part: str = PAGE) -> list[list[str]]:
    """Rows of the first table whose head begins with a cell."""
    lines = part[part.index(f"| {first} |") :].split("\n\n", maxsplit=1)[0].splitlines()
    return [cells(line) for line in lines[2:]]


def by_fruitpipe(features: NDArray[np.float32], scale: bool) -> Fitted:
    made = FruitpipePCA(features.shape[1], scale=scale).fit(features)
    return Fitted(0, made.explained_variance_ / made.explained_variance_.sum(), made.components_)


@pytest.mark.parametrize("scale", [True, False])
def test_scikit_learn_mllib_and_fruitpipe_agree(scale: bool, spark: Any, tmp_path: Path) -> None:
    features = make_features(500)[:, :48]
    write_plain(tmp_path / "features.parquet", features)
    ours = by_fruitpipe(features, scale)
    for theirs in (fit_sklearn(features, 48, scale), fit_mllib_on(spark, tmp_path / "features.parquet", 48, scale)):
        found = reference.difference(ours, theirs)
        assert max(found.ratio, found.component, *found.angles.values()) <= CLOSE
    other = reference.difference(ours, by_fruitpipe(features, not scale))
    assert min(other.ratio, other.component) > CLOSE, "scaling is a difference that shows"


@pytest.mark.slow
def test_so_they_do_on_runs_over_drawn_fruits(fruits: Path, spark: Any, tmp_path: Path) -> None:
    """Of visual words, whose few numbers MLlib is soon done with."""
    rows = reference.by_fruitpipe(fruits, tmp_path / "out", "backbone=orb", "words.size=48")
    assert rows.paths == sorted(str(path.relative_to(fruits)) for path in fruits.rglob("*.jpg"))
    assert rows.labels.tolist() == [path.split("/")[0] for path in rows.paths]
    assert len(rows.sample) == len(rows.paths) == 320
    write_plain(tmp_path / "features.parquet", rows.features)
    for scale, ours in rows.fitted.items():
        side = {
            "scikit-learn": fit_sklearn(rows.features, len(ours.components), scale),
            "MLlib": fit_mllib_on(spark, tmp_path / "features.parquet", len(ours.components), scale),
            "fruitpipe": ours,
        }
        assert all(reference.difference(ours, theirs).ratio <= CLOSE for theirs in side.values())
        if scale:
            found = [list(map(float, cells(line)[1:])) for line in list(reference.accuracy_table(rows, side))[2:]]
            assert np.ptp(np.reshape(found, (-1, 2, 3)), axis=2).max() <= 2 / 320  # ties, and where a solver stops


def test_differences_are_those_of_spans_whatever_the_signs() -> None:
    random = np.random.default_rng(0)
    rows = np.linalg.qr(random.normal(size=(40, 40)))[0]
    turned = rows * random.choice([-1, 1], 40)[:, None]
    assert reference.widest(rows[:8], turned[:8]) < 1e-12
    assert reference.widest(rows[:8], rows[1:9]) == pytest.approx(1)
    angle = np.cos(0.3) * rows[0] + np.sin(0.3) * rows[20]
    assert reference.widest(rows[:8], np.vstack([angle, rows[1:8]])) == pytest.approx(np.sin(0.3))


def test_images_have_the_digest_of_the_command_on_the_page(fruits: Path) -> None:
    (command,) = re.findall(r"^cd IMAGES && (.*)$", PAGE, re.MULTILINE)
    done = subprocess.run(command, shell=True, cwd=fruits, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == reference.digest_of_images(fruits)


@pytest.mark.parametrize(("heading", "ratios"), [("With scaling", SCALED), ("Without scaling", UNSCALED)])
def test_the_page_has_the_ratios_of_the_file(heading: str, ratios: NDArray[np.float64]) -> None:
    part = PAGE[PAGE.index(f"## {heading}") :]
    expected = {f"{number + 1}": ratios[number] for number in range(reference.FIRST)}
    expected |= {f"sum of {k}": ratios[:k].sum() for k in reference.SUMS}
    found = {name: np.array(values, float) for name, *values in table("component", part)}
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-8)
    largest = table("fruitpipe against", part)[0]
    assert largest[0] == f"explained variance ratio, all {len(ratios)}"
    assert max(map(float, largest[1:])) <= CLOSE


def test_the_page_has_the_numbers_of_components_of_the_file() -> None:
    assert ratios_sum_to_one(SCALED)
    assert ratios_sum_to_one(UNSCALED)
    for (share, *numbers), expected in zip(table("share"), reference.SHARES, strict=True):
        assert share == f"{expected:.0%}"
        reached = [int(np.searchsorted(np.cumsum(ratios), expected) + 1) for ratios in (SCALED, UNSCALED)]
        assert list(map(int, numbers)) == [reached[0]] * 3 + [reached[1]] * 3
    whole = table("images")[-1]
    kept = [int(np.searchsorted(np.cumsum(each), share) + 1) for each in (SCALED, UNSCALED) for share in SHARES]
    assert whole == ["20,622", *map(str, kept)]


def ratios_sum_to_one(ratios: NDArray[np.float64]) -> bool:
    return abs(ratios.sum() - 1) < 1e-6 and bool((np.diff(ratios) <= 0).all())


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
@pytest.mark.parametrize("scale", [True, False])
def test_numbers_of_components_are_scikit_learns(shape: tuple[int, int], scale: bool) -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=shape) @ np.diag(0.8 ** np.arange(shape[1])) + 1
    given = StandardScaler().fit_transform(points) if scale else points
    assert components(points, scale) == [PCA(share, svd_solver="full").fit(given).n_components_ for share in SHARES]


def test_images_for_a_number_lie_between_those_that_were_drawn() -> None:
    series = np.array([10.0, 20.0, 40.0])
    assert images_for(20, [100, 200, 400], series) == "200"
    assert images_for(30, [100, 200, 400], series) == "280"
    assert images_for(5, [100, 200, 400], series) == "< 100"
    assert images_for(50, [100, 200, 400], series) == "none"
