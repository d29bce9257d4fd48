"""Texts: what a text tower gives is what NumPy gives, and images are found and labelled by it as by whole features."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import fruitpipe, manifest, one_line_error, vectors
from networks import (
    PAD,
    WIDTH,
    WORDS,
    encoded,
    mean_of_patches,
    references,
    text_network,
    text_table,
    tokenizer,
    tokens,
    write,
)
from numpy.typing import NDArray
from s3 import options, upload
from seaweed import BUCKET, Server
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment, S3Config
from fruitpipe.config.sidecar import TextTower, sidecar_of
from fruitpipe.engines.package import MEMBERS, TextPackage
from fruitpipe.engines.text import TextEncoder
from fruitpipe.errors import UserError
from fruitpipe.findings.texts import find_described
from fruitpipe.model.model import load_model
from fruitpipe.numeric import pca
from fruitpipe.numeric.curation import best_of
from fruitpipe.numeric.moments import Moments
from fruitpipe.result.runs import open_run
from fruitpipe.sinks import vectors_of
from fruitpipe.storage.store import LocalStore

TEXTS = ["a ripe banana", "Green APPLE", "kiwi", "a photo of something unknown", "of of of of of of of of of of of"]
TABLE = text_table(WORDS)


def by_hand(text: str, table: NDArray[np.floating[Any]] = TABLE, masked: bool = True) -> NDArray[np.float64]:
    """What the text tower gives, by NumPy."""
    ids, mask = tokens(text, WORDS)
    rows = table.astype(np.float64)[ids]
    found: NDArray[np.float64] = (rows * mask[:, None] if masked else rows).sum(axis=0)
    return found


def said(feature: Callable[[str], NDArray[np.float64]] = by_hand, texts: Sequence[str] = TEXTS[:4]) -> list[Any]:
    """References of a sidecar."""
    return [{"text": text, "vector": encoded(feature(text))} for text in texts]


def encoder(network: bytes | None = None, made: bytes | None = None, **keys: Any) -> TextEncoder:
    """A text tower with such keys in its sidecar, or none of those that are None."""
    files = {"network": "text.onnx", "tokenizer": "tokenizer.json"}
    told = {k: v for k, v in ({"padding": PAD, "references": said()} | files | keys).items() if v is not None}
    package = TextPackage(TextTower(**told), network or text_network(TABLE), made or tokenizer(WORDS))
    return TextEncoder(packed(package))


def packed(package: TextPackage) -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        package.write(Path(folder, "text.zip"))
        return Path(folder, "text.zip").read_bytes()


def normalised(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return found


INT64, INT32, FLOAT, BOOL = 7, 6, 1, 9  # of ONNX
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is exported": ({}, {}),
    "no mask": ({"mask": None}, {"references": said(lambda text: by_hand(text, masked=False))}),
    "int32": ({"ids": INT32, "mask": INT32}, {}),
    "mask of floats": ({"mask": FLOAT}, {}),
    "mask of booleans": ({"mask": BOOL}, {}),
    "free axes": ({"shape": ["batch", "tokens"]}, {"length": 8}),
    "other names": ({"names": ["ids", "there"]}, {"ids": "ids", "mask": "there"}),
    "several outputs": ({"gives": ["rows", "text_embeds"]}, {"output": "text_embeds"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
def test_a_text_tower_gives_what_numpy_gives(library: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are longer than it takes are cut, and words that it does not know are there."""
    if library == "onnxruntime":
        monkeypatch.setitem(sys.modules, "openvino", None)
    network, keys = KINDS[kind]
    found = encoder(text_network(TABLE, **network), **keys).vectors(TEXTS)
    expected = np.stack([by_hand(text, masked=kind != "no mask") for text in TEXTS])
    np.testing.assert_allclose(found, normalised(expected), atol=1e-6)


def test_what_the_tokenizer_says_need_not_be_said() -> None:
    padding = {"direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0, "pad_id": 0, "pad_token": PAD}
    cut = {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}}
    free = text_network(TABLE, shape=["n", "t"])
    for changes in (
        cut | {"padding": padding | {"strategy": "BatchLongest"}},
        {"padding": padding | {"strategy": {"Fixed": 8}}},
    ):
        found = encoder(free, tokenizer(WORDS, **changes), padding=None).vectors(TEXTS)
        np.testing.assert_allclose(found, normalised(np.stack(list(map(by_hand, TEXTS)))), atol=1e-6)


