"""What evaluation says of labels, against computations that share nothing with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import fruitpipe, manifest, one_line_error, run
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from fruitpipe.numeric import pca
from fruitpipe.numeric.evaluation import ITERATIONS, Evaluation, evaluate, sizes
from fruitpipe.numeric.moments import Moments
from fruitpipe.result.manifest import Manifest
from fruitpipe.tasks.reduce import spread

Matrix = NDArray[np.float64]


def clusters(images: int, labels: int, dimension: int, apart: float) -> tuple[Matrix, NDArray[np.str_]]:
    """Standardised features whose labels lie so many deviations apart; n, the same number of each label."""
    chance = np.random.default_rng(0)
    codes = np.arange(images) % labels
    features = chance.normal(size=(images, dimension)) + apart * chance.normal(size=(labels, dimension))[codes]
    return (features - features.mean(axis=0)) / features.std(axis=0), np.array([f"label {code}" for code in codes])


def judged(features: Matrix, labels: NDArray[np.str_], components: int) -> tuple[Evaluation, NDArray[np.float32]]:
    vectors = pca.fit(Moments.of(features), components, scale=False).transform(features)
    found = evaluate(features, vectors, labels)
    assert found is not None
    return found, vectors


def leave_one_out(points: NDArray[Any], labels: NDArray[np.str_]) -> float:
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(axis=1)] == labels).mean())


def cross_validated(points: NDArray[Any], labels: NDArray[np.str_]) -> float:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(max_iter=ITERATIONS)
    return float(cross_val_score(model, points.astype(np.float64), labels, cv=folds).mean())


@pytest.mark.parametrize("dimension", [20, 150])  # fewer and more than there are images
def test_accuracies_are_those_of_brute_force_and_of_the_features_as_they_are(dimension: int) -> None:
    features, labels = clusters(100, 4, dimension, 0.4)
    found, vectors = judged(features, labels, 17)
    spaces = [features, vectors[:, :8], vectors[:, :16], vectors]
    for space, accuracy in zip(spaces, [found.full, *found.reduced], strict=True):
        assert accuracy.dimension == space.shape[1]
        assert accuracy.nearest == leave_one_out(space, labels)
        assert accuracy.logistic == pytest.approx(cross_validated(space, labels), abs=1e-9)
    assert 0.3 < found.full.logistic < 1, "neither chance nor certainty, which any classifier would agree on"


def test_labels_far_apart_are_told_and_random_ones_are_not() -> None:
    features, labels = clusters(300, 5, 30, 10)
    found, _ = judged(features, labels, 8)
    assert [(each.nearest, each.logistic) for each in (found.full, *found.reduced)] == [(1, 1), (1, 1)]
    found, _ = judged(features, np.random.default_rng(1).permutation(labels), 8)
    assert all(0.1 < value < 0.3 for each in (found.full, *found.reduced) for value in (each.nearest, each.logistic))
    assert found.chance == 0.2


def test_the_number_of_components_that_is_enough_shows() -> None:
    """Eight components vary most and know nothing of the four labels; the next three tell them apart."""
    codes = np.arange(400) % 4
    features = np.random.default_rng(0).normal(size=(400, 40))
    features[:, :8] *= 20
    features[np.arange(400), 8 + codes] += 12
    found, _ = judged(features, codes.astype(np.str_), 16)
    few, enough = found.reduced
    assert max(few.nearest, few.logistic) < 0.4
    assert min(enough.logistic, found.full.logistic) > 0.99


def test_rare_labels_are_left_out_and_counted() -> None:
    features, labels = clusters(100, 4, 20, 10)
    labels[:4], labels[4:9] = "four", "five"
    found, _ = judged(features, labels, 3)
    assert (found.images, found.labels, found.left_out) == (96, 5, 1)
    without, _ = judged(features[4:], labels[4:], 3)
    assert found.full == without.full


@pytest.mark.parametrize("labels", [["a"] * 20, ["a"] * 16 + ["b"] * 4, [str(number) for number in range(20)]])
def test_fewer_than_two_labels_are_no_evaluation(labels: list[str]) -> None:
    features, _ = clusters(20, 2, 10, 1)
    assert evaluate(features, features[:, :3], np.array(labels)) is None


@pytest.mark.parametrize(
    ("components", "expected"), [(1, [1]), (8, [8]), (9, [8, 9]), (64, [8, 16, 32, 64]), (100, [8, 16, 32, 64, 100])]
)
def test_components_are_doubled_up_to_all(components: int, expected: list[int]) -> None:
    assert sizes(components) == expected


@pytest.mark.parametrize(("rows", "most"), [(0, 5), (1, 5), (5, 5), (7, 5), (4096, 2000), (5000, 0)])
def test_rows_are_spread_evenly(rows: int, most: int) -> None:
    chosen = spread(rows, most)
    assert len(chosen) == min(rows, most)
    assert ((chosen >= 0) & (chosen < rows)).all()
    steps = np.diff(chosen)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_only_an_evaluation_imports_scikit_learn() -> None:
    modules = "sys, fruitpipe.cli.app, fruitpipe.pipeline.run, fruitpipe.tasks.reduce"
    program = f"import {modules}; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_labels_it_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    done = fruitpipe("run", tmp_path, tmp_path / "out", "--set", "labels=none", "--set", "evaluate=true", code=2)
    assert "evaluate: true needs labels" in one_line_error(done)


@pytest.mark.slow
def test_a_run_says_how_well_labels_are_told(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = run(fruits, out, "evaluate=true", "pca.components=12")
    found = Evaluation.model_validate(document["evaluation"])
    assert (found.images, found.labels, found.left_out, found.chance) == (320, 8, 0, 0.125)
    assert [each.dimension for each in (found.full, *found.reduced)] == [1280, 8, 12]
    assert all(value > 0.9 for each in (found.full, *found.reduced) for value in (each.nearest, each.logistic))
    assert "evaluation" in document["timings"]
    assert not list(out.glob("runs/*/work/*")), "features that were kept are gone"
    shown = fruitpipe("show", out).stdout
    assert f"  k = 12    {found.reduced[1].nearest:.1%}, {found.reduced[1].logistic:.1%}\n" in shown
    page = (out / "runs" / document["run"] / "report.html").read_text()
    assert f"{found.reduced[0].nearest:.1%}" in page
    one_core = run(fruits, out, "evaluate=true", "model=reuse", "spark.master=local[1]")
    assert one_core["evaluation"] == document["evaluation"]
    plain = run(fruits, out)
    assert (plain["evaluation"], "evaluation" in plain["timings"]) == (None, False)
    del plain["evaluation"], plain["config"]["evaluate"]  # as runs before this key wrote it
    assert Manifest.model_validate_json(json.dumps(plain)).records == {}


def test_labels_that_are_too_few_are_a_note_and_not_the_end(fruits: Path, tmp_path: Path) -> None:
    shutil.copytree(fruits / "Apple", tmp_path / "images" / "Apple")
    document = run(tmp_path / "images", tmp_path / "out", "evaluate=true")
    assert document["evaluation"] is None
    (warning,) = document["warnings"]
    assert "fewer than two labels have 5 of the 40 images" in warning


@pytest.mark.slow
def test_on_real_photographs_it_is_the_accuracy_of_keras_features(
    data: Path, mobilenet: object, tmp_path: Path
) -> None:
    oracle = np.load(data / "oracle" / "sample-mobilenetv2.npz")
    labels = np.array([Path(path).parent.name for path in oracle["paths"].tolist()])
    standard = oracle["features"] - oracle["features"].mean(axis=0)
    deviations = standard.std(axis=0)
    standard /= np.where(deviations > 0, deviations, 1)
    fruitpipe("run", data / "fruits-360" / "Sample", tmp_path / "out", "--set", "evaluate=true")
    found = Evaluation.model_validate(manifest(tmp_path / "out")["evaluation"])
    assert (found.images, found.labels, found.chance) == (500, 25, 0.04)
    assert found.full.nearest == pytest.approx(leave_one_out(standard, labels), abs=0.002)  # one image may be at a tie
    assert found.full.nearest == pytest.approx(0.996, abs=0.002)
    assert found.full.logistic == pytest.approx(cross_validated(standard, labels), abs=0.004)
    assert [each.dimension for each in found.reduced] == [8, 16, 32, 64, 128, found.reduced[-1].dimension]
    assert found.reduced[0].nearest < 0.99 < found.reduced[2].nearest


@pytest.mark.slow
def test_without_a_pca_only_the_features_are_judged(fruits: Path, tmp_path: Path) -> None:
    done = run(fruits, tmp_path / "out", "pca=none", "evaluate=true")
    assert done["evaluation"]["reduced"] == []
    assert done["evaluation"]["full"]["dimension"] == 1280
    assert done["evaluation"]["full"]["nearest"] > 0.9
