"""Backbones of the user's own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from colour_histogram import ColourHistogram
from command import fruitpipe, manifest, one_line_error, process, run, vectors
from PIL import Image
from saved import write_model
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fruitpipe.backbones import resolve
from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.engines import Engine, EngineSpec
from fruitpipe.engines.custom import CustomEngine, create
from fruitpipe.errors import UserError
from fruitpipe.model import transform
from fruitpipe.model.model import Card, Model, load_model
from fruitpipe.model.transform import transform_folder
from fruitpipe.numeric.pca import Unreduced
from fruitpipe.source import Reader, list_images
from fruitpipe.source.fetching import Image as Listed
from fruitpipe.tasks.featurize import featurize

EXAMPLE = "colour_histogram:ColourHistogram"
WHOLE = """
    def describe(self): return fruitpipe.Description({size}, 3, "1")
    def load(self): {load}
    def feature(self, pixels): return {feature}
"""


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A module with class Mine, where Python looks for it."""
    name = f"backbone_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(f"import fruitpipe\nimport numpy as np\nclass Mine:{body}")
    monkeypatch.syspath_prepend(str(folder))
    return f"{name}:Mine"


def whole(size: object = 8, load: str = "pass", feature: str = "np.zeros(3, np.float32)") -> str:
    return WHOLE.format(size=size, load=load, feature=feature)


def resolved(name: str) -> ResolvedBackbone:
    return resolve(Config(input="a", output="b", backbone=name), Environment.read())


def engine(name: str) -> Engine:
    return resolved(name).engine.start()


@pytest.mark.slow
def test_a_run_with_the_example_gives_scikit_learns_pca_of_its_features(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "examples"))
    paths = sorted(fruits.rglob("*.jpg"))
    out = tmp_path / "out"
    run(fruits, out, f"backbone={EXAMPLE}", "pca.components=5")
    backbone = ColourHistogram()
    backbone.load()
    features = np.stack(
        [backbone.feature(np.asarray(Image.open(path).convert("RGB").resize((64, 64)))) for path in paths]
    )
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    expected = PCA(5, svd_solver="full").fit_transform(standard)
    table = vectors(out)
    assert [Path(path) for path in table["path"].to_pylist()] == paths
    found = np.stack(table["vector"].to_pylist())
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    model = out / "runs" / manifest(out)["run"] / "model"
    fruitpipe("transform", model, fruits, tmp_path / "again.parquet", "--backbone", EXAMPLE)
    applied = np.stack(pq.read_table(tmp_path / "again.parquet").sort_by("path")["vector"].to_pylist())
    np.testing.assert_allclose(applied, found, atol=1e-5)
    monkeypatch.delenv("PYTHONPATH")
    elsewhere = process("run", fruits, tmp_path / "other", "--set", f"backbone={EXAMPLE}", code=2)
    assert "no module colour_histogram: install it, or put its folder on PYTHONPATH" in one_line_error(elsewhere)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("\n    def load(self): pass", "has no describe() and no feature()"),
        ("\n    def __init__(self, size): pass", "cannot be made without arguments"),
        (whole(size="'wide'"), "describe() must return"),
        (whole(size=0), "describe() must return"),
        (whole(size="1 / 0"), "describe() failed: ZeroDivisionError"),
    ],
)
def test_what_a_class_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        create(module(tmp_path, monkeypatch, body))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.at_all:Mine", "no module nowhere"), ("json:Mine", "json has no Mine: give the name of a class in it")],
)
def test_a_class_that_is_not_there_is_named(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        create(name)


def test_a_module_that_cannot_be_imported_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, monkeypatch, " pass\nthis is no Python")
    with pytest.raises(UserError, match=r"cannot be imported: SyntaxError.*Fix it\.$"):
        create(name)