def refused(network: bytes | None = None, made: bytes | None = None, **keys: Any) -> str:
    """Why a text tower does not start, in one line."""
    with pytest.raises(UserError) as caught:
        encoder(network, made, **keys)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_all_that_is_missing_is_asked_for_in_one_line() -> None:
    network = text_network(TABLE, shape=["n", "t"], gives=["rows", "text_embeds"], names=["words", "there"])
    assert refused(network, padding=None, references=None) == (
        "text.onnx does not describe itself completely: write under `text` in the sidecar ids (words or there); length "
        "(tokens); padding (the token that fills); output (rows or text_embeds); references ([] for none)."
    )
    assert "in the sidecar mask (there)." in refused(text_network(TABLE, names=["input_ids", "there"]))


OTHERS = ["banana", *WORDS[:6], *WORDS[7:]]
"""The same words by other numbers."""
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another tokenizer": ({"made": tokenizer(OTHERS)}, "tokenizer.json, length or padding is likely to be another"),
    "other padding": (
        {"network": text_network(TABLE, mask=None), "padding": "[UNK]",
         "references": said(lambda text: by_hand(text, masked=False))},
        "tokenizer.json, length or padding is likely",
    ),
    "capitals": ({"made": tokenizer(WORDS, lowercase=False)}, "with lowercase: true, all references fit"),
    "another network": ({"network": text_network(TABLE[::-1])}, "has cosine"),
    "no numbers": ({"references": said(lambda _: np.full(WIDTH, np.nan))}, "has cosine 0.0000"),
    "another output": ({"references": said(lambda text: by_hand(text)[:7])}, "a reference has 7 numbers"),
    "no such padding": ({"padding": "<pad>"}, "padding <pad> is not a token of tokenizer.json"),
    "no such input": ({"ids": "tokens"}, "ids: text.onnx has no input tokens: it takes input_ids, attention_mask"),
    "no such output": ({"output": "pooled"}, "text.onnx has no output pooled: it gives text_embeds"),
    "one input twice": ({"mask": "input_ids"}, "ids and mask are both input_ids"),
    "length": ({"length": 77}, "length is 77, and text.onnx takes 8 tokens"),
    "tokens": ({"network": text_network(TABLE, gives=["rows"])}, "has 3 axes, not one vector"),
    "both towers": ({"network": text_network(TABLE, further="pixel_values")}, "export the part that takes tokens"),
    "batch": ({"network": text_network(TABLE, shape=[2, 8])}, "int64 of 2 x 8: export one that takes int64 or int32"),
    "no tokenizer": ({"made": b"<html>404</html>"}, "tokenizer.json is not a file of the library tokenizers"),
    "no text": ({"made": b"\xff\xfe"}, "tokenizer.json is not a file of the library tokenizers"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_text_tower_that_is_not_as_its_sidecar_says_is_refused(what: str) -> None:
    keys, reason = WRONG[what]
    assert reason in refused(**keys)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{network: t.onnx, tokenizer: t.json}", "set l2_normalise: true"),
        ("{network: ../t.onnx, tokenizer: t.json}", "text.network"),
        ("{network: t.pt, tokenizer: t.json}", "text.network"),
        ("{network: t.onnx}", "text.tokenizer: missing"),
        ("{network: t.onnx, tokenizer: t.json, promt: x}", "Did you mean 'prompt'?"),
        ("{network: t.onnx, tokenizer: t.json, prompt: a photo}", "a prompt has {} once"),
        ("{network: t.onnx, tokenizer: t.json, logit_scale: -1}", "text.logit_scale"),
        ("{network: t.onnx, tokenizer: t.json, references: [{text: a, vector: b}]}", "base64 of float32"),
    ],
)
def test_what_is_wrong_with_a_sidecar_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        sidecar_of(f"text: {text}".encode(), "model.yaml")
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_package_is_made_of_what_it_is_made_of_and_of_nothing_else(tmp_path: Path) -> None:
    told = TextTower(network="t.onnx", tokenizer="t.json", references=())
    assert packed(TextPackage(told, b"1", b"2")) == packed(TextPackage(told, b"1", b"2"))
    for number, (names, kind) in enumerate(
        [(MEMBERS[:2], 0), ((*MEMBERS, "more"), 0), (("../text", *MEMBERS[1:]), 0), (MEMBERS, zipfile.ZIP_DEFLATED)]
    ):
        with zipfile.ZipFile(bad := tmp_path / f"{number}.zip", "w", kind) as archive:
            for name in names:
                archive.writestr(name, b"{}")
        with pytest.raises(ValueError, match=r"not a package of a text tower|is compressed"):
            TextEncoder(bad)


