"""Presets: what they say, how they merge, and a real run of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml
from command import fruitpipe, manifest, one_line_error
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import fruitpipe as package
from fruitpipe import config as configs
from fruitpipe.config import Config, ConfigError, PcaConfig, load_config

FOLDER = Path(package.__file__).with_name("presets")
NAMES = sorted(path.stem for path in FOLDER.iterdir())


class Recipe(NamedTuple):
    """How a preset is tried, and what should come of it."""

    variance: float | int | None
    """that PCA is to keep, as scikit-learn takes it: a share or a number; None without PCA"""
    files: tuple[str, ...] = ()
    """folders and files of vectors, beside vectors/"""
    every: int = 1
    """photograph is taken, where the network is a slow one"""
    settings: tuple[str, ...] = ()


RANDOM = ("weights=random:7",)  # where trained ones are a download away
RECIPES = {
    "mobilenetv2-100": Recipe(100, ("json",)),
    "mobilenetv2-95": Recipe(0.95),
    "orb-bovw-48": Recipe(0.95),
    "resnet50-features": Recipe(None, every=10, settings=RANDOM),
    "vgg16-csv": Recipe(0.95, ("vectors.csv",), every=20, settings=RANDOM),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_valid_config_of_few_lines_that_says_what_it_is(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    lines = path.read_text().splitlines()
    assert len(lines) <= 20
    assert lines[0].startswith("# ")
    configs.validate(path)


def test_the_list_is_the_folders() -> None:
    rows = json.loads(fruitpipe("presets", "--json").stdout)
    assert [row["name"] for row in rows] == NAMES
    assert [row["config"] for row in rows] == [yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in NAMES]
    lines = fruitpipe("presets").stdout.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[row["name"], row["about"]] for row in rows]


def test_each_source_wins_over_those_before_it_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: vgg16-csv\npca: {scale: false}\nlabels: none\n")
    config = load_config(path, ["image.resample=bilinear", "labels=parent"], input="a", output="b", backbone="vgg19")
    assert (config.formats, config.one_file) == (["csv"], True), "preset over default"
    assert config.pca == PcaConfig(variance=0.95, scale=False), "file over preset, key by key"
    assert (config.labels, config.image.resample) == ("parent", "bilinear"), "assignment over file"
    assert config.backbone == "vgg19", "argument over preset"
    assert load_config(path, preset="resnet50-features", input="a", output="b").backbone == "resnet50"
    assert Config(input="a", output="b", preset="mobilenetv2-100").pca == PcaConfig(components=100)


def test_a_pca_takes_the_place_of_none() -> None:
    def pca(*assignments: str) -> object:
        return load_config(None, assignments, input="a", output="b", preset="resnet50-features").pca

    assert pca() == "none"
    assert pca("pca.variance=0.9") == PcaConfig(variance=0.9)


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_config_loads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_config(input="a", output="b", preset=name)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config


def test_a_wrong_name_is_one_line_with_the_likely_one_however_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("labels: none\npreset: vgg16\n")
    message = "preset: 'vgg16' is not a known preset: `fruitpipe presets` lists them. Did you mean 'vgg16-csv'?"
    assert one_line_error(fruitpipe("run", "a", "b", "--preset", "vgg16", code=2)) == f"error: {message}"
    for arguments in ({"assignments": ["preset=vgg16"]}, {"preset": "vgg16"}):
        with pytest.raises(ConfigError) as caught:
            load_config(input="a", output="b", **arguments)
        assert str(caught.value) == message
    assert one_line_error(fruitpipe("validate", path, code=2)) == f"error: {path}: line 2: {message}"


def test_mistakes_beside_a_preset_keep_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: mobilenetv2-100\npca:\n  varience: 0.9\nformats: [jsom]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, input="a", output="b")
    assert {mistake.key: mistake.line for mistake in caught.value.mistakes} == {"pca.varience": 3, "formats.0": 4}


def test_the_next_command_has_the_preset(fruits: Path, tmp_path: Path) -> None:
    done = fruitpipe("plan", fruits, tmp_path / "out", "-p", "mobilenetv2-100", "-s", "backbone=efficientnet_lite0")
    assert "--preset mobilenetv2-100 --set backbone=efficientnet_lite0" in done.stdout.splitlines()[-1]


class Published(NamedTuple):
    """What a run over photographs has left: its folder, and what others read of it, ordered by path."""

    folder: Path
    frame: pd.DataFrame
    features: NDArray[np.float32]

    @property
    def vectors(self) -> NDArray[np.float32]:
        return np.stack(self.frame["vector"].to_list())


def publish(name: str, images: Path, out: Path, *settings: str) -> Published:
    options = [part for setting in settings for part in ("--set", setting)]
    fruitpipe("run", images, out, "--preset", name, *options)
    folder = out / "runs" / manifest(out)["run"]
    parts = f"SELECT path, feature FROM '{out}/features/*/*.parquet' ORDER BY path"
    features = [np.frombuffer(feature, np.float32) for _, feature in duckdb.sql(parts).fetchall()]
    return Published(folder, pd.read_parquet(folder / "vectors"), np.stack(features))


def reduced(features: NDArray[np.float32], variance: float | int | None) -> NDArray[np.floating]:
    """Vectors as scikit-learn makes them."""
    if variance is None:
        return features
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    vectors: NDArray[np.float64] = PCA(variance, svd_solver="full").fit_transform(standard)
    return vectors


def turned(vectors: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """The others' components, with the signs of ours."""
    return others * np.sign((vectors * others).sum(axis=0))


