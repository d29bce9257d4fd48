"""Neighbours, curate and similar: of drawn fruits by the command line, of made-up vectors by the tasks themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import fruitpipe, manifest, one_line_error, run, vectors
from numpy.typing import NDArray
from published import publish
from s3 import options
from seaweed import BUCKET, Server
from served import serving
from sklearn.neighbors import NearestNeighbors

from fruitpipe.config import SparkConfig
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.explore.facts import facts_of
from fruitpipe.explore.judgement import judge
from fruitpipe.explore.loss import measure_loss
from fruitpipe.findings import curate, find_duplicates, find_neighbours
from fruitpipe.findings.curation import in_medians
from fruitpipe.findings.neighbours import Lists, places_of
from fruitpipe.findings.similar import Gallery
from fruitpipe.model.model import Vector
from fruitpipe.model.service import Service
from fruitpipe.pipeline.neighbours import find as seek_neighbours
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.result.garbage import find_garbage
from fruitpipe.result.runs import open_run
from fruitpipe.sinks import to_table, vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore, Store
from fruitpipe.tasks.neighbours import Earlier, FindNeighbours, lists_of
from fruitpipe.tasks.vector_part import Vectors

PATHS = [f"/images/{number:02}.jpg" for number in range(20)]
HOSTILE = "<script>alert(1)</script> \x1b[31m.jpg"


@pytest.fixture(scope="module")
def images(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 drawn fruits, of which one has a name that is not to be obeyed."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted(fruits.rglob("*.jpg"))[::4]:
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.parent.name / path.name)
    shutil.copyfile(path, folder / path.parent.name / HOSTILE.replace("/", "\u2215"))
    return folder


@pytest.fixture(scope="module")
def out(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of a part of the images, and then of all by the same model, both with neighbours."""
    folder = tmp_path_factory.mktemp("out")
    run(images, folder, "neighbours.k=5", "limit=50")
    run(images, folder, "neighbours.k=5", "model=reuse")
    return folder


def folder_of(out: Path, run_id: str = "") -> Path:
    return out / "runs" / manifest(out, run_id)["run"] / "neighbours"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_a_run_finds_the_neighbours_that_brute_force_finds(out: Path, images: Path) -> None:
    table, published = pq.read_table(folder_of(out) / "cosine-5"), vectors(out)
    assert table["path"].equals(published["path"])
    points = vectors_of(published).astype(np.float64)
    expected, _ = NearestNeighbors(n_neighbors=5, algorithm="brute", metric="cosine").fit(points).kneighbors()
    found = [[each["distance"] for each in row] for row in table["neighbours"].to_pylist()]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(published) == sum(path.is_file() for path in images.rglob("*"))


def test_a_run_takes_over_lists_of_an_earlier_one_and_gives_the_same_bits(out: Path, tmp_path: Path) -> None:
    record = json.loads((folder_of(out) / "cosine-5.json").read_text())
    assert 0 < record["taken"] <= 50
    assert "were taken over" in manifest(out)["neighbours"]["note"]
    again = tmp_path / "out"
    shutil.copytree(out, again)
    for folder in again.glob("runs/*/neighbours"):
        shutil.rmtree(folder)
    done = json.loads(fruitpipe("neighbours", again, "--k", "5", "--json").stdout)
    assert (done["earlier"], done["taken"], done["images"]) == (None, 0, record["images"])
    assert contents(folder_of(again)) == contents(folder_of(out))
    assert fruitpipe("neighbours", again, "--k", "5").stdout.splitlines()[0].endswith("as before.")


def test_neighbours_are_part_of_their_run(out: Path, tmp_path: Path) -> None:
    again = tmp_path / "out"
    shutil.copytree(out, again)
    assert "would delete 0 objects" in fruitpipe("gc", again).stdout
    (folder_of(again) / "cosine-5.json").unlink()  # as if interrupted
    assert "neighbours/cosine-5/part-00000.parquet" in fruitpipe("gc", again, "--delete").stdout
    assert not folder_of(again).exists()
    shutil.copytree(folder_of(out), folder_of(again))
    (again / "runs" / manifest(again)["run"] / "manifest.json").unlink()
    (again / "latest.json").unlink()
    assert fruitpipe("gc", again, "--delete").stdout.count("neighbours/") == 3


