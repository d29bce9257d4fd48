"""Small feature parts become larger ones; nothing that a published run needs is ever gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from command import ANEW, fruitpipe, manifest, run, same_vectors, vectors
from numpy.typing import NDArray
from parts import Image, put_part
from seaweed import BUCKET

from fruitpipe.config import S3Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.result.compaction import BATCH, SMALL, Merge, compact, with_merged
from fruitpipe.result.garbage import Garbage, collect, find_garbage
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore, Store, open_store
from fruitpipe.tasks.feature_part import LARGEST_PART, read_facts, read_features
from fruitpipe.vision.bad_image import OK

DIGEST, DIMENSION = "d" * 64, 5
Rows = dict[tuple[str, str, str], bytes]


class Crash(BaseException):
    """Ends a process, as far as a test in it can."""


class Failing(LocalStore):
    """A store that crashes before its n-th change."""

    def __init__(self, url: str, most: int) -> None:
        super().__init__(url)
        self.left = most

    def _count(self) -> None:
        if not self.left:
            raise Crash
        self.left -= 1

    def put(self, name: str, data: bytes | memoryview) -> None:
        if name != layout.LEASE:
            self._count()
        super().put(name, data)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)


def parts_of(store: Store) -> list[str]:
    return sorted(name for name, _ in store.names(layout.FEATURES) if layout.is_feature_part(name))


def rows_in(store: Store) -> Rows:
    """All that feature parts hold, by path, etag and status; each feature is the same wherever it is held twice."""
    found: Rows = {}
    for name in parts_of(store):
        facts = read_facts(store, name)
        assert facts is not None
        features = read_features(store, facts["part"], facts["row"])
        keys = zip(*(facts[key].to_pylist() for key in ("path", "etag", "status")), strict=True)
        for key, feature in zip(keys, features, strict=True):
            value = feature.tobytes() if key[2] == OK else b""
            assert found.setdefault(key, value) == value
    return found


def put_increments(store: Store, increments: int, rows: int) -> NDArray[np.float32]:
    """Parts of so many rows each, between one another by path; one image in ten has no feature."""
    features = np.random.default_rng(0).normal(size=(increments * rows, DIMENSION)).astype(np.float32)
    for increment in range(increments):
        chosen = np.arange(increment, len(features), increments)
        images = [Image(f"{number:06}", status="missing" if number % 10 == 3 else OK) for number in chosen]
        put_part(store, DIGEST, images, features[chosen])
    return features


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty result on either."""
    if request.param == "disk":
        made: Store = LocalStore(str(tmp_path / "out"))
    else:
        s3: S3Config = request.getfixturevalue("s3")
        made = open_store(f"s3://{BUCKET}/compaction/{uuid4().hex}", s3)
    made.create()
    return made


def test_merged_parts_hold_the_rows_of_all_in_order_of_their_paths(place: Store) -> None:
    put_increments(place, 60, 150)
    before, old = rows_in(place), parts_of(place)
    (made,) = compact(place)
    assert made.replaced == old
    assert rows_in(place) == before
    assert parts_of(place) == sorted(part.name for part in made.parts)
    paths = []
    for part in made.parts:
        facts = read_facts(place, part.name)
        assert facts is not None
        assert SMALL <= len(facts) == part.rows <= LARGEST_PART
        paths += facts["path"].to_pylist()
    assert paths == sorted(paths)
    assert compact(place) == [], "a second time there is nothing to do"


def test_rows_of_many_parts_are_merged_a_batch_at_a_time(store: LocalStore) -> None:
    put_increments(store, 30, 1500)
    before = rows_in(store)
    first, second = compact(store)
    assert sum(part.rows or 0 for part in first.parts) <= BATCH
    assert sum(part.rows or 0 for part in (*first.parts, *second.parts)) == 45_000
    assert rows_in(store) == before
    assert compact(store) == []