def test_a_feature_that_is_not_finite_is_a_row_with_a_status(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(module(tmp_path, monkeypatch, whole(feature="np.float32([1, pixels[4, 4, 0] % 2 / 0.0, 2])")))
    images = [Listed(str(path)) for path in sorted(fruits.rglob("*.jpg"))[:20]]
    with np.errstate(all="ignore"):
        facts, features = featurize(images, made, ImageConfig(), Reader(S3Config(), 1 << 20))
    assert set(facts.status) == {"rejected"}, "0 / 0 and 1 / 0"
    assert set(facts.error) == {"the backbone gives a feature that is not finite"}
    assert not features.any()


def solid(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    folder.mkdir()
    for number, colour in enumerate(colours):
        Image.new("RGB", (8, 8), colour).save(folder / f"{number:02}.png")
    return folder


def test_large_features_give_a_run_that_can_be_read_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (20, 3)).tolist()
    usual = solid(tmp_path / "usual", [(red, green, 0) for red, green, _ in drawn])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    large = module(tmp_path, monkeypatch, whole(feature="np.float32(pixels[4, 4]) * np.float32(1e25)"))
    settings = ("pca.scale=false", "pca.components=1", "neighbours.k=3", "explore=true")
    made = run(usual, tmp_path / "large", f"backbone={large}", *settings)
    largest = float(np.finfo(np.float32).max)
    assert made["model"]["reconstruction_error_p99"] == largest
    assert made["run"] in fruitpipe("show", tmp_path / "large").stdout
    said = "failed, but the vectors are whole. The cause: a vector is longer than 1e+15 and cannot be compared"
    assert [said in each for each in made["warnings"]] == [True, True], "neither would go better another time"

    feature = "(lambda r, g, b: np.float32([1e19 if r == 255 else r * 1e-22, g, b * 1e18]))(*pixels[4, 4].tolist())"
    name, out = f"backbone={module(tmp_path, monkeypatch, whole(feature=feature))}", tmp_path / "out"
    made = run(usual, out, name)
    other = solid(tmp_path / "other", [(1, 2, 255), (3, 4, 0)])
    drift = run(other, out, name, "model=reuse", f"reuse={made['run']}")["drift"]
    assert (drift["beyond_p99"], drift["reconstruction_error"]) == (0.5, pytest.approx(largest / 2))
    assert "50.0% beyond" in fruitpipe("show", out).stdout

    far = solid(tmp_path / "far", [(1, 2, 0), (255, 3, 0)])
    words = ("--set", name, "--set", "model=reuse", "--set", f"reuse={made['run']}")
    said = one_line_error(fruitpipe("run", far, out, *words, code=2))
    assert f"the first of them {far / '01.png'}, are beyond float32" in said
    assert "model: fit" in said
    assert manifest(out)["drift"] == drift, "nothing was published"
    model, table = out / "runs" / made["run"] / "model", tmp_path / "far.parquet"
    fruitpipe("transform", model, far, table, "--backbone", name.partition("=")[2])
    assert pq.read_table(table).sort_by("path")["status"].to_pylist() == ["ok", "rejected"]


def test_loading_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"load\(\) failed: KeyError: 'weights'"):
        engine(module(tmp_path, monkeypatch, whole(load="{}['weights']")))


def test_another_version_than_the_models_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, monkeypatch, whole())
    wanted = {"class": name, "input_size": 8, "dimension": 3, "version": "1"}
    CustomEngine(json.dumps(wanted).encode())
    for other in ({"version": "2"}, {"dimension": 4}, {"input_size": 9}):
        with pytest.raises(UserError, match=r"is version 1 here, of 3 features; version \d of \d is wanted"):
            CustomEngine(json.dumps(wanted | other).encode())


def saved(name: str, engine: EngineSpec, folder: Path) -> Path:
    """A model on disk whose vectors are the features of a class."""
    card = Card(
        run="20260101-000000-abcd", backbone=name, features="f", image=ImageConfig(), images=0, reconstruction_error=0,
        reconstruction_error_p99=0, extractor=engine.digest, engine="python", unreduced=3,
    )  # fmt: skip
    return write_model(Model(card, Unreduced(3), engine), folder)