def test_curate_says_what_to_look_at(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "curated.parquet"
    assert "is .parquet" in one_line_error(fruitpipe("curate", out, "-o", file.with_suffix(".csv"), code=2))
    said = fruitpipe("curate", out, "-o", file, "--representatives", "7").stdout
    table = pq.read_table(file)
    assert table["path"].equals(vectors(out)["path"])
    assert table["representative"].to_pylist().count(True) == 7
    copies = table.filter(pa.compute.is_valid(table["duplicate_of"]))
    assert HOSTILE.replace("/", "\u2215") in {
        Path(p).name for row in copies.to_pylist() for p in map(row.get, ("path", "duplicate_of"))
    }
    assert copies["duplicate_of"].to_pylist() != copies["path"].to_pylist()
    assert table["reconstruction_error"].null_count == 0
    assert all(number >= 0 for number in table["outlier"].to_pylist())
    assert "\x1b" not in said
    facts = json.loads(fruitpipe("curate", out, "--json", "--duplicates", "0").stdout)
    assert (facts["limit"], facts["duplicates"], facts["groups"]) == (0, 1, 1)  # of equal bytes


def test_the_page_of_all_images_says_what_curate_says(out: Path) -> None:
    done = open_run(LocalStore(str(out)))
    neighbours = find_neighbours(done.store, done.manifest)
    assert neighbours
    table = curate(done, neighbours, limit=None).table.to_pylist()
    facts = judge(facts_of(done), done)
    doubtful, copies, far = ([table[entry.image] for entry in each.entries] for each in facts.listings[:3])
    by_confidence = sorted((row for row in table if row["label_suspect"]), key=lambda row: -row["confidence"])
    assert doubtful == by_confidence
    centres = {row["duplicate_of"] for row in table} - {None}
    assert {row["path"] for row in copies} == centres | {row["path"] for row in table if row["duplicate_of"]}
    assert far == sorted(table, key=lambda row: -row["neighbour_distance"])
    paths = facts.paths.to_pylist()
    assert paths == [row["path"] for row in table]
    (own,) = [each for each in measure_loss(facts, done).measures if each.title == "reconstruction error"]
    errors = np.array([row["reconstruction_error"] for row in table])
    assert own.levels == pytest.approx(np.clip(errors / np.median(errors) / 3, 0, 1) * 255, abs=0.51)


def test_an_image_far_off_is_seen_however_near_the_others_are() -> None:
    distances = np.array([*np.linspace(3e-8, 5e-8, 9), 0.1])
    assert in_medians(distances)[-1] > 1e6
    assert np.isnan(in_medians(distances, noise=1e-7)).all()
    assert np.isnan(in_medians(np.array([0, 0, 1.0]))).all()


@pytest.mark.parametrize(("k", "groups", "cut_off"), [(12, [14, 14], 28), (20, [28], 28), (27, [28], 0)])
def test_copies_that_are_beyond_the_lists_are_counted(k: int, groups: list[int], cut_off: int) -> None:
    """14 copies, and 14 others 0.01 from them."""
    own = np.arange(28)
    distances = np.where((own[:, None] < 14) == (own < 14), 0, 0.01).astype(np.float32)
    distances[own, own] = np.inf
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    paths, labels = pa.array(PATHS * 2)[:28], pa.nulls(28, pa.string())
    found = find_duplicates(Lists(paths, labels, np.take_along_axis(distances, nearest, axis=1), nearest), 0.05)
    assert [len(group) for group in found.groups] == groups
    assert found.cut_off == cut_off


def test_curate_does_without_features(out: Path, tmp_path: Path) -> None:
    again = tmp_path / "out"
    shutil.copytree(out, again)
    shutil.rmtree(again / "features")
    file = tmp_path / "curated.parquet"
    assert "there are no reconstruction errors" in fruitpipe("curate", again, "-o", file).stdout
    assert pq.read_table(file)["reconstruction_error"].null_count == len(vectors(out))


def test_similar_finds_an_image_of_the_run_and_a_new_one(out: Path, images: Path, fruits: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    old = min(images.glob("Kiwi/*.jpg"))
    new = sorted(fruits.glob("Kiwi/*.jpg"))[1]
    twin = next(path for path in images.rglob("*.jpg") if path.name.startswith("<"))
    words = ("similar", out, old, new, twin, "--k", "3")
    found = json.loads(fruitpipe(*words, "--html", page, "--json").stdout)
    assert [each["of_run"] for each in found] == [True, False, True]
    assert str(old) not in {match["path"] for match in found[0]["matches"]}
    assert found[1]["matches"][0]["label"] == "Kiwi"
    assert found[2]["matches"][0]["distance"] == 0
    lists = {row["path"]: row["neighbours"] for row in pq.read_table(folder_of(out) / "cosine-5").to_pylist()}
    assert [each["path"] for each in lists[str(old)]][:3] == [each["path"] for each in found[0]["matches"]]
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    assert text.count("data:image/webp;base64,") == 3 * 4
    assert "\x1b" not in text + fruitpipe(*words).stdout
    page = tmp_path / "made" / "page.html"
    assert fruitpipe(*words, "--html", page).stdout.endswith(f"\npage        {page}\n")
    assert page.read_text() == text
    wrong = tmp_path / "page.txt"
    assert f"{wrong}: the output is .html" in one_line_error(fruitpipe(*words, "--html", wrong, code=2))


def test_similar_imports_neither_spark_nor_tensorflow_nor_pandas(
    out: Path, images: Path, fruits: Path, tmp_path: Path
) -> None:
    """Which would take longer than the search."""
    told = (
        "import atexit, pathlib, sys; modules = pathlib.Path(sys.argv.pop(1))\n"
        "atexit.register(lambda: modules.write_text(' '.join(sys.modules)))\n"
        "from fruitpipe.cli.app import main; main()"
    )
    words = ("similar", out, sorted(fruits.glob("Kiwi/*.jpg"))[1], min(images.glob("Kiwi/*.jpg")), "--json")
    arguments = [sys.executable, "-c", told, tmp_path / "modules", *words]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert [each["of_run"] for each in json.loads(done.stdout)] == [False, True]
    imported = set((tmp_path / "modules").read_text().split())
    assert "fruitpipe.findings.similar" in imported
    assert not {"pyspark", "tensorflow", "keras", "pandas"} & imported


def test_serve_answers_what_similar_says(out: Path, images: Path, fruits: Path, tmp_path: Path) -> None:
    """Of new images, from many threads at once; and what scikit-learn finds among the published vectors."""
    model = out / "runs" / manifest(out)["run"] / "model"
    new = sorted(fruits.rglob("*.jpg"))[1::80]
    said = json.loads(fruitpipe("similar", out, *new, "--k", "7", "--metric", "euclidean", "--json").stdout)
    published = vectors(out)
    search = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(vectors_of(published))
    with serving(model, "--result", out, "--metric", "euclidean") as served:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda path: served.ask(path.read_bytes(), path="/vectors?k=7"), new))
        for answer, similar in zip(answers, said, strict=True):
            assert answer.code == 200
            assert answer.content["neighbours"] == similar["matches"]
            distances, _ = search.kneighbors([answer.content["vector"]])
            np.testing.assert_allclose([each["distance"] for each in similar["matches"]], distances[0], atol=1e-5)
        about = served.ask(path="/").content["neighbours"]
        assert about == {"run": manifest(out)["run"], "images": len(published), "metric": "euclidean"}
        image = new[0].read_bytes()
        assert len(served.ask(image).content["neighbours"]) == 12
        assert len(served.ask(image, path="/vectors?k=1000").content["neighbours"]) == len(published)
        assert "neighbours" not in served.ask(image, path="/vectors?k=0").content
        assert "neighbours" not in served.ask(b"no image").content
        for wrong in ("1001", "-1", "x", "", "9" * 5000, "%D9%A3"):
            answer = served.ask(image, path=f"/vectors?k={wrong}")
            assert (answer.code, answer.content["status"]) == (400, "bad_request")