@pytest.mark.parametrize("scale", [True, False])
def test_products_are_the_least_squares_of_what_the_vectors_leave(scale: bool) -> None:
    """By scikit-learn's inverse transforms, and by regression of the true products on the vectors."""
    random = np.random.default_rng(5)
    features = random.normal(size=(400, 12)) @ random.normal(size=(12, 12)) * np.geomspace(0.01, 10, 12) + 3
    directions = random.normal(size=(4, 12))
    for k in (1, 5, 12):
        fitted = pca.fit(Moments.of(features), components=k, scale=scale)
        reduced = fitted.transform_with_error(features)[0].astype(np.float64)
        found = fitted.products(directions).of(reduced)
        scaler, other = StandardScaler(with_std=scale), PCA(k)
        z = other.fit_transform(scaler.fit_transform(features))
        rebuilt = scaler.inverse_transform(other.inverse_transform(z))
        np.testing.assert_allclose(found, rebuilt @ directions.T, rtol=1e-4, atol=1e-3)
        regressors = np.column_stack([reduced, np.ones(len(reduced))])
        best, *_ = np.linalg.lstsq(regressors, features @ directions.T)
        np.testing.assert_allclose(found, regressors @ best, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found, features @ directions.T, rtol=1e-4, atol=1e-3)
    assert pca.Unreduced(12).products(directions).of(features) == pytest.approx(features @ directions.T)


