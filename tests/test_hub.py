"""Presets of keras-hub: what they become gives what Keras itself gives, by the command of docs/configuration.md.

keras-hub has an environment of its own, made once.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import hub_networks
import numpy as np
import pytest
from command import fruitpipe, one_line_error
from numpy.typing import NDArray
from test_docs import PAGES, read

from fruitpipe.backbones import resolve
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.catalogue import catalogue
from fruitpipe.backbones.convert import FACTS, FLATBUFFER, QUIET
from fruitpipe.backbones.hub import choice_of, split
from fruitpipe.backbones.onnx_network import to_onnx
from fruitpipe.config import Config, Environment
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.reference_pictures import reference_picture
from fruitpipe.errors import UserError

ROOT = Path(__file__).parents[1]
(COMMAND,) = [command for command in read(PAGES["configuration.md"].read_text()).commands if command.startswith("uvx")]
OVERRIDES = re.search(r'<\(echo "(.+?)"\)', COMMAND)
NETWORKS = [*hub_networks.CLASSES, "dinov2@56"]


class Elsewhere:
    """Python with keras-hub, and this fruitpipe."""

    def __init__(self, folder: Path) -> None:
        """Installs what the page says; without fruitpipe itself, whose code is that of this checkout."""
        assert OVERRIDES
        (folder / "overrides.txt").write_text(OVERRIDES[1])
        self.uv("venv", "--python", sys.executable, folder / "venv")
        self.python = folder / "venv/bin/python"
        self.uv(
            *("pip", "install", "--python", self.python, "--overrides", folder / "overrides.txt"),
            *("--requirements", ROOT / "pyproject.toml", "--extra", "hub"),
        )

    def uv(self, *words: object) -> str:
        command = [sys.executable, "-m", "uv", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *map(str, words)]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "VIRTUAL_ENV": ""}
        done = subprocess.run(
            command, env=os.environ | QUIET | paths | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("hub"))


class Presets(NamedTuple):
    """Some presets, what Keras gives for some pictures, what they were converted to, and what was said of others."""

    folder: Path
    refused: dict[str, str]
    parameters: dict[str, int]
    """of keras-hub's own presets, texts' side included"""


@pytest.fixture(scope="session")
def presets(elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Presets:
    folder = tmp_path_factory.mktemp("presets")
    others = [f"keras_hub:{name}" for name in ("dinov2_smal", "dinov2_small", folder / "text", f"{folder}/siglip@64")]
    nobody_listens = "http://127.0.0.1:9"
    offline = {"https_proxy": nobody_listens, "http_proxy": nobody_listens, "no_proxy": ""}
    done = elsewhere.run(ROOT / "tests/hub_networks.py", folder, *NETWORKS, *others, **offline)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refused"].keys() == set(others)
    return Presets(folder, **told)


def features(engine: EngineSpec) -> NDArray[np.float32]:
    started = engine.start()
    pictures = [reference_picture(kind, seed, started.side) for kind, seed in hub_networks.PICTURES]
    found = np.full((len(pictures), started.dimension), np.nan, np.float32)
    assert started.run(np.stack(pictures), found) == {}
    return found


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() >= 0.9999
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_preset_gives_kerass_features(presets: Presets, name: str) -> None:
    expected = np.load(presets.folder / f"{name}.npy")
    made = presets.folder / f"{name}.converted"
    for kind in ("litert", "openvino"):
        assert_same(features(EngineSpec(kind, made / FLATBUFFER)), expected)
    facts = Backbone.model_validate_json((made / FACTS).read_text())
    assert facts.dimension == expected.shape[1]
    assert facts.name == f"keras_hub:{name.partition('@')[0]}"
    others = np.roll(expected, 1, axis=0)
    assert not np.allclose(others, expected, rtol=1e-2), "so that the comparison can tell"


@pytest.mark.slow
def test_the_command_of_the_page_writes_a_file_that_runs_here(
    elsewhere: Elsewhere, presets: Presets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the same features as the preset, and so does the preset's name from the cache, without keras-hub."""
    monkeypatch.chdir(tmp_path)
    _, _, *words = shlex.split(COMMAND[COMMAND.index("--from ") :])
    preset, output = words[words.index("--backbone") + 1], words[words.index("--output") + 1]
    folder = f"keras_hub:{presets.folder}/dinov2"
    given = {"fruitpipe": "-m fruitpipe", preset: folder, output: "dinov2.tflite"}
    command = " ".join(given.get(word, word) for word in words).split()
    told = elsewhere.run(*command, FRUITPIPE_CACHE=str(tmp_path / "cache"))
    assert "keras_hub:dinov2, layer DINOV2Backbone: 32 features of 70 x 70 pixels" in told.stdout
    monkeypatch.setenv("FRUITPIPE_CACHE", str(tmp_path / "cache"))
    fruitpipe("convert", "--backbone", folder, "--output", "dinov2.onnx")
    for backbone in ("dinov2.tflite", "dinov2.onnx", folder):
        resolved = resolve(Config(input="a", output="b", backbone=backbone), Environment.read())
        assert_same(features(resolved.engine), np.load(presets.folder / "dinov2.npy"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("dinov2_smal", "keras-hub has no preset dinov2_smal: dinov2_small is one"),
        ("dinov2_small", "where it cannot be downloaded, give the folder of a preset, keras_hub:FOLDER"),
        ("PRESETS/text", "is not an image backbone that keras-hub can read here: .*BertBackbone"),
        ("PRESETS/siglip@64", "takes images of 32 x 32 alone"),
    ],
)
def test_a_preset_that_cannot_be_used_is_one_line(presets: Presets, backbone: str, reason: str) -> None:
    (said,) = [text for name, text in presets.refused.items() if name.endswith(backbone.removeprefix("PRESETS"))]
    assert re.search(reason, said)
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_the_catalogue_names_presets_that_there_are(presets: Presets) -> None:
    """With their parameters, of networks for images alone. DINOv2's has fewer positions at 224 than at its own 518."""
    entries = [entry for entry in catalogue(Environment.read()) if entry.preset]
    assert len(entries) > 5
    for entry in entries:
        preset, side = split(entry.backbones[0])
        told = presets.parameters[preset]
        if entry.name.startswith(("dinov2", "vit")):
            fewer = (518 // 14) ** 2 - (224 // 14) ** 2 if side else 0
            assert entry.parameters == told - fewer * entry.dimension
        else:
            assert (entry.parameters or 0) < 1.001 * told


@pytest.mark.slow
def test_the_environment_has_one_tensorflow_and_no_torch(elsewhere: Elsewhere) -> None:
    there = {
        each["name"] for each in json.loads(elsewhere.uv("pip", "list", "--python", elsewhere.python, "--format=json"))
    }
    assert "keras-hub" in there
    assert len({"tensorflow", "tensorflow-cpu"} & there) == 1
    assert not {"torch", "tensorflow-text"} & there


@pytest.mark.slow
def test_gelu_exact_and_by_tanh_becomes_onnx(tmp_path: Path) -> None:
    """The operator of most of these networks, by its definition."""
    import keras
    import onnxruntime
    import tensorflow as tf

    served = tf.Module()
    served.both = tf.function(  # of x and -x, or they would have a part in common
        lambda x: [keras.activations.gelu(x), keras.activations.gelu(-x, approximate=True)],
        input_signature=[tf.TensorSpec((1, 64), tf.float32, name="x")],
    )
    tf.saved_model.save(served, str(tmp_path), signatures=served.both.get_concrete_function())
    flatbuffer = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    session = onnxruntime.InferenceSession(to_onnx(flatbuffer))
    x = np.linspace(-6, 6, 64, dtype=np.float32)[np.newaxis]
    exact = x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    by_tanh = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    found = session.run(None, {session.get_inputs()[0].name: x})
    for gelu in (exact, by_tanh[:, ::-1]):
        assert min(np.abs(each - gelu).max() for each in found) < 2e-6
    assert np.abs(exact - by_tanh).max() > 1e-4, "so that the comparison can tell"


def test_without_keras_hub_the_line_says_where_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITPIPE_CACHE", str(tmp_path))
    said = one_line_error(fruitpipe("convert", "--backbone", "keras_hub:dinov2_small", code=2))
    assert "keras_hub, which reads presets, is not installed" in said
    assert "docs/configuration.md" in said


def test_names_of_presets() -> None:
    assert split("keras_hub:dinov2_small") == ("dinov2_small", None)
    assert split("keras_hub:kaggle://keras/vit/keras/vit@224") == ("kaggle://keras/vit/keras/vit", 224)
    with pytest.raises(UserError, match="nowhere is not the folder of a preset: give the folder"):
        choice_of("keras_hub:./nowhere")
    for wrong in ("keras_hub:", "keras_hub:a@", "keras_hub:a@0", "keras_hub:a@b"):
        with pytest.raises(ValueError, match="is not a known backbone"):
            Config(input="a", output="b", backbone=wrong)


def test_a_folder_counts_by_its_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one, other = (choice_of(f"keras_hub:{tmp_path / name}").weights for name in ("one", "other"))
    assert one == other
    (tmp_path / "one/config.json").write_text("[]")
    assert choice_of(f"keras_hub:{tmp_path / 'one'}").weights != other