def test_a_part_that_a_run_has_written_again_is_merged_and_not_taken_for_a_leftover(store: LocalStore) -> None:
    """Earlier versions named parts by paths and etags alone."""
    again = put_part(store, DIGEST, [Image("000001", status="too_large"), Image("000002")])
    put_part(store, DIGEST, [Image("000003")])
    compact(store)
    put_part(store, DIGEST, [Image("000001"), Image("000002")], np.ones((2, 3), np.float32), name=again)
    compact(store)
    assert ("000001", "1", OK) in rows_in(store)
    put_part(store, DIGEST, [Image("000001"), Image("000002")], np.ones((2, 3), np.float32), name=again)
    compact(store)
    assert again not in parts_of(store), "that one is a leftover"


def test_large_parts_and_those_of_other_features_are_left_alone(store: LocalStore) -> None:
    large = [put_part(store, DIGEST, [Image(f"{each}{number}") for number in range(SMALL)]) for each in "ab"]
    others = [put_part(store, digest * 64, [Image("a")]) for digest in "ab"]
    assert compact(store) == []
    assert parts_of(store) == sorted([*large, *others])


def test_a_damaged_part_ends_it_and_nothing_is_lost(store: LocalStore) -> None:
    put_increments(store, 3, 100)
    name = parts_of(store)[1]
    (store.root / name).write_bytes(store.get(name)[:-100])
    with pytest.raises(FruitpipeError, match=f"{name} is damaged: delete it and run again"):
        compact(store)
    assert len(parts_of(store)) == 3


def changes(out: Path, scratch: Path) -> Iterator[LocalStore]:
    """Copies of a result, in each of which a compaction has crashed one change later; the last has ended well."""
    for number in count():
        copy = scratch / f"{number}"
        shutil.copytree(out, copy)
        try:
            compact(Failing(str(copy), number))
        except Crash:
            yield LocalStore(str(copy))
        else:
            yield LocalStore(str(copy))
            return


