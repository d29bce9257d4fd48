"""What a saved model makes of places that are wrong and of large files; test_run.py says what comes out of it."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import hostile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, fruitpipe, manifest, one_line_error, run
from conftest import converted
from saved import write_model

from fruitpipe.config import ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.model.model import Card, Model, load_model
from fruitpipe.numeric.pca import Unreduced
from fruitpipe.source.fetching import AHEAD_BYTES

ELSEWHERE = "az://photographs/x.jpg"
"""An object that nobody here has a right to: there is no account."""


@pytest.fixture(autouse=True)
def without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder; its vectors are the features."""
    engine = EngineSpec("litert", converted("efficientnet_lite0")[1].read_bytes())
    card = Card(
        run="20260101-000000-abcd", backbone="efficientnet_lite0", features="d", image=ImageConfig(), images=0,
        reconstruction_error=0, reconstruction_error_p99=0, extractor=engine.digest, unreduced=1280,
    )  # fmt: skip
    return write_model(Model(card, Unreduced(1280), engine), tmp_path_factory.mktemp("transform") / "model")


@pytest.fixture
def images(fruits: Path, tmp_path: Path) -> Path:
    """A list of 40 images, and of one in a bucket that cannot be reached."""
    file = tmp_path / "images.txt"
    file.write_text("\n".join([ELSEWHERE, *map(str, sorted((fruits / "Apple").glob("*.jpg")))]))
    return file


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_an_output_that_is_no_file_is_refused_before_anything_is_done(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir() if kind == "folder" else os.mkfifo(out)
    line = one_line_error(fruitpipe("transform", tmp_path / "no-model", tmp_path / "no-images", out, code=2))
    named = out / "vectors.parquet" if kind == "folder" else "vectors.parquet"
    assert f"{out} exists and is not a file: name the file to write, such as {named}." in line
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


@pytest.mark.parametrize("out", ["", "s3://vectors.parquet"])
def test_an_output_without_a_name_is_refused(out: str, tmp_path: Path) -> None:
    line = one_line_error(fruitpipe("transform", tmp_path / "no-model", tmp_path / "no-images", out, code=2))
    assert f"no file to write is named in {out!r}: name one, such as vectors.parquet." in line


def test_a_list_of_images_is_not_replaced_by_their_vectors(model: Path, tmp_path: Path) -> None:
    images, link = tmp_path / "images.parquet", tmp_path / "link.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"]}), images)
    link.symlink_to(images)
    for out in (images, link, tmp_path / "new" / ".." / images.name):
        line = one_line_error(fruitpipe("transform", model, images, out, code=2))
        assert f"{out} is the list of images: name another file to write." in line
    assert pq.read_table(images).column_names == ["path"]


def test_a_row_of_a_bucket_that_cannot_be_reached_is_a_row(
    model: Path, images: Path, fruits: Path, tmp_path: Path
) -> None:
    done = fruitpipe("transform", model, images, tmp_path / "out.parquet", "--set", f"lists.allow=[{fruits}]")
    assert done.stdout == f"{tmp_path / 'out.parquet'}: 40 ok, 1 forbidden\n"
    first, *others = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (first["path"], first["status"], first["vector"]) == (ELSEWHERE, "forbidden", None)
    assert first["error"] == "no Azure account: set AZURE_STORAGE_ACCOUNT_NAME."
    assert {row["status"] for row in others} == {"ok"}


def test_a_run_goes_on_beside_a_row_of_a_bucket_that_cannot_be_reached(
    images: Path, fruits: Path, tmp_path: Path
) -> None:
    done = run(images, tmp_path / "out", f"lists.allow=[{fruits}]")
    assert done["counts"]["by_status"] == {"ok": 40, "forbidden": 1}
    failures = pq.read_table(tmp_path / "out/runs" / manifest(tmp_path / "out")["run"] / "failures.parquet").to_pylist()
    assert [(row["path"], row["status"]) for row in failures] == [(ELSEWHERE, "forbidden")]


@pytest.mark.parametrize("verb", ["transform", "run"])
def test_where_no_image_can_be_reached_the_reason_ends_it(model: Path, tmp_path: Path, verb: str) -> None:
    file, out = tmp_path / "images.txt", tmp_path / "out.parquet"
    file.write_text("az://photographs/x.jpg\naz://photographs/y.jpg\naz://others/x.jpg\n")
    arguments = [model, file, out] if verb == "transform" else [file, out, "--set", BACKBONE]
    line = one_line_error(fruitpipe(verb, *arguments, code=2))
    assert line == "error: no Azure account: set AZURE_STORAGE_ACCOUNT_NAME."
    assert not out.is_file()


@pytest.mark.slow
def test_of_large_files_a_thread_holds_as_many_as_a_worker_does(model: Path, tmp_path: Path) -> None:
    size = 60_000_000
    for number in range(24):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(hostile.jpeg())
        with path.open("r+b") as file:
            file.truncate(size)
    tracemalloc.start()
    vectors = list(load_model(model).transform_images(sorted(tmp_path.iterdir()), threads=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {each.status for each in vectors} == {"ok"}
    assert all(np.array_equal(each.vector, vectors[0].vector) for each in vectors)
    assert peak < AHEAD_BYTES + ImageConfig().max_bytes + 3 * size


def test_a_name_that_is_not_utf8_is_told_of_as_by_a_run(model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in (b"good.jpg", b"\xff.jpg"):
        (images / os.fsdecode(name)).write_bytes(hostile.jpeg())
    fruitpipe("transform", model, images, out := tmp_path / "vectors.parquet")
    found = {row["path"]: (row["status"], row["error"]) for row in pq.read_table(out).to_pylist()}
    assert found == {
        f"{images}/good.jpg": ("ok", None),
        rf"{images}/\xff.jpg (not UTF-8)": ("missing", "its name is not UTF-8: rename it"),
    }