def test_serve_refuses_a_run_of_another_model(out: Path, images: Path, tmp_path: Path) -> None:
    other = run(images, tmp_path / "out", "limit=20")
    model = tmp_path / "out" / "runs" / other["run"] / "model"
    line = one_line_error(fruitpipe("serve", model, "--port", 0, "--result", out, code=2))
    assert manifest(out)["run"] in line
    assert "no published run" in one_line_error(fruitpipe("serve", model, "--result", out, "--run", "x", code=2))


def test_mistakes_are_one_line(out: Path, tmp_path: Path) -> None:
    missing = fruitpipe("similar", out, tmp_path / "nothing.jpg", code=2)
    assert "is no image of run" in one_line_error(missing)
    assert ".." not in one_line_error(missing)
    assert "inf is no distance" in one_line_error(fruitpipe("curate", out, "--duplicates", "inf", code=2))
    fruitpipe("neighbours", out, "--metric", "angle", code=2)
    assert "no published run" in one_line_error(fruitpipe("neighbours", out, "20200101-000000-0000", code=2))
    assert "is not a fruitpipe result" in one_line_error(fruitpipe("curate", tmp_path, code=2))
    (again := tmp_path / "of today").mkdir()
    shutil.copytree(out, again, dirs_exist_ok=True)
    record = folder_of(again) / "cosine-5.json"
    record.write_text(record.read_text().replace('"cosine"', '"euclidean"'))
    assert "cosine-5.json" in one_line_error(fruitpipe("curate", again, code=2))
    shutil.rmtree(folder_of(again))
    assert f"`fruitpipe neighbours '{again}' " in one_line_error(fruitpipe("curate", again, code=2))
    shutil.copytree(folder_of(out), folder_of(again))
    part = folder_of(again) / "cosine-5" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    assert "damaged or missing" in one_line_error(fruitpipe("curate", again, code=1))