def test_the_best_of_some_labels_and_how_sure_that_is() -> None:
    cosines = np.random.default_rng(1).uniform(-1, 1, (50, 4))
    best, margin = best_of(cosines)
    ordered = np.sort(cosines, axis=1)
    assert (best == cosines.argmax(axis=1)).all()
    np.testing.assert_allclose(margin, ordered[:, -1] - ordered[:, -2])
    shares = np.exp(100 * cosines) / np.exp(100 * cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(best_of(cosines, 100)[1], shares.max(axis=1))
    assert best_of(np.array([[1.0, -1.0]]), 1e6)[1] == [1]


class Towers(NamedTuple):
    """A result of a two-tower network."""

    out: Path
    network: Path
    images: Path
    without: str
    """the run before there was a text tower, whose vectors are the features"""
    table: NDArray[np.float64]
    """of the text tower"""
    paths: list[str]
    labels: list[str]
    features: NDArray[np.float64]
    """(n, d), of length 1"""

    def directions(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of texts, by NumPy, (m, d)."""
        return normalised(np.stack([by_hand(text, self.table) for text in texts]))


def tower(network: Path, table: NDArray[np.float64], made: bytes | None = None, **keys: Any) -> None:
    """Give a network a text tower: its files, and its section in the sidecar."""
    network.with_name("text.onnx").write_bytes(text_network(table.astype(np.float32)))
    network.with_name("words.json").write_bytes(made or tokenizer(WORDS))
    told = {"network": "text.onnx", "tokenizer": "words.json", "padding": PAD, "logit_scale": 20}
    told |= {"references": said(lambda text: by_hand(text, table))} | keys
    write(network.parent, l2_normalise=True, references=unit_references(), text=told)


def unit_references() -> list[Any]:
    return references(lambda pixels: normalised(mean_of_patches(pixels)))


@pytest.fixture(scope="module")
def towers(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Towers]:
    """48 drawn fruits, of which two have a wrong label; words mean what the images of their labels have in common."""
    folder = tmp_path_factory.mktemp("towers")
    images, out = folder / "images", folder / "out"
    for name in ("Apple", "Banana", "Kiwi", "Mango"):
        (images / name).mkdir(parents=True)
        for path in sorted((fruits / name).iterdir())[:12]:
            shutil.copyfile(path, images / name / path.name)
    (images / "Apple/apple_000.jpg").rename(images / "Banana/wrong.jpg")
    (images / "Kiwi/kiwi_000.jpg").rename(images / "Mango/wrong.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUITPIPE_CACHE", str(folder / "cache"))
        network = write(folder, l2_normalise=True, references=unit_references())
        first = json.loads(fruitpipe("run", images, out, "--backbone", network, "--set", "pca=none", "--json").stdout)[
            "run"
        ]
        table = vectors(out)
        features = vectors_of(table).astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
        labels = table["label"].to_pylist()
        meaning = np.random.default_rng(4).normal(size=(len(WORDS) + 3, WIDTH)) / 40
        for name in set(labels):
            own = features[np.array(labels) == name].mean(axis=0)
            meaning[WORDS.index(name.lower()) + 3] += 3 * (own - features.mean(axis=0))
        tower(network, meaning)
        words = ("run", images, out, "--backbone", network, "--components", "6", "--set", "neighbours.k=5", "--json")
        done = json.loads(fruitpipe(*words).stdout)
        assert manifest(out, done["run"])["plan"]["known"] == 48, "texts do not decide features"
        yield Towers(out, network, images, first, meaning, table["path"].to_pylist(), labels, features)


def similar(out: Path | str, *words: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fruitpipe("similar", out, *words, "--json").stdout)
    return found


def test_texts_find_the_images_that_whole_features_find(towers: Towers) -> None:
    """Exactly, where all components are kept or there is no PCA; otherwise as scikit-learn rebuilds the features."""
    queries = [part for text in TEXTS for part in ("--text", text)]
    fruitpipe(
        "run", towers.images, towers.out, "--backbone", towers.network, "--components", "16", "--set", "pca.scale=false"
    )
    whole = 1 - towers.features @ towers.directions(TEXTS).T
    expected = np.sort(whole, axis=0)[:48].T
    for found in (similar(towers.out, *queries, "--k", "48"), similar(towers.out, *queries, "--k", "100")):
        assert [each["text"] for each in found] == TEXTS
        distances = np.array([[match["distance"] for match in each["matches"]] for each in found])
        np.testing.assert_allclose(distances, expected, atol=2e-6)
        for number, each in enumerate(found):
            own = [whole[towers.paths.index(match["path"]), number] for match in each["matches"]]
            np.testing.assert_allclose(own, distances[number], atol=2e-6)
            label = {match["path"]: match["label"] for match in each["matches"]}
            assert label == dict(zip(towers.paths, towers.labels, strict=True))
    far = similar(towers.out, *queries, "--metric", "euclidean", "--k", "48")
    apart = np.linalg.norm(towers.features[:, None] - towers.directions(TEXTS), axis=2)
    found_far = [[match["distance"] for match in each["matches"]] for each in far]
    np.testing.assert_allclose(found_far, np.sort(apart, axis=0).T, atol=1e-5)


def test_a_search_by_text_imports_neither_spark_nor_tensorflow_nor_pandas(towers: Towers) -> None:
    """Nor what tokenizers would download by."""
    told = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('imported', *sys.modules, file=sys.stderr))\n"
        "from fruitpipe.cli.app import main; main()"
    )
    words = [sys.executable, "-c", told, "similar", str(towers.out), "--text", "kiwi", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)[0]["matches"]) == 12
    imported = set(done.stderr.split())
    assert {"imported", "tokenizers"} <= imported
    assert not {"pyspark", "tensorflow", "pandas", "huggingface_hub"} & imported


def rebuilt(towers: Towers, k: int) -> NDArray[np.float64]:
    """Features as scikit-learn rebuilds them of k components."""
    scaler, other = StandardScaler(), PCA(k)
    found: NDArray[np.float64] = scaler.inverse_transform(
        other.inverse_transform(other.fit_transform(scaler.fit_transform(towers.features)))
    )
    return found


def with_tower(towers: Towers) -> str:
    """The run of six components."""
    runs = [path.name for path in Path(towers.out, "runs").iterdir() if (path / "manifest.json").exists()]
    (found,) = [run for run in runs if manifest(towers.out, run)["model"]["components"] == 6]
    return found


def test_texts_find_images_by_reduced_vectors(towers: Towers) -> None:
    run = with_tower(towers)
    near = similar(towers.out, "--run", run, "--text", "a ripe banana", "--text", "kiwi", "--k", "12")
    expected = 1 - rebuilt(towers, 6) @ towers.directions(["a ripe banana", "kiwi"]).T
    for number, each in enumerate(near):
        distances = [match["distance"] for match in each["matches"]]
        np.testing.assert_allclose(distances, np.sort(expected[:, number])[:12], atol=1e-5)
    names = [Path(match["path"]).name for match in near[1]["matches"][:8]]
    assert all(name == "wrong.jpg" or name.startswith("kiwi") for name in names), "one is a kiwi among mangos"


def test_texts_and_images_in_one_search_and_its_page(towers: Towers, tmp_path: Path) -> None:
    page, image = tmp_path / "page.html", towers.paths[0]
    hostile = "<script>alert(1)</script> \x1b[31m banana"
    words = ("similar", towers.out, image, "--text", hostile, "--k", "3", "--html", page)
    found = json.loads(fruitpipe(*words, "--json").stdout)
    assert [set(each) for each in found] == [{"image", "of_run", "matches"}, {"text", "matches"}]
    alone = similar(towers.out, "--text", hostile, "--k", "3")
    assert found[1] == alone[0]
    text = page.read_text()
    assert "<script" not in text
    assert "“&lt;script&gt;" in text
    assert text.count("data:image/webp;base64,") == 1 + 2 * 3
    shown = fruitpipe(*words).stdout
    assert "\x1b" not in shown + text
    assert "banana" in shown


def test_labels_are_checked_by_texts(towers: Towers, tmp_path: Path) -> None:
    """As NumPy chooses by features that scikit-learn rebuilds; capitals do not count."""
    file, run = tmp_path / "curated.parquet", with_tower(towers)
    words = ("curate", towers.out, run, "--labels", "apple, BANANA,Kiwi", "-o", file)
    shown = fruitpipe(*words).stdout
    table = pq.read_table(file)
    names = np.array(["apple", "BANANA", "Kiwi"])
    logits = 20 * rebuilt(towers, 6) @ towers.directions([f"a photo of a {name}" for name in names]).T
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = names[logits.argmax(axis=1)]
    assert table["zero_shot"].to_pylist() == chosen.tolist()
    np.testing.assert_allclose(table["zero_shot_confidence"], shares.max(axis=1), atol=1e-5)
    agrees = [label.lower() == best.lower() for label, best in zip(towers.labels, chosen, strict=True)]
    expected = [None if label == "Mango" else right for label, right in zip(towers.labels, agrees, strict=True)]
    assert table["label_check"].to_pylist() == expected
    others = table.filter(pc.invert(table["label_check"]))
    assert {Path(path).name for path in others["path"].to_pylist()} >= {"wrong.jpg"}
    count = expected.count(False)
    assert re.search(rf"^label check +{count} of 35 whose label is among the 3 look more like another", shown, re.M)
    assert re.search(r"^  rather apple +\S+/Banana/wrong.jpg$", shown, re.M)
    facts = json.loads(fruitpipe(*words[:5], "--json").stdout)
    assert (facts["labels_checked"], facts["label_disagreements"]) == (35, count)
    fruitpipe("curate", towers.out, run, "-o", file)
    assert "zero_shot" not in pq.read_schema(file).names


@pytest.mark.slow
def test_without_a_scale_confidence_is_the_margin(towers: Towers, tmp_path: Path) -> None:
    network, out, file = tmp_path / towers.network.name, tmp_path / "out", tmp_path / "curated.parquet"
    shutil.copyfile(towers.network, network)
    tower(network, towers.table, logit_scale=None)
    fruitpipe("run", towers.images, out, "--backbone", network, "--set", "pca=none", "--set", "neighbours.k=5")
    fruitpipe("curate", out, "--labels", "apple,kiwi", "-o", file)
    cosines = towers.features @ towers.directions(["a photo of a apple", "a photo of a kiwi"]).T
    found = pq.read_table(file)["zero_shot_confidence"]
    np.testing.assert_allclose(found, np.abs(np.diff(cosines, axis=1)[:, 0]), atol=1e-6)


def test_mistakes_are_one_line(towers: Towers, tmp_path: Path) -> None:
    def line(*words: object) -> str:
        return one_line_error(fruitpipe(*words, code=2))

    assert "nothing to compare with" in line("similar", towers.out)
    missing = "was made without a text tower"
    assert missing in line("similar", towers.out, "--run", towers.without, "--text", "kiwi")
    run = with_tower(towers)
    for labels in ("apple", "apple,Apple", "apple,,kiwi", ""):
        assert "is no choice" in line("curate", towers.out, run, "--labels", labels)
    again = tmp_path / "out"
    shutil.copytree(towers.out, again)
    zipped = again / "runs" / run / "model" / "text.zip"
    zipped.write_bytes(zipped.read_bytes()[:-9])
    assert "text.zip is damaged" in line("similar", again, "--run", run, "--text", "kiwi")
    assert similar(again, towers.paths[0], "--run", run), "images need no text tower"
    zipped.unlink()
    assert "text.zip is missing" in line("similar", again, "--run", run, "--text", "kiwi")
    arguments = ("run", towers.images, tmp_path / "new", "--backbone")
    other = tmp_path / "other"
    shutil.copytree(towers.network.parent, other, ignore=shutil.ignore_patterns("images", "out", "cache"))
    network = other / towers.network.name
    tower(network, towers.table, tokenizer(OTHERS))
    assert "words.json, length or padding is likely to be another network's" in line(*arguments, network)
    tower(network, towers.table[:, :7], references=[])
    assert "text.onnx gives 7 numbers, and patches.onnx 16" in line(*arguments, network)
    (other / "words.json").unlink()
    assert f"there is no {other}/words.json: put it there, or correct patches.yaml" in line(*arguments, network)


def test_a_run_is_another_one_only_where_its_text_tower_is(towers: Towers, tmp_path: Path) -> None:
    """And a model that is reused keeps its own."""
    network = tmp_path / "patches.onnx"
    shutil.copyfile(towers.network, network)
    tower(network, towers.table)
    words = ("run", towers.images, tmp_path / "out", "--backbone", network, "--components", "4", "--json")
    assert [json.loads(fruitpipe(*words).stdout)["status"] for _ in range(2)] == ["published", "unchanged"]
    tower(network, towers.table, prompt="{} on a table")
    assert json.loads(fruitpipe(*words).stdout)["status"] == "published"
    done = open_run(LocalStore(str(tmp_path / "out")))
    assert done.model.encoder.prompts(["kiwi"]) == ["kiwi on a table"]
    fruitpipe(*words, "--set", "model=reuse", "--limit", "20")
    network.unlink()
    reused = open_run(LocalStore(str(tmp_path / "out")))
    assert reused.id != done.id
    assert [len(each.matches) for each in find_described(reused, ["kiwi"], 30, "cosine")] == [20]
    assert load_model(reused.path("model")).card.text == done.model.card.text


def test_in_a_bucket(towers: Towers, server: Server, s3: S3Config, admin: Any) -> None:
    upload(admin, towers.out, "texts/out")
    place, to = f"s3://{BUCKET}/texts/out", options(server.endpoint)
    run = with_tower(towers)
    words = ("--run", run, "--text", "a ripe banana")
    assert similar(place, *words, *to) == similar(towers.out, *words)
    assert "label check" in fruitpipe("curate", place, run, "--labels", "apple,kiwi", *to).stdout


def test_towers_in_a_bucket(towers: Towers, server: Server, s3: S3Config, admin: Any) -> None:
    for name in ("patches.onnx", "patches.yaml", "text.onnx", "words.json"):
        admin.put_object(Bucket=BUCKET, Key=f"texts/models/{name}", Body=towers.network.with_name(name).read_bytes())
    config = Config(input="a", output="b", backbone=f"s3://{BUCKET}/texts/models/patches.onnx", s3=s3)
    found = resolve(config, Environment.read())
    assert found.text
    np.testing.assert_allclose(TextEncoder(found.text).vectors(TEXTS), towers.directions(TEXTS), atol=1e-6)
