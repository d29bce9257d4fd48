"""The main job from end to end, on drawn pictures, with embedded Spark."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import hostile
import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from command import ANEW, BACKBONE, fruitpipe, manifest, one_line_error, run, same_vectors, vectors
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import ImageConfig, environment, load_config
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.litert import LiteRt
from fruitpipe.errors import UserError
from fruitpipe.model.model import Card, Model, load_model
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.moments import Moments
from fruitpipe.numeric.pca import fit
from fruitpipe.pipeline import limits
from fruitpipe.pipeline import run as pipeline
from fruitpipe.pipeline.preview import plan
from fruitpipe.pipeline.reuse import drift_of
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.source import check_apart
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore


@pytest.fixture(scope="session")
def first(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one run over the drawn pictures; tests do not change it."""
    out = tmp_path_factory.mktemp("first")
    run(fruits, out, "formats=[json, csv]")
    return out


@pytest.fixture
def copy(fruits: Path, first: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of that result, and a copy of few of its pictures, for tests that change them."""
    shutil.copytree(first, tmp_path / "out")
    return fruits, tmp_path / "out"


def as_matrix(table: Any) -> np.ndarray[Any, Any]:
    return np.stack(table["vector"].to_numpy())


def test_vectors_are_those_of_scikit_learn_on_features_of_the_bare_backbone(
    lite0: tuple[Backbone, Path], first: Path
) -> None:
    engine = LiteRt(lite0[1].read_bytes())
    table = vectors(first)
    features = np.zeros((len(table), engine.dimension), np.float32)
    for row, name in enumerate(table["path"].to_pylist()):
        pixels = Image.open(name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        engine.run(np.asarray(pixels)[np.newaxis], features[row : row + 1])
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    oracle = PCA(0.95, svd_solver="full").fit(standard)
    ours = as_matrix(table)
    theirs = oracle.transform(standard)
    assert ours.shape == theirs.shape
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-4)
    model = manifest(first)["model"]
    kept = model["components"]
    np.testing.assert_allclose(model["explained_variance_ratio"][:kept], oracle.explained_variance_ratio_, atol=1e-9)


def test_every_picture_has_one_row_with_the_name_of_its_folder(fruits: Path, first: Path) -> None:
    table = vectors(first)
    assert table["path"].to_pylist() == sorted(str(path) for path in fruits.rglob("*.jpg"))
    assert table["label"].to_pylist() == [Path(path).parent.name for path in table["path"].to_pylist()]


def test_pandas_and_duckdb_read_the_vectors_as_they_are(first: Path) -> None:
    folder = first / "runs" / manifest(first)["run"] / "vectors"
    count = manifest(first)["counts"]["ok"]
    assert len(pd.read_parquet(folder)) == count
    assert duckdb.sql(f"SELECT count(DISTINCT path) FROM '{folder}/*.parquet'").fetchall() == [(count,)]


def test_json_lines_and_csv_hold_the_same_vectors(first: Path) -> None:
    folder = first / "runs" / manifest(first)["run"]
    expected = vectors(first)
    lines = pyarrow.json.read_json(folder / "json" / "part-00000.jsonl")
    assert lines["path"].equals(expected["path"])
    np.testing.assert_array_equal(np.stack(lines["vector"].to_numpy()).astype(np.float32), as_matrix(expected))
    table = pyarrow.csv.read_csv(folder / "csv" / "part-00000.csv")
    assert table.column_names[:3] == ["path", "label", "c0"]
    columns = np.stack([column.to_numpy() for column in table.columns[2:]], axis=1)
    np.testing.assert_allclose(columns, as_matrix(expected), rtol=1e-6)


def test_one_file_of_each_format_is_the_same_from_run_to_run(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["formats=[csv, json]", "one_file=true"]
    documents = [run(fruits / "Apple", out, *settings), run(fruits / "Apple", out, *settings, ANEW)]
    one, other = (
        {file["name"]: file for file in document["files"] if file["name"].startswith("vectors.")}
        for document in documents
    )
    assert one == other
    assert {name: file["rows"] for name, file in one.items()} == {"vectors.csv": 40, "vectors.jsonl": 40}
    folder = out / "runs" / documents[1]["run"]
    assert not {"csv", "json", "work"} & {path.name for path in folder.iterdir()}
    frame = pd.read_csv(folder / "vectors.csv")
    assert frame["path"].to_list() == vectors(out)["path"].to_pylist()
    assert hashlib.sha256((folder / "vectors.csv").read_bytes()).hexdigest() == one["vectors.csv"]["sha256"]


def test_the_manifest_comes_last_and_names_every_file_with_its_digest(first: Path) -> None:
    document = manifest(first)
    folder = first / "runs" / document["run"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "manifest.json"
    named = {file["name"] for file in document["files"]}
    assert {path.relative_to(folder).as_posix() for path in files} - named == {"manifest.json", "report.html", "log.gz"}
    for file in document["files"]:
        data = (folder / file["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    assert document["counts"]["by_status"] == {"ok": 320}
    assert sum(file["rows"] for file in document["files"] if file["name"].startswith("vectors/")) == 320


def test_the_schema_of_vectors_names_run_and_components(first: Path) -> None:
    document = manifest(first)
    (part,) = (first / "runs" / document["run"] / "vectors").glob("*.parquet")
    schema = pq.read_schema(part)
    assert schema.metadata[b"fruitpipe.run"].decode() == document["run"]
    assert int(schema.metadata[b"fruitpipe.components"]) == schema.field("vector").type.list_size


def test_the_saved_model_gives_the_published_vectors_without_spark(fruits: Path, first: Path, tmp_path: Path) -> None:
    folder = first / "runs" / manifest(first)["run"] / "model"
    out = tmp_path / "vectors.parquet"
    fruitpipe("transform", folder, fruits, out)
    ours = duckdb.sql(f"SELECT path, vector FROM '{out}' ORDER BY path").to_arrow_table()
    np.testing.assert_allclose(as_matrix(ours), as_matrix(vectors(first)), atol=1e-5)
    assert load_model(folder).card.images == 320


def test_a_table_is_written_as_parquet_alone_and_in_any_folder(fruits: Path, first: Path, tmp_path: Path) -> None:
    folder = first / "runs" / manifest(first)["run"] / "model"
    said = one_line_error(fruitpipe("transform", folder, fruits / "Apple", tmp_path / "t.csv", code=2))
    assert "t.csv: the output is .parquet: name the file so" in said
    fruitpipe("transform", folder, fruits / "Apple", tmp_path / "new" / "deep" / "t.parquet")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["t.parquet"]


def test_what_a_model_is_not_applied_to_is_counted(fruits: Path, first: Path, tmp_path: Path) -> None:
    model = first / "runs" / manifest(first)["run"] / "model"
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.mov", "b.mov", "notes.txt", ".hidden.jpg"):
        (images / name).write_bytes(b"")
    none = one_line_error(fruitpipe("transform", model, images, tmp_path / "out.parquet", code=2))
    assert "and found 2 mov, 1 hidden, 1 txt" in none
    shutil.copy(next(fruits.rglob("*.jpg")), images)
    done = fruitpipe("transform", model, images, tmp_path / "out.parquet", "--json")
    assert json.loads(done.stdout) == {"ok": 1}
    said = "files that are hidden or no images by name were passed over: 2 mov, 1 hidden, 1 txt"
    assert done.stderr.strip().splitlines() == [said]


def test_the_commit_of_the_release_is_in_manifest_and_show(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "5eff0fd2cd7a1b0a1f3d9d1f8a3a0dca0e1d6c5e"
    monkeypatch.setattr(environment, "DEPLOYED", tmp_path / "revision")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    (tmp_path / "revision").write_text(commit)
    assert run(fruits / "Apple", tmp_path / "out")["revision"] == commit
    assert f"commit      {commit}\n" in fruitpipe("show", tmp_path / "out").stdout


def test_a_second_run_computes_no_feature_and_gives_the_same_bits(copy: tuple[Path, Path]) -> None:
    images, out = copy
    before = {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.parquet")}
    expected = vectors(out)
    document = run(images, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.parquet")} == before
    assert (document["plan"]["known"], document["plan"]["new"]) == (320, 0)
    assert "featurize" not in document["timings"]
    assert same_vectors(vectors(out), expected)


@pytest.mark.slow
def test_the_number_of_cores_does_not_change_a_bit(fruits: Path, first: Path, tmp_path: Path) -> None:
    document = run(fruits, tmp_path / "out", "spark.master=local[1]")
    assert document["plan"]["new"] == 320
    assert same_vectors(vectors(tmp_path / "out"), vectors(first))


def test_only_new_and_changed_pictures_are_computed(fruits: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(fruits, images)
    run(images, out)
    paths = sorted(images.rglob("*.jpg"))
    shutil.copy(paths[0], paths[0].with_name("new one.jpg"))
    shutil.copy(paths[-1], paths[1])
    paths[2].unlink()
    document = run(images, out)
    plan = document["plan"]
    assert (plan["new"], plan["changed"], plan["known"], plan["gone"]) == (1, 1, 318, 1)
    table = vectors(out)
    rows = dict(zip(table["path"].to_pylist(), as_matrix(table), strict=True))
    assert len(rows) == 320
    np.testing.assert_array_equal(rows[str(paths[0])], rows[str(paths[0].with_name("new one.jpg"))])
    np.testing.assert_array_equal(rows[str(paths[1])], rows[str(paths[-1])])


def test_bad_pictures_are_rows_and_too_many_of_them_publish_nothing(fruits: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(fruits / "Apple", images / "Apple")
    (images / "Apple" / "empty.jpg").touch()
    (images / "Apple" / "text.png").write_text("not an image")
    (images / "Apple" / "dangling.gif").symlink_to("nowhere")
    failed = fruitpipe("run", images, out, "--set", "backbone=efficientnet_lite0", code=3)
    line = one_line_error(failed)
    assert "3 of 43 images failed" in line
    assert line.endswith("then fix the images or raise failures.max_rate.")
    assert not (out / "latest.json").exists()
    assert not list(out.glob("runs/*/manifest.json"))
    (row,) = json.loads(fruitpipe("runs", out, "--json").stdout)
    assert (row["status"], "failures.max_rate" in row["reason"]) == ("failed", True)
    document = run(images, out, "failures.max_rate=0.5")
    assert document["plan"]["known"] == 40  # what the failed run computed
    assert document["counts"]["by_status"] == {"ok": 40, "undecodable": 2, "missing": 1}
    failures = pq.read_table(out / "runs" / document["run"] / "failures.parquet").to_pylist()
    assert [(Path(row["path"]).name, row["status"]) for row in failures] == [
        ("dangling.gif", "missing"),
        ("empty.jpg", "undecodable"),
        ("text.png", "undecodable"),
    ]
    assert all(row["error"] for row in failures)


def test_as_many_failures_as_the_rate_allows_are_not_too_many(fruits: Path, tmp_path: Path) -> None:
    """0.29 * 100 is less than 29 in floating point."""
    for number, path in enumerate(sorted(fruits.rglob("*.jpg"))[:71]):
        shutil.copyfile(path, tmp_path / f"{number}.jpg")
    for number in range(29):
        (tmp_path / f"empty{number}.jpg").touch()
    done = run(tmp_path, tmp_path / "out", "failures.max_rate=0.29")
    assert done["counts"]["by_status"] == {"ok": 71, "undecodable": 29}


def test_hostile_files_come_out_with_the_status_that_fits_them(fruits: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    expected = hostile.make(images)
    shutil.copytree(fruits / "Apple", images / "Apple")
    document = run(images, tmp_path / "out", "failures.max_rate=1")
    failures = pq.read_table(tmp_path / "out" / "runs" / document["run"] / "failures.parquet")
    found = {Path(path).name: "ok" for path in vectors(tmp_path / "out")["path"].to_pylist()}
    found |= {Path(row["path"]).name: row["status"] for row in failures.to_pylist()}
    assert {name: found[name] for name in expected} == expected
    assert document["counts"]["by_label"]["Apple"] == 40


def test_a_picture_that_comes_back_is_tried_again(fruits: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(fruits / "Apple", images / "Apple")
    link = images / "Apple" / "link.jpg"
    link.symlink_to(tmp_path / "later.jpg")
    assert run(images, out)["counts"]["by_status"] == {"ok": 40, "missing": 1}
    assert run(images, out, "failures.retry=none", ANEW)["plan"]["known_failed"] == 1
    assert run(images, out)["plan"]["retried"] == 1
    shutil.copy(images / "Apple" / "apple_000.jpg", tmp_path / "later.jpg")
    assert run(images, out)["counts"]["by_status"] == {"ok": 41}


def test_names_of_all_kinds_survive_to_the_output(fruits: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "im ages#1 %20", tmp_path / "out put#2 %41"
    names = [
        "a b.jpg",
        "#hash.jpg",
        "100%.jpg",
        "%20.jpg",
        "été 水果 🍎.jpg",
        "new\nline.jpg",
        "-dash.jpg",
        "quo'te\".jpg",
    ]
    folder = images / "Apple & Pear, 50%"
    folder.mkdir(parents=True)
    for source, name in zip(sorted(fruits.rglob("*.jpg")), names, strict=False):
        shutil.copy(source, folder / name)
    run(images, out)
    table = vectors(out)
    assert table["path"].to_pylist() == sorted(str(folder / name) for name in names)
    assert set(table["label"].to_pylist()) == {folder.name}


def test_drift_is_seen_in_any_unit() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 8)) * 1e-4
    fitted, engine = fit(Moments.of(rows), 4, scale=False), EngineSpec("litert", b"")
    of_fit, of_others = (Distribution.of(fitted.transform_with_error(each)[1]) for each in (rows, 7 * rows))
    card = Card(
        run="20260101-000000-abcd", backbone="b", features="f", image=ImageConfig(), images=500, extractor="e",
        reconstruction_error=of_fit.mean, reconstruction_error_p99=of_fit.quantile(0.99),
    )  # fmt: skip
    drift = drift_of(Model(card, fitted, engine), of_others)
    assert drift
    assert drift.beyond_p99 > 0.8


def test_a_reused_model_keeps_vectors_comparable_and_reports_drift(copy: tuple[Path, Path], tmp_path: Path) -> None:
    fruits, out = copy
    fitted = manifest(out)
    same = run(fruits, out, "model=reuse")
    assert same["model"]["fitted_by"] == fitted["run"]
    assert same_vectors(vectors(out, same["run"]), vectors(out, fitted["run"]))
    assert same["drift"]["beyond_p99"] == pytest.approx(0.01, abs=0.005)
    inverted = tmp_path / "inverted" / "Apple"
    inverted.mkdir(parents=True)
    for path in (fruits / "Apple").iterdir():
        Image.eval(Image.open(path), lambda value: 255 - value).save(inverted / path.name)
    other = run(inverted, out, "model=reuse", f"reuse={fitted['run']}")
    assert other["drift"]["beyond_p99"] > 0.9
    assert other["drift"]["reconstruction_error"] > 2 * other["drift"]["fit_reconstruction_error"]
    by_path = run(inverted, tmp_path / "elsewhere", "model=reuse", f"reuse={out}/runs/{fitted['run']}/model")
    assert by_path["model"]["fitted_by"] == fitted["run"]
    refused = fruitpipe(
        "run",
        fruits,
        out,
        "-s",
        "backbone=efficientnet_lite0",
        "-s",
        "model=reuse",
        "-s",
        "image.resample=bilinear",
        "-s",
        "image.grey=true",
        code=2,
    )
    assert "takes features with image.grey=False, image.resample=bicubic: choose" in one_line_error(refused)


def test_without_pca_the_vectors_are_the_features(fruits: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again.parquet"
    document = run(fruits / "Apple", out, "pca=none")
    parts = [pq.read_table(part) for part in (out / "features").rglob("*.parquet")]
    features = {row["path"]: np.frombuffer(row["feature"], np.float32) for part in parts for row in part.to_pylist()}
    table = vectors(out)
    assert table.column_names == ["path", "label", "vector"]
    np.testing.assert_array_equal(as_matrix(table), [features[path] for path in table["path"].to_pylist()])
    assert document["model"]["components"] == 1280
    assert document["model"]["explained"] is None
    assert "fit" not in document["timings"]
    model = out / "runs" / document["run"] / "model"
    assert {path.name for path in model.iterdir()} == {"model.json", "backbone.tflite"}
    fruitpipe("transform", model, fruits / "Apple", again)
    np.testing.assert_array_equal(as_matrix(pq.read_table(again).sort_by("path")), as_matrix(table))
    reused = run(fruits / "Apple", out, "model=reuse")
    assert (reused["drift"], reused["model"]["fitted_by"]) == (None, document["run"])
    assert same_vectors(vectors(out), table)
    shown = fruitpipe("show", out).stdout
    assert "no PCA: vectors are the 1280 features" in shown
    assert "k for" not in shown
    assert fruitpipe("runs", out).stdout.count("1280") == 2
    assert "polyline" not in (out / "runs" / reused["run"] / "report.html").read_text()


def test_an_older_run_can_be_published_again(copy: tuple[Path, Path]) -> None:
    fruits, out = copy
    old = manifest(out)["run"]
    new = run(fruits, out, "pca.components=3")["run"]
    assert manifest(out)["run"] == new
    fruitpipe("publish", out, old)
    assert manifest(out)["run"] == old
    rows = json.loads(fruitpipe("runs", out, "--json").stdout)
    assert [(row["run"], row["status"]) for row in rows] == [(old, "latest"), (new, "published")]
    assert "no published run nonsense" in one_line_error(fruitpipe("publish", out, "nonsense", code=2))


def test_gc_deletes_what_no_published_run_needs_and_nothing_else(copy: tuple[Path, Path]) -> None:
    fruits, out = copy
    expected = vectors(out)
    run(fruits, out, "image.resample=bilinear", "pca.components=2")
    needless = manifest(out)["run"]
    fruitpipe("publish", out, next(path.name for path in sorted((out / "runs").iterdir())))
    (out / "runs" / needless / "manifest.json").unlink()
    part = next((out / "features").rglob("part-*.parquet"))
    published = out / "runs" / min(path.name for path in (out / "runs").iterdir())
    (published / "work").mkdir()
    left = [part.with_name(f".{part.name}.0123abcd.tmp"), published / ".report.html.0123abcd.tmp",
            published / "work/todo-00000.parquet"]  # fmt: skip
    for path in left:
        path.write_text("left by a crash")
    before = sorted(path for path in out.rglob("*") if path.is_file())
    listed = json.loads(fruitpipe("gc", out, "--json").stdout)
    assert not listed["deleted"]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == before
    deleted = json.loads(fruitpipe("gc", out, "--delete", "--json").stdout)
    assert deleted["objects"] == listed["objects"]
    assert not (out / "runs" / needless).exists()
    assert not any(path.exists() for path in left)
    assert len(list((out / "features").iterdir())) == 1
    assert same_vectors(vectors(out), expected)
    assert run(fruits, out)["plan"]["known"] == 320


def test_gc_deletes_nothing_that_fruitpipe_has_not_written(store: LocalStore, tmp_path: Path) -> None:
    """Photographs where labels are called `runs` and `features`, and all that links lead to."""
    store.put(layout.MARKER, b'{"layout": 1}')
    ours = layout.feature_part("0" * 64, [("a", "1")])
    unfinished = layout.new_run_id()
    elsewhere = tmp_path / "elsewhere"
    theirs = [
        store.root / "runs/apple.jpg", store.root / "features/pear.jpg", store.root / "runs/2026/config.yaml",
        store.root / layout.run(unfinished, "vectors/picture.jpg"), elsewhere / Path(ours).name,
        elsewhere / "todo.parquet",
    ]  # fmt: skip
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    (store.root / Path(ours).parent).symlink_to(elsewhere)
    (store.root / layout.run(unfinished, "work")).symlink_to(elsewhere)
    (store.root / layout.run(unfinished, "report.html")).symlink_to(elsewhere / "todo.parquet")
    store.put(layout.outcome(unfinished), b"{}")
    before = find_garbage(store)
    assert [each.name for each in before.objects] == [layout.outcome(unfinished)]
    assert before.others == sorted(
        ["features/0000000000000000", "features/pear.jpg", "runs/2026/config.yaml", "runs/apple.jpg"]
        + [layout.run(unfinished, name) for name in ("report.html", "vectors/picture.jpg", "work")]
    )
    assert collect(store) == before
    assert all(path.read_bytes() == b"mine" for path in theirs)
    assert (store.root / layout.run(unfinished, "report.html")).is_symlink()


@pytest.mark.parametrize("option", ["--delete", "--compact"])
def test_gc_of_what_is_no_result_is_one_line_and_leaves_nothing_there(tmp_path: Path, option: str) -> None:
    for place in (tmp_path / "gone", tmp_path):
        assert "is not a fruitpipe result" in one_line_error(fruitpipe("gc", place, option, code=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["{0}", "{0}/", "file://{0}", "{0}/*/*.jpg", "{0}/../{1}", "link"])
def test_results_among_the_images_are_refused_before_anything_is_written(
    fruits: Path, tmp_path: Path, given: str
) -> None:
    images = tmp_path / "images"
    shutil.copytree(fruits / "Apple", images / "runs")
    (tmp_path / "link").symlink_to(images)
    place = str(tmp_path / "link") if given == "link" else given.format(images, images.name)
    for verb in (pipeline.run, plan):
        with pytest.raises(UserError, match="is input and output: choose another output"):
            verb(load_config(input=place, output=str(images)))
    assert [path.name for path in images.iterdir()] == ["runs"]


@pytest.mark.parametrize("output", ["loop", "loop/out", "x" * 256])
def test_an_output_that_cannot_be_is_apart_from_all_images(tmp_path: Path, output: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    check_apart([str(tmp_path), f"{tmp_path}/*"], str(tmp_path / output))


@pytest.mark.parametrize("given", ["{out}/runs", "{out}/features/", "file://{out}/runs/2026", "{out}/runs/*.jpg"])
def test_images_in_a_folder_of_the_results_are_refused_before_anything_is_written(tmp_path: Path, given: str) -> None:
    out = tmp_path / "out"
    for folder in ("features", "runs/2026"):
        (out / folder).mkdir(parents=True)
        (out / folder / "apple.jpg").write_bytes(b"mine")
    for verb in (pipeline.run, plan):
        with pytest.raises(UserError, match=r"is in (runs|features)/ of the output"):
            verb(load_config(input=given.format(out=out), output=str(out)))
    assert sorted(path.name for path in out.iterdir()) == ["features", "runs"]


def test_an_output_inside_the_images_is_never_input(fruits: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(fruits / "Apple", images / "Apple")
    out = images / "out"
    run(images, out)
    shutil.copy(images / "Apple" / "apple_000.jpg", out / "runs" / "picture.jpg")
    assert run(images, out)["counts"]["images"] == 40


def test_a_single_picture_gives_one_component(fruits: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(fruits / "Apple" / "apple_000.jpg", images)
    run(images, tmp_path / "out")
    assert vectors(tmp_path / "out")["vector"].to_pylist() == [[0.0]]


@pytest.mark.slow
def test_mobilenet_on_photographs_agrees_with_keras_and_scikit_learn(
    data: Path, mobilenet: object, tmp_path: Path
) -> None:
    oracle = np.load(data / "oracle" / "sample-mobilenetv2.npz")
    images = data / "fruits-360" / "Sample"
    fruitpipe("run", images, tmp_path / "out")
    document = manifest(tmp_path / "out")
    cumulative = np.cumsum(oracle["explained_variance_ratio"])
    assert document["model"]["components"] == int(np.searchsorted(cumulative, 0.95) + 1)
    ratios = document["model"]["explained_variance_ratio"]
    np.testing.assert_allclose(ratios[: len(cumulative) - 1], oracle["explained_variance_ratio"][:-1], atol=1e-4)
    rows = {}
    for part in (tmp_path / "out" / "features").rglob("*.parquet"):
        table = pq.read_table(part)
        for path, feature in zip(table["path"].to_pylist(), table["feature"].to_pylist(), strict=True):
            rows[path] = np.frombuffer(feature, np.float32)
    for path, expected in zip(oracle["paths"], oracle["features"], strict=True):
        ours = rows[str(images / path)]
        assert ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected) >= 0.9999


def test_a_pca_that_memory_does_not_hold_is_refused_before_there_is_work(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 62,720 numbers, as of a map that is not pooled, it would take 126 GB."""
    monkeypatch.setattr(limits, "memory", lambda: 1 << 20)
    settings = {"input": str(fruits), "output": str(tmp_path / "out"), "backbone": "efficientnet_lite0", "limit": 3}
    said = r"a PCA of features of 1280 numbers takes about 52\.4 MB, and there are 1\.0 MB: set pooling: avg"
    for what in (plan, pipeline.run):
        with pytest.raises(UserError, match=said):
            what(load_config(**settings))
    assert not [*(tmp_path / "out" / "features").rglob("*.parquet")]
    assert pipeline.run(load_config(**settings, pca="none")).manifest.counts.ok == 3


def test_where_a_file_of_a_run_cannot_be_written_nobody_writes_any_more(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written side by side, and the lease is given up after that."""
    failed, put, late = threading.Event(), LocalStore.put, list[bool]()

    def fails(store: LocalStore, name: str, data: bytes | memoryview) -> None:
        if name.endswith("pca.npz"):
            failed.set()
            raise OSError(5, "Input/output error")
        if name.endswith("config.yaml"):
            assert failed.wait(30)
            time.sleep(0.3)
            late.append(store.find(layout.LEASE) is not None)
        put(store, name, data)

    monkeypatch.setattr(LocalStore, "put", fails)
    done = fruitpipe("run", fruits, tmp_path / "out", "--set", BACKBONE, "--set", "limit=3", code=1)
    assert "Input/output error" in one_line_error(done)
    assert late == [True]


def test_one_image_needs_no_number_of_components(fruits: Path, tmp_path: Path) -> None:
    run(fruits, out := tmp_path / "out", "limit=1")
    assert "none, as the features do not differ" in fruitpipe("show", out).stdout
