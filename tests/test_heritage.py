"""Vector parts of an earlier run that a later one takes over: the same rows as if all had been projected."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import fruitpipe, manifest, run, same_vectors, vectors

from fruitpipe.numeric.distribution import Distribution
from fruitpipe.pipeline import heritage
from fruitpipe.sinks import open_sinks, to_table, vectors_of
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce
from fruitpipe.tasks.part_record import BLANK, IMAGE, PartRecord, image_digests
from fruitpipe.tasks.part_record import ERRORS as ERRORS_KEY
from fruitpipe.tasks.taking_over import TakeOver, read_members

PART, PARTS, HELD = 18, 4, 6
COUNT = PART * PARTS


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of few images, on the driver, which cuts them."""
    monkeypatch.setattr(reduce, "VECTOR_PART", PART)


@pytest.fixture(scope="module")
def fitted(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a list of images, more of them in `held.csv`, and a result of those in the list."""
    folder = tmp_path_factory.mktemp("fitted")
    paths = sorted(fruits.rglob("*.jpg"))[:: 320 // (COUNT + HELD)][: COUNT + HELD]
    held = paths[5 :: (COUNT + HELD) // HELD][:HELD]
    write(folder, [(path, path.parent.name) for path in paths if path not in held])
    write(folder, [(path, path.parent.name) for path in held], "held.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "VECTOR_PART", PART)
        run(folder / "images.csv", folder / "out", "pca.components=8", allowing(folder))
    return folder


@pytest.fixture
def place(fitted: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(fitted, tmp_path / "place"))


def write(folder: Path, images: list[tuple[Path, str]], name: str = "images.csv") -> None:
    lines = ["path,label", *(f"{path},{label}" for path, label in images)]
    (folder / name).write_text("\n".join(lines) + "\n")


def listed(folder: Path, name: str = "images.csv") -> list[tuple[Path, str]]:
    rows = [line.split(",") for line in (folder / name).read_text().splitlines()[1:]]
    return [(Path(path), label) for path, label in rows]


def allowing(folder: Path) -> str:
    """The setting by which a list may name the pictures of all tests."""
    return f"lists.allow=[{listed(folder)[0][0].parents[1]}]"


def daily(place: Path, *assignments: str, out: str = "out") -> dict[str, Any]:
    return run(place / "images.csv", place / out, "model=reuse", allowing(place), *assignments)


def parts(place: Path, run_id: str) -> dict[str, Path]:
    return {path.name: path for path in sorted((place / "out" / "runs" / run_id / "vectors").iterdir())}


def taken(place: Path, before: str, after: str) -> list[str]:
    """Parts of a run that are parts of another one."""
    old = {path.stat().st_ino for path in parts(place, before).values()}
    return [name for name, path in parts(place, after).items() if path.stat().st_ino in old]


def by_path(table: pa.Table) -> pa.Table:
    return table.sort_by("path").combine_chunks()


def require_as_projected(place: Path, made: dict[str, Any]) -> None:
    """What a result without earlier runs has, to the last bit, and the manifest tells the files as they are."""
    model = place / "out" / "runs" / made["model"]["fitted_by"] / "model"
    elsewhere = f"whole-{made['run']}"
    shutil.copytree(place / "out" / "features", place / elsewhere / "features")
    shutil.copy(place / "out" / "fruitpipe.json", place / elsewhere)
    whole = daily(place, f"reuse={model}", out=elsewhere)
    table, expected = vectors(place / "out", made["run"]), vectors(place / elsewhere)
    assert same_vectors(by_path(table), by_path(expected))
    assert made["drift"]["beyond_p99"] == whole["drift"]["beyond_p99"]
    assert made["drift"]["reconstruction_error"] == pytest.approx(whole["drift"]["reconstruction_error"], rel=1e-12)
    assert made["counts"] == whole["counts"]
    files = {file["name"]: file for file in made["files"] if file["name"].startswith("vectors/")}
    there = parts(place, made["run"])
    assert [*files] == [f"vectors/{name}" for name in there]
    assert [file["rows"] for file in files.values()] == [pq.read_metadata(path).num_rows for path in there.values()]
    assert [file["bytes"] for file in files.values()] == [path.stat().st_size for path in there.values()]


def test_new_images_are_a_part_more(place: Path) -> None:
    first = manifest(place / "out")
    write(place, listed(place) + listed(place, "held.csv"))
    made = daily(place, "evaluate=true")
    assert taken(place, first["run"], made["run"]) == [*parts(place, first["run"])]
    assert [pq.read_metadata(path).num_rows for path in parts(place, made["run"]).values()] == [PART] * PARTS + [HELD]
    assert not list((place / "out" / "runs" / made["run"]).glob("work/*"))
    require_as_projected(place, made)
    fresh = parts(place, made["run"])["part-00004.parquet"]
    shutil.rmtree(place / "out" / "runs" / first["run"])
    before = vectors(place / "out")
    fruitpipe("gc", place / "out", "--delete")
    assert same_vectors(vectors(place / "out"), before), "each run is whole in its own folder"
    assert [path.stat().st_nlink for path in parts(place, made["run"]).values()] == [1] * (PARTS + 1)
    assert pq.read_schema(fresh).metadata[b"fruitpipe.run"].decode() == made["run"]


@pytest.mark.slow
def test_parts_whose_images_have_changed_are_projected_anew(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has another label, one other bytes, one is gone, one is new; five parts of eight are as they were."""
    monkeypatch.setattr(reduce, "VECTOR_PART", 9)
    images, labels = listed(fitted), {}
    for path, label in images:
        (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
        labels[Path(shutil.copy(path, tmp_path / "pictures" / label))] = label
    new = next(iter(labels))
    write(tmp_path, [*labels.items()][1:])
    first = run(tmp_path / "images.csv", tmp_path / "out", "pca.components=8")
    tables = [pq.read_table(path, columns=["path"]) for path in parts(tmp_path, first["run"]).values()]
    relabelled, changed, gone = (Path(tables[number]["path"][3].as_py()) for number in (0, 2, 3))
    labels[relabelled] = "another"
    del labels[gone]
    shutil.copy(new, changed)
    write(tmp_path, [*labels.items()])
    made = daily(tmp_path)
    kept = [path for number, path in enumerate(parts(tmp_path, first["run"]).values()) if number not in {0, 2, 3}]
    assert [path.name for path in kept] == [f"part-{number:05}.parquet" for number in (1, 4, 5, 6, 7)]
    there = [*parts(tmp_path, made["run"]).values()]
    assert [path.stat().st_ino for path in there[:5]] == [path.stat().st_ino for path in kept]
    assert [pq.read_metadata(path).num_rows for path in there[5:]] == [8, 9, 9]
    require_as_projected(tmp_path, made)


def test_other_bytes_under_the_same_etag_are_projected_anew(fitted: Path, tmp_path: Path) -> None:
    """Which contents tell alone: size and time of the file are as they were. It is all of a part, and stays so."""
    pictures, (first, second, *_) = tmp_path / "pictures", (path for path, _ in listed(fitted))
    for number, (path, _) in enumerate(listed(fitted)[2 : PART + 2]):
        (pictures / str(number)).mkdir(parents=True)
        shutil.copy(path, pictures / str(number))
    run(pictures, tmp_path / "out", "pca.components=8", "verify_content=true")
    new = pictures / "new.jpg"
    made = []
    size = max(first.stat().st_size, second.stat().st_size)
    for path in (first, second):
        new.write_bytes(path.read_bytes().ljust(size, b"\0"))  # what follows a JPEG is no part of it
        os.utime(new, ns=(10**18, 10**18))
        run(pictures, tmp_path / "out", "model=reuse", "verify_content=true")
        table = vectors(tmp_path / "out")
        made.append(table.filter(pc.equal(table["path"], str(new)))["vector"].to_pylist())
    assert made[0] != made[1]
    model = tmp_path / "out" / "runs" / manifest(tmp_path / "out")["model"]["fitted_by"] / "model"
    run(pictures, tmp_path / "fresh", f"reuse={model}", "model=reuse")
    table = vectors(tmp_path / "fresh")
    assert made[1] == table.filter(pc.equal(table["path"], str(new)))["vector"].to_pylist()


@pytest.mark.slow
def test_a_part_that_is_damaged_is_made_again_and_said_to_be(place: Path) -> None:
    first = manifest(place / "out")
    second, third = [*parts(place, first["run"]).values()][1:3]
    flipped = bytearray(second.read_bytes())
    flipped[len(flipped) // 3] ^= 1  # amid its vectors
    second.write_bytes(flipped)
    third.write_bytes(third.read_bytes()[:-9])
    made = daily(place)
    assert taken(place, first["run"], made["run"]) == ["part-00000.parquet", "part-00002.parquet"]
    (warning,) = made["warnings"]
    assert warning == f"{second} is damaged, and was not taken over"
    assert sum(pq.read_metadata(path).num_rows for path in parts(place, made["run"]).values()) == COUNT
    require_as_projected(place, made)


@pytest.mark.slow
def test_parts_are_taken_over_from_a_run_by_the_same_model_alone(place: Path) -> None:
    """With the same labels, but in any formats: other sinks get the rows of parts that are taken over."""
    first = manifest(place / "out")
    other = run(place / "images.csv", place / "out", "pca.components=5", allowing(place))
    assert not taken(place, first["run"], other["run"])
    write(place, listed(place) + listed(place, "held.csv"))
    made = daily(place, f"reuse={first['run']}", "formats=[csv, json]", "one_file=true")
    assert len(taken(place, first["run"], made["run"])) == PARTS
    require_as_projected(place, made)
    folder, published = place / "out" / "runs" / made["run"], vectors(place / "out")
    frame = pd.read_csv(folder / "vectors.csv")
    lines = [json.loads(line) for line in (folder / "vectors.jsonl").read_text().splitlines()]
    assert frame["path"].to_list() == [line["path"] for line in lines] == published["path"].to_pylist()
    np.testing.assert_allclose(frame.filter(regex="^c").to_numpy(), vectors_of(published), rtol=1e-6)
    grey = daily(place, f"reuse={other['run']}", "labels=none")
    assert len(taken(place, other["run"], grey["run"])) == 0
    assert vectors(place / "out")["label"].null_count == COUNT + HELD


@pytest.mark.slow
def test_small_parts_are_gathered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Increments of years are not so many parts."""
    monkeypatch.setattr(heritage, "MOST_SMALL", 2)
    held, rows = listed(place, "held.csv"), []
    for count in (2, 3, 4, 6):
        write(place, [*dict(listed(place) + held[:count]).items()])
        made = daily(place)
        rows.append([pq.read_metadata(path).num_rows for path in parts(place, made["run"]).values()])
    assert [each[:PARTS] for each in rows] == [[PART] * PARTS] * 4
    assert [each[PARTS:] for each in rows] == [[2], [2, 1], [2, 1, 1], [6]]
    require_as_projected(place, made)


class Cut(NamedTuple):
    """A part of a made-up run, and a task that takes it over."""

    store: LocalStore
    file: File
    table: pa.Table

    def take(self, file: File) -> reduce.Projected | None:
        sinks = open_sinks((), self.store, LATER, one_file=False)
        return TakeOver(self.store, LATER, EARLIER, (file,), 2, sinks, {}, 5)(0)


EARLIER, LATER = "20260101-000000-0001", "20260102-000000-0002"
ERRORS = Distribution.of(np.linspace(0.5, 1.5, 30).astype(np.float32))


def cut(store: LocalStore, metadata: dict[str, str], vectors: np.ndarray[Any, Any] | None = None) -> Cut:
    paths = pa.chunked_array([[f"{number:03}" for number in range(30)]])
    rows = np.arange(60, dtype=np.float32).reshape(30, 2) if vectors is None else vectors
    table = to_table(paths, paths, rows, metadata)
    (sink,) = open_sinks((), store, EARLIER, one_file=False)
    return Cut(store, sink.write(0, table), table)


def test_a_part_says_what_was_found_as_it_was_projected(store: LocalStore) -> None:
    record = PartRecord("0" * 64, ERRORS, 3)
    made = cut(store, record.metadata)
    found = made.take(made.file)
    assert found
    assert (found.errors.total, found.blank, len(found.sample)) == (ERRORS.total, 3, 5)
    assert np.array_equal(found.errors.buckets, ERRORS.buckets)
    assert np.array_equal(found.errors.counts, ERRORS.counts)
    (file,) = found.files
    assert file == made.file
    assert dict(store.names(layout.run(LATER))) == {layout.run(LATER, file.name): file.bytes}
    members = read_members(store, EARLIER, made.file)
    assert members
    assert (members.images, members.paths.to_pylist()) == ("0" * 64, made.table["path"].to_pylist())


def test_the_plan_s_database_digests_images_as_tasks_do() -> None:
    paths, labels = ["a b", "苹果 🍎", "a\u0308", "👩\u200d🌾"], [None, "", "x y", "ä"]
    rows = pa.table({"path": paths, "part": [*"ppqq"], "row": pa.array(range(4), pa.int32()), "label": labels})
    with duckdb.connect() as database:
        found = database.register("rows", rows).sql(f"SELECT {IMAGE} FROM rows").fetchall()
    assert [image for (image,) in found] == [*image_digests(rows)]


FORGED: dict[str, dict[str, str]] = {
    "nothing": {},
    "blank": {BLANK: "31"},
    "no number": {BLANK: "many"},
    "no text": {ERRORS_KEY: "?"},
    "a bomb": {ERRORS_KEY: base64.b64encode(zlib.compress(bytes(1 << 24))).decode()},
    "other images": {ERRORS_KEY: Distribution.of(np.ones(29, np.float32)).packed()},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_part_that_says_what_cannot_be_is_not_taken_over(store: LocalStore, forged: str) -> None:
    """Whoever can write to a result may have made it, with its manifest."""
    metadata = PartRecord("0" * 64, ERRORS, 3).metadata | FORGED[forged] if FORGED[forged] else {}
    made = cut(store, metadata)
    assert made.take(made.file) is None
    assert not list(store.names(layout.run(LATER)))


def test_a_part_of_other_vectors_than_the_manifest_has_is_not_taken_over(store: LocalStore) -> None:
    metadata = PartRecord("0" * 64, ERRORS, 3).metadata
    made = cut(store, metadata)
    for change in ({"sha256": "0" * 64}, {"rows": 29}, {"bytes": 1}, {"name": "vectors/part-00009.parquet"}):
        assert made.take(made.file.model_copy(update=change)) is None
    for rows in (np.ones((30, 3), np.float32), np.full((30, 2), np.nan, np.float32)):
        other = cut(store, metadata, rows)
        assert other.take(other.file) is None
    path = store.root / layout.run(EARLIER, made.file.name)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert made.take(made.file) is None
    assert read_members(store, EARLIER, made.file) is None
    assert not list(store.names(layout.run(LATER)))


def paths_in(path: Path) -> list[str]:
    found: list[str] = pq.read_table(path, columns=["path"])["path"].to_pylist()
    return found


def test_damaged_parts_whose_paths_interleave_are_made_again_as_they_were(place: Path) -> None:
    write(place, listed(place) + listed(place, "held.csv"))
    first = daily(place)
    there = [*parts(place, first["run"]).values()]
    before = [paths_in(path) for path in there]
    assert any(before[1][0] < path < before[1][-1] for path in before[PARTS]), "they interleave"
    for path in (there[1], there[PARTS]):
        flipped = bytearray(path.read_bytes())
        flipped[len(flipped) // 3] ^= 1
        path.unlink()
        path.write_bytes(flipped)
    made = daily(place, "formats=[csv]")
    assert len(made["warnings"]) == 2
    assert [paths_in(path) for path in parts(place, made["run"]).values()] == before


def test_further_images_are_in_order_of_their_paths_however_they_are_listed(place: Path) -> None:
    everything = listed(place) + listed(place, "held.csv")
    write(place, random.Random(1).sample(everything, len(everything)))
    further = [*parts(place, daily(place)["run"]).values()][PARTS:]
    assert [path for each in further for path in paths_in(each)] == sorted(
        str(path) for path, _ in listed(place, "held.csv")
    )
