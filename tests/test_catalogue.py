"""`fruitpipe backbones --all`: what it says is what Keras has, and what it tells people to write is valid."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from command import fruitpipe, one_line_error

from fruitpipe.backbones import resolve
from fruitpipe.backbones.catalogue import FILE, Entry, catalogue
from fruitpipe.backbones.efficientnet_lite0 import EfficientNetLite0
from fruitpipe.backbones.hub import HubPresets
from fruitpipe.backbones.keras_applications import KerasApplications
from fruitpipe.backbones.keras_model import pick
from fruitpipe.backbones.network_family import NetworkFamily
from fruitpipe.backbones.portable import PortableNetworks
from fruitpipe.config import Config, Environment, find_family
from fruitpipe.config.sidecar import sidecar_of

FAMILIES: dict[str, NetworkFamily] = {
    name: family for family in (EfficientNetLite0(), KerasApplications()) for name in family.names
}
LARGE = 10_000_000
"""Parameters from which drawing them takes seconds."""


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    """The catalogue by name; every name is there once."""
    found = catalogue(Environment.read())
    assert Counter(entry.name for entry in found).most_common(1)[0][1] == 1
    return {entry.name: entry for entry in found}


def test_every_network_has_its_entry(entries: dict[str, Entry]) -> None:
    told = yaml.safe_load(FILE.read_text())
    grouped = [name for group in told["known"] for name in group["names"]]
    assert sorted(grouped) == sorted(FAMILIES), "each in one group"
    assert set(told["speed"]) <= set(entries)
    assert entries["mobilenet_v2"].speed == 1
    for entry in entries.values():
        if entry.name not in {"orb", "sift"}:
            assert entry.good_for
            assert (entry.weights or "").startswith("https://")


def test_what_a_config_may_say_is_something_that_it_takes(entries: dict[str, Entry]) -> None:
    for entry in entries.values():
        for backbone in entry.backbones:
            family = find_family(backbone)
            kind = HubPresets if ":" in backbone else PortableNetworks if backbone.endswith(".onnx") else object
            assert isinstance(family, kind), backbone


def test_sidecars_are_complete(entries: dict[str, Entry]) -> None:
    """They say what a file may leave open: its size and layout, and always the scale of its pixels."""
    shown = [entry for entry in entries.values() if entry.sidecar]
    assert len(shown) > 3
    for entry in shown:
        told = sidecar_of(entry.sidecar_text.encode(), f"{entry.name}.yaml")
        assert told.levels
        assert told.layout
        assert told.size == entry.size
        assert told.references == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].networks[name].parameters < LARGE])
def test_dimension_input_and_parameters_are_kerass(name: str, entries: dict[str, Entry]) -> None:
    """Of those that are drawn soon: larger ones are their relatives."""
    family, entry = FAMILIES[name], entries[name]
    network = family.architecture(name, trained=False)
    assert network.count_params() == entry.parameters
    assert set(network.input_shape[1:3]) <= {None, entry.size}
    assert pick(network, family.choose(name).layer).output.shape[-1] == entry.dimension


@pytest.mark.slow
def test_a_network_of_keras_becomes_a_file_with_sidecar_and_references(tmp_path: Path) -> None:
    """As that of pip does in test_portable.py and presets in test_hub.py; there is nothing to convert of others."""
    output = tmp_path / "mine.tflite"
    network = ["--backbone", "mobilenet_v3_small", "--set", "weights=random:7"]
    fruitpipe("convert", *network, "--output", output)
    told = sidecar_of(output.with_suffix(".yaml").read_bytes(), "mine.yaml")
    assert len(told.references or ()) == 4
    facts, *_ = resolve(Config(input="a", output="b", backbone=str(output)), Environment.read())
    assert (facts.dimension, facts.input_size) == (1024, 224), "and its references hold"


def test_the_table_and_its_json(entries: dict[str, Entry]) -> None:
    lines = fruitpipe("backbones", "--all").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(entries)
    assert "Apache-2.0  " in next(line for line in lines if line.startswith("dinov2_small"))
    documents = json.loads(fruitpipe("backbones", "--all", "--json").stdout)
    assert [document["name"] for document in documents] == list(entries)
    assert {document["name"] for document in json.loads(fruitpipe("backbones", "--json").stdout)} < set(entries)


def test_one_network_with_what_to_write_beside_it() -> None:
    said = fruitpipe("backbones", "clip_vit_b32").stdout
    assert "backbone    keras_hub:clip_vit_base_patch32 or clip_vit_b32.onnx\n" in said
    sidecar = said.partition("\n# clip_vit_b32.yaml, beside clip_vit_b32.onnx\n")[2]
    assert sidecar_of(sidecar.encode(), "clip_vit_b32.yaml").output == "image_embeds"
    assert json.loads(fruitpipe("backbones", "clip_vit_b32", "--json").stdout)["dimension"] == 512
    assert "backbone    resnet50\n" in fruitpipe("backbones", "resnet50").stdout
    assert "`fruitpipe backbones --all` lists it" in one_line_error(fruitpipe("backbones", "clip_vit_b33", code=2))