def test_vectors_that_are_too_long_to_be_compared_are_a_mistake_of_one_line(store: Store, tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    usual, far = (publish(store, f"20260101-000000-000{n}", PATHS, [None] * 20, points * 1e20**n) for n in (0, 1))
    said = "a vector is longer than 1e+15 and cannot be compared with others: have the backbone"
    assert said in one_line_error(fruitpipe("similar", tmp_path / "out", PATHS[0], "--run", far.id, code=2))
    assert said in one_line_error(fruitpipe("neighbours", tmp_path / "out", far.id, code=2))
    for refused in (Gallery, lambda run, metric: facts_of(run)):
        with pytest.raises(UserError, match="cannot be compared"):
            refused(far, "cosine")
    model: Any = SimpleNamespace(transform_bytes=lambda data: Vector("", "ok", None, points[0] * np.float32(1e20)))
    answer = Service(model, Gallery(usual, "cosine"))._found(b"", 3)
    assert (answer.status_code, json.loads(answer.body)["status"]) == (422, "rejected")


def test_in_a_bucket(out: Path, server: Server, s3: Any, admin: Any) -> None:
    for path in out.rglob("*"):
        if path.is_file() and "neighbours" not in path.parts:
            admin.put_object(Bucket=BUCKET, Key=f"findings/{path.relative_to(out)}", Body=path.read_bytes())
    place, reaching = f"s3://{BUCKET}/findings", options(server.endpoint)
    fruitpipe("neighbours", place, "--k", "5", *reaching)
    folder = f"findings/runs/{manifest(out)['run']}/neighbours"
    for name, data in contents(folder_of(out)).items():
        assert admin.get_object(Bucket=BUCKET, Key=f"{folder}/{name}")["Body"].read() == data
    assert "duplicates" in fruitpipe("curate", place, *reaching).stdout


class Made:
    """Vectors of a made-up run, in parts."""

    def __init__(self, store: Store, run_id: str, paths: list[str], points: NDArray[np.float32], parts: int) -> None:
        self.files = []
        for number, chosen in enumerate(np.array_split(np.arange(len(paths)), parts)):
            table = to_table(
                pa.array([paths[i] for i in chosen]), pa.array([None] * len(chosen), pa.string()), points[chosen], {}
            )
            name = layout.vectors(run_id, number)
            pq.write_table(table, sink := pa.BufferOutputStream())
            data = memoryview(sink.getvalue())
            store.put(name, data)
            self.files.append(File.of(layout.within(run_id, name), data, len(chosen)))
        self.vectors = Vectors(store, run_id, tuple(self.files), points.shape[1])

    def find(self, together: int, earlier: Earlier | None = None) -> tuple[list[File], int]:
        task = FindNeighbours(self.vectors, 4, "euclidean", together)
        done = [task(number, lambda: earlier) for number in range(-(-len(self.files) // together))]
        return [file for files, _ in done for file in files], sum(taken for _, taken in done)


@pytest.mark.parametrize("moved", [0, 10, 80])
def test_lists_that_grew_are_those_from_scratch(tmp_path: Path, moved: int) -> None:
    """Images come, go and change; some are equal. Parts have other bounds than before, and other tasks. Of images that
    are projected anew, as their part has changed, the order is another."""
    random = np.random.default_rng(1)
    points = random.integers(-3, 4, (400, 3)).astype(np.float32)
    points[200:] += random.standard_normal((200, 3)).astype(np.float32)
    paths = [f"{number:04}.jpg" for number in range(400)]
    before, after = np.flatnonzero(random.random(400) < 0.8), np.flatnonzero(random.random(400) < 0.97)
    changed = points.copy()
    changed[after[::50]] += 1
    replaced, late = set(after[::50]), random.permutation(len(after)) < moved
    after = np.concatenate([after[~late], after[late]])
    stores = [LocalStore(str(tmp_path / name)) for name in ("grown", "scratch")]
    first, second = "20260101-000000-0000", "20260102-000000-0000"
    old = Made(stores[0], first, [paths[i] for i in before], points[before], 3)
    parts, _ = old.find(2)
    grown = Made(stores[0], second, [paths[i] for i in after], changed[after], 5)
    places = places_of(grown.vectors, old.vectors)
    kept = [i for i in after if i in set(before) and i not in replaced]
    assert (places != -1).sum() == len(kept)
    assert 0.7 * moved <= (places < -1).sum() <= moved
    files, taken = grown.find(2, Earlier(old.vectors, tuple(parts), places))
    scratch, none = Made(stores[1], second, [paths[i] for i in after], changed[after], 5).find(3)
    assert 50 < taken < len(kept)
    assert none == 0
    assert files == scratch
    lists = pa.concat_tables(lists_of(stores[0].get(layout.run(second, file.name)), file.rows) for file in files)
    expected, _ = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(changed[after]).kneighbors()
    found = [[each["distance"] for each in row] for row in lists["neighbours"].to_pylist()]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_parts_that_are_there_and_whole_are_not_made_again(tmp_path: Path) -> None:
    store, run_id = LocalStore(str(tmp_path)), "20260101-000000-0000"
    points = np.random.default_rng(0).standard_normal((90, 5)).astype(np.float32)
    made = Made(store, run_id, [f"{number:02}" for number in range(90)], points, 6)
    files, _ = made.find(1)
    names = [tmp_path / layout.run(run_id, file.name) for file in files]
    whole = names[0].read_bytes()
    names[1].unlink()
    names[2].write_bytes(whole)  # of other images
    names[3].write_bytes(whole[:-5])
    flipped = bytearray(names[4].read_bytes())
    flipped[100] ^= 1
    names[4].write_bytes(flipped)
    for name in names:
        if name.exists():
            os.utime(name, (1, 1))
    assert made.find(2)[0] == files
    assert [name.stat().st_mtime == 1 for name in names] == [True, False, False, False, False, True]


class Overtaken(Reporter):
    """Told of neighbours when somebody else has taken the lease over and cleared away what no record names."""

    store: Store

    def advance(self, statuses: Counter[str], failed: int, size: int) -> None:
        super().advance(statuses, failed, size)
        self.store.put(layout.LEASE, b'{"purpose": "fruitpipe gc", "host": "other", "pid": 1, "token": "x"}')
        for each in find_garbage(self.store).objects:
            self.store.delete(each.name)


def test_neighbours_that_gc_took_away_meanwhile_have_no_record(fruits: Path, tmp_path: Path) -> None:
    """As where the machine was asleep until the lease had lapsed."""
    out = tmp_path / "out"
    run(fruits, out)
    store, reporter = LocalStore(str(out)), Overtaken()
    reporter.store = store
    with pytest.raises(FruitpipeError, match="took over"):
        seek_neighbours(store, "latest", 3, "cosine", SparkConfig(), reporter)
    assert find_neighbours(store, open_run(store, "latest").manifest, "cosine", 3) is None