def test_a_crash_after_any_change_loses_no_row_and_the_next_call_ends_the_work(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    store.create()
    put_increments(store, 5, 1000)
    compact(store)
    features = np.ones((40, DIMENSION), np.float32)
    for number in range(4):  # a second merge, beside the first
        put_part(store, DIGEST, [Image(f"{number:06}x{row:02}") for row in range(40)], features)
    expected, copies = rows_in(store), 0
    for crashed in changes(store.root, tmp_path):
        copies += 1
        assert rows_in(crashed) == expected
        compact(crashed)
        assert rows_in(crashed) == expected
        assert len(parts_of(crashed)) == 3
        assert sum(layout.is_merge(name) for name, _ in crashed.names(layout.FEATURES)) == 2
    assert copies == 7, "crashed before one part, one record and four deletions, and not at all"


class Forgetful(LocalStore):
    """A store that keeps half of each feature part that is put."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        super().put(name, data[: len(data) // 2] if layout.is_feature_part(name) else data)


def test_parts_that_were_not_kept_as_they_were_written_replace_none(store: LocalStore) -> None:
    put_increments(store, 3, 100)
    expected, old = rows_in(store), parts_of(store)
    with pytest.raises(FruitpipeError, match=r"does not hold what was just written there.*Nothing is lost"):
        compact(Forgetful(store.url))
    (bad,) = set(parts_of(store)) - {*old}
    store.delete(bad)
    assert rows_in(store) == expected


def test_leftovers_of_a_merge_stay_where_its_parts_are_damaged(store: LocalStore) -> None:
    put_increments(store, 3, 100)
    old = parts_of(store)
    with pytest.raises(Crash):
        compact(Failing(store.url, 2))  # the part and its record are there
    (merged,) = set(parts_of(store)) - {*old}
    damaged = bytearray(store.get(merged))
    damaged[len(damaged) // 2] ^= 1  # amid its features
    store.put(merged, bytes(damaged))
    with pytest.raises(FruitpipeError, match=f"{merged} is damaged"):
        compact(store)
    assert {*old} <= {*parts_of(store)}


def test_what_stands_for_parts_that_were_merged_again_is_needed_by_whoever_needs_them() -> None:
    def part(letter: str) -> str:
        return layout.part(DIGEST, 32 * letter)

    def merge(replaced: str, made: str) -> Merge:
        return Merge(parts=[File.of(part(made), b"")], replaced=[part(each) for each in replaced])

    merges = [merge("bc", "d"), merge("a1", "b"), merge("ef", "0")]
    records = {layout.merge_record([part(each) for each in replaced]) for replaced in ("bc", "a1")}
    assert with_merged([part("a")], merges) == {part("a"), part("b"), part("d")} | records


@pytest.fixture(scope="module")
def grown(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images, and a result that they came into in three increments, a run each."""
    images, out = tmp_path_factory.mktemp("grown"), tmp_path_factory.mktemp("out")
    paths = sorted(path for path in fruits.rglob("*") if path.is_file())
    for increment in range(3):
        for path in paths[increment::3]:
            target = images / path.relative_to(fruits)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
        run(images, out)
    return images, out


@pytest.mark.slow
def test_after_gc_with_compact_the_next_run_computes_nothing_and_publishes_the_same(
    grown: tuple[Path, Path], tmp_path: Path
) -> None:
    images, grown_out = grown
    out = tmp_path / "out"
    shutil.copytree(grown_out, out)
    old = parts_of(LocalStore(str(out)))
    assert len(old) > 6
    (lost,) = (out / "features").glob("*")
    (lost / f"part-{'0' * 32}.parquet").write_bytes(b"no run needs it")
    done = json.loads(fruitpipe("gc", out, "--compact", "--json").stdout)
    assert done["deleted"]
    assert done["objects"] == [f"features/{lost.name}/part-{'0' * 32}.parquet"]
    (merged,) = done["merged"]
    assert merged["replaced"] == old
    assert parts_of(LocalStore(str(out))) == [part["name"] for part in merged["parts"]]
    for verb in ((), ("--delete",), ("--compact",)):
        assert json.loads(fruitpipe("gc", out, *verb, "--json").stdout)["objects"] == [], "published runs need them"
    assert "merged nothing" in fruitpipe("gc", out, "--compact").stdout
    before = vectors(out)
    document = run(images, out, ANEW)
    assert document["plan"]["known"] == document["plan"]["images"] == 320
    assert document["feature_parts"] == [part["name"] for part in merged["parts"]]
    assert same_vectors(vectors(out), before)


@pytest.mark.slow
def test_whatever_a_crash_leaves_gc_deletes_no_row_of_a_published_run(grown: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = grown
    expected = rows_in(LocalStore(str(out)))
    for crashed in changes(out, tmp_path):
        collect(crashed)
        assert rows_in(crashed) == expected
        compact(crashed)
        assert find_garbage(crashed) == Garbage([], [], [], [])
        assert rows_in(crashed) == expected
        assert len(parts_of(crashed)) == 1


@pytest.mark.slow
def test_a_run_between_a_crash_and_the_next_compaction_publishes_the_same(
    grown: tuple[Path, Path], tmp_path: Path
) -> None:
    images, out = grown
    expected = vectors(out)
    written, recorded = (each for number, each in enumerate(changes(out, tmp_path)) if number in (1, 2))
    for crashed in (written, recorded):
        document = run(images, crashed.root, ANEW)
        assert document["plan"]["known"] == 320
        assert same_vectors(vectors(crashed.root), expected)
        fruitpipe("gc", crashed.root, "--compact")
        assert len(parts_of(crashed)) == 1
        assert run(images, crashed.root, "image.max_seconds=22")["plan"]["known"] == 320
        assert same_vectors(vectors(crashed.root), expected)
        assert manifest(crashed.root)["plan"]["gone"] == 0
