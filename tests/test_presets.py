"""Presets: what they say, how they merge, and a real run of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command import fruitpipe, one_line_error

import fruitpipe as package
from fruitpipe import config as configs
from fruitpipe.config import Config, ConfigError, PcaConfig, load_config

FOLDER = Path(package.__file__).with_name("presets")
NAMES = sorted(path.stem for path in FOLDER.iterdir())


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
    message = "preset: 'vgg16' is no preset: `fruitpipe presets` lists them. Did you mean 'vgg16-csv'?"
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