def test_code_that_a_model_names_runs_only_if_the_caller_names_it_too(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model from somebody else may name any module, one in the working folder included."""
    name = module(tmp_path, monkeypatch, whole())
    spec = resolved(name).engine
    file = name.partition(":")[0]
    monkeypatch.delitem(sys.modules, file)
    with (tmp_path / f"{file}.py").open("a") as code:
        code.write("\nimport pathlib\npathlib.Path('ran').touch()\n")
    folder = saved(name, spec, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for trusted in (None, "mobilenet_v2", f"{name}s"):
        with pytest.raises(UserError, match=f"the model's backbone is a class, {name}, whose code would run here"):
            transform_folder(str(folder), str(fruits / "Apple"), str(tmp_path / "out.parquet"), backbone=trusted)
        with pytest.raises(UserError, match="if you trust it, say so"):
            next(load_model(folder, backbone=trusted).transform_images([str(next(fruits.rglob("*.jpg")))]))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.parquet").exists()
    counts = transform_folder(str(folder), str(fruits / "Apple"), str(tmp_path / "out.parquet"), backbone=name)
    assert counts == {"ok": 40}
    assert (tmp_path / "ran").exists()


def test_transform_starts_an_engine_for_each_core_and_keeps_the_order_of_the_listing(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over more batches than there are cores, some of them with images that cannot be decoded."""
    batch, folders = 600, len(os.sched_getaffinity(0)) + 2
    paths = [str(path) for path in sorted(fruits.rglob("*.jpg"))[:50]]
    (tmp_path / "bad.jpg").write_text("no image")
    paths[17] = str(tmp_path / "bad.jpg")
    monkeypatch.setattr(transform, "BATCH", batch)
    for number in range(folders * batch + 1):
        link = tmp_path / f"images/{number // 100}/{number}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(paths[number % len(paths)])
    started = tmp_path / "started"
    body = whole(
        load=f"\n        with open({str(started)!r}, 'a') as file: file.write('x')",
        feature="pixels[4, 4].astype(np.float32)",
    )
    name = module(tmp_path, monkeypatch, body)
    folder = saved(name, resolved(name).engine, tmp_path / "model")
    out = tmp_path / "out.parquet"
    counts = transform_folder(str(folder), str(tmp_path / "images"), str(out), backbone=name)
    assert len(started.read_text()) <= len(os.sched_getaffinity(0))
    rows = pq.read_table(out)
    listed = [path for each in list_images(str(tmp_path / "images"), batch=batch) for path in each["path"].to_pylist()]
    assert rows["path"].to_pylist() == listed
    assert counts == {"ok": len(listed) - len(listed) // 50, "undecodable": len(listed) // 50}
    made = engine(name)
    facts, features = featurize([Listed(path) for path in paths], made, ImageConfig(), Reader(S3Config(), 1 << 20))
    for row in rows.to_pylist():
        which = int(Path(row["path"]).stem) % len(paths)
        assert row["status"] == facts.status[which]
        assert row["vector"] == (features[which].tolist() if row["status"] == "ok" else None)
        assert row["label"] == Path(row["path"]).parent.name
    assert pq.ParquetFile(out).num_row_groups == folders + 1


def test_another_size_is_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {resolved(module(tmp_path, monkeypatch, whole(size=size))).facts.digest for size in (8, 9)}
    assert len(found) == 2


@pytest.mark.parametrize("feature", ["np.zeros(4, np.float32)", "np.zeros((1, 3))", "np.zeros(3, complex)", "'text'"])
def test_a_feature_of_another_kind_than_promised_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    made = engine(module(tmp_path, monkeypatch, whole(feature=feature)))
    with pytest.raises(UserError, match=r"describe\(\) promises float32 of shape \(3,\)"):
        made.run(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 3), np.float32))


def test_an_image_that_a_class_cannot_take_is_a_row_with_a_status(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone refuses images whose middle is reddish; the others come out."""
    body = whole(feature="np.float32([1, 2, pixels[4, 4, 0]]) if pixels[4, 4, 0] < 200 else [][0]")
    name = module(tmp_path, monkeypatch, body)
    batch, out = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (9, 255, 7)]), np.zeros((3, 3), np.float32)
    bad = engine(name).run(batch, out)
    assert [(number, error.status) for number, error in bad.items()] == [(1, "rejected")]
    assert "IndexError" in str(bad[1])
    assert out.tolist() == [[1, 2, 9], [0, 0, 0], [1, 2, 7]]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(fruits, tmp_path / "out", f"backbone={name}", "failures.max_rate=0.99")
    failures = pq.read_table(tmp_path / "out/runs" / done["run"] / "failures.parquet").to_pylist()
    assert 0 < len(failures) == done["counts"]["failed"] < done["counts"]["images"]
    assert {row["status"] for row in failures} == {"rejected"}
    assert all("IndexError" in row["error"] for row in failures)
    refused = {row["path"] for row in failures}
    middle = {
        str(path): np.asarray(Image.open(path).convert("RGB").resize((8, 8)))[4, 4, 0] for path in fruits.rglob("*.jpg")
    }
    assert refused == {path for path, red in middle.items() if red >= 200}