def test_every_preset_is_tried() -> None:
    assert sorted(RECIPES) == NAMES


def take(photographs: Path, every: int, folder: Path) -> list[Path]:
    """Some of the photographs, linked into a folder by category."""
    taken = []
    for path in sorted(photographs.rglob("*.jpg"), key=str)[::every]:
        taken.append(folder / path.parent.name / path.name)
        taken[-1].parent.mkdir(parents=True, exist_ok=True)
        taken[-1].symlink_to(path)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_publishes_what_it_says(name: str, data: Path, tmp_path: Path) -> None:
    recipe, images, out = RECIPES[name], tmp_path / "images", tmp_path / "out"
    paths = take(data / "fruits-360" / "Sample", recipe.every, images)
    done = publish(name, images, out, *recipe.settings)
    assert done.frame.columns.to_list() == ["path", "label", "vector"]
    assert done.frame["path"].to_list() == [str(path) for path in paths]
    assert done.frame["label"].to_list() == [path.parent.name for path in paths]
    expected = reduced(done.features, recipe.variance)
    assert done.vectors.dtype == np.float32
    assert done.vectors.shape == expected.shape
    np.testing.assert_allclose(done.vectors, turned(done.vectors, expected), atol=1e-4)
    rest = {"vectors", "model", "config.yaml", "failures.parquet", "manifest.json", "report.html", "log.gz"}
    assert {path.name for path in done.folder.iterdir()} - rest == set(recipe.files)
    if "json" in recipe.files:
        rows = [json.loads(line) for part in (done.folder / "json").iterdir() for line in part.read_text().splitlines()]
        assert [row["path"] for row in rows] == done.frame["path"].to_list()
        assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), done.vectors)
    if "vectors.csv" in recipe.files:
        frame = pd.read_csv(done.folder / "vectors.csv")
        assert frame.columns.to_list() == ["path", "label", *(f"c{i}" for i in range(done.vectors.shape[1]))]
        assert frame["path"].to_list() == done.frame["path"].to_list()
        assert np.array_equal(frame.iloc[:, 2:].to_numpy(np.float32), done.vectors)
    if name.startswith("mobilenetv2"):
        with np.load(data / "oracle" / "sample-mobilenetv2.npz") as oracle:
            theirs = reduced(oracle["features"], recipe.variance)
        assert done.vectors.shape == theirs.shape
        likeness = np.corrcoef(done.vectors[:, :20], turned(done.vectors, theirs)[:, :20], rowvar=False)
        assert np.diag(likeness, 20).min() > 0.999, "of each of the first 20 components with that of Keras' features"
    config = load_config(None, recipe.settings, preset=name, input=str(images), output=str(out))
    assert manifest(out)["config"] == config.model_dump(mode="json")
