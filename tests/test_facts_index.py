"""Indexes of facts say what the parts say, whatever becomes of either."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import ANEW, fruitpipe, manifest, run, same_vectors, vectors
from conftest import nobody
from hypothesis import given
from hypothesis import strategies as st
from parts import Image, footers, listing, put_part
from test_compaction import Crash, Failing

from fruitpipe import source
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.pipeline import gathering
from fruitpipe.pipeline.gathering import gather
from fruitpipe.pipeline.known_features import KnownFeatures
from fruitpipe.pipeline.plan import Plan
from fruitpipe.result import facts_index
from fruitpipe.result.compaction import compact, part_of
from fruitpipe.result.garbage import collect
from fruitpipe.result.manifest import Summary
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import LocalStore, Store
from fruitpipe.tasks.feature_part import read_facts, read_features, to_parquet
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import TRANSIENT
from fruitpipe.vision.scale import Twin

DIGEST = "d" * 64
FEWEST = 6
STATUSES = ("ok", "ok", "ok", "undecodable", TRANSIENT[0])


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "FEWEST", FEWEST)


class Told(KnownFeatures):
    """They are told which parts they read themselves."""

    opened: list[str]

    def _facts(self, store: Store, names: Iterator[str]) -> Iterator[pa.RecordBatch]:
        def told() -> Iterator[str]:
            for name in names:
                self.opened.append(name)
                yield name

        self.opened = []
        return super()._facts(store, told())


class Planned(Plan):
    def __init__(self, scratch: Path, verify_content: bool) -> None:
        super().__init__(scratch, verify_content, "transient")
        self.known: Told = Told(self.database, verify_content)


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Callable[..., Planned]]:
    """Plans of images, closed in the end."""
    plans: list[Planned] = []

    def make(images: list[Image], store: Store, verify: bool = False, twin: Twin | None = None) -> Planned:
        scratch = tmp_path / f"scratch{len(plans)}"
        scratch.mkdir()
        plans.append(Planned(scratch, verify))
        plans[-1].add_images(listing(images), source.LISTING)
        plans[-1].add_features(store, DIGEST, twin)
        return plans[-1]

    yield make
    for each in plans:
        each.close()


def images_of(first: int, count: int) -> list[Image]:
    chance = random.Random(first)
    return [
        Image(f"{number:06} é", f"e{chance.random()}", chance.choice(STATUSES), f"c{number}")
        for number in range(first, first + count)
    ]


def put_parts(store: Store, first: int, parts: int, rows: int = 7) -> list[Image]:
    images = images_of(first, parts * rows)
    for start in range(0, len(images), rows):
        put_part(store, DIGEST, images[start : start + rows])
    return images


def gathered(store: Store, images: list[Image], planned: Any, tmp_path: Path) -> None:
    """What a run does at its end."""
    with Lease(store, "test") as lease:
        gather(planned(images, store).known, store, DIGEST, tmp_path, lease)


def indexes(store: Store) -> list[str]:
    return sorted(name for name, _ in store.names(layout.FEATURES) if layout.is_facts_index(name))


def told(plan: Planned, tmp_path: Path) -> tuple[Summary, Any, Any, Any]:
    """All that a plan says."""
    todo, index = (Shares(LocalStore(str(tmp_path)), "20260101-000000-abcd", what) for what in ("todo", "index"))
    sizes = {todo: plan.write_todo(todo, 2), index: plan.write_index(index, 4)}
    tasks = [[shares.read(each).to_pylist() for each in range(len(found))] for shares, found in sizes.items()]
    plan.write_failures(tmp_path / "failures.parquet")
    return plan.summary(), *tasks, pq.read_table(tmp_path / "failures.parquet").to_pylist()


def without_indexes(store: LocalStore, images: list[Image], planned: Any, tmp_path: Path, **more: Any) -> Any:
    copy = tmp_path / f"copy{random.random()}"
    shutil.copytree(store.root, copy)
    plain = LocalStore(str(copy))
    for name in indexes(plain):
        plain.delete(name)
    return told(planned(images, plain, **more), tmp_path)


def test_an_index_has_what_the_parts_have_bit_for_bit(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    (found,), _ = facts_index.find(store, indexes(store))
    names = list(found.parts)
    chosen = facts_index.choose([found], found.parts)
    rows = pa.Table.from_batches(
        facts_index.read(store, chosen, {name: number for number, name in enumerate(names)})
    ).sort_by([("part", "ascending"), ("row", "ascending")])
    parts = [read_facts(store, name) for name in names]
    numbered = [
        part.set_column(7, facts_index.NUMBERED.field("part"), pa.repeat(pa.scalar(number, pa.int32()), len(part)))
        for number, part in enumerate(parts)
        if part is not None
    ]
    assert rows.equals(pa.concat_tables(numbered).cast(facts_index.NUMBERED))
    assert found.parts == {name: size for name, size in store.names(layout.FEATURES) if layout.is_feature_part(name)}


def test_few_parts_have_no_index(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST - 1)
    gathered(store, images, planned, tmp_path)
    assert indexes(store) == []


def test_a_plan_by_indexes_is_that_by_parts_as_a_result_grows(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images: list[Image] = []
    for day in range(5):
        images += put_parts(store, 1000 * day, FEWEST + day)
        gathered(store, images, planned, tmp_path)
        seen = [*images[: 40 * (day + 1)], images[-1]._replace(etag="changed"), Image("new")]
        plan = planned(seen, store)
        assert told(plan, tmp_path) == without_indexes(store, seen, planned, tmp_path)
        assert plan.known.opened == []
        assert len(indexes(store)) <= 3
    assert plan.summary().gone > 0
    assert plan.summary().changed == 1


def test_an_image_in_several_parts_is_taken_from_the_same_one(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST)
    for start in range(3, len(images) - 20, 11):
        put_part(store, DIGEST, images[start : start + 11])
    gathered(store, images, planned, tmp_path)
    for start in range(5, len(images) - 20, 13):
        put_part(store, DIGEST, images[start : start + 13])
    assert told(planned(images, store), tmp_path) == without_indexes(store, images, planned, tmp_path)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def headless(data: bytes) -> bytes:
    return b"\0" * 200 + data[200:]


def of_others(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    return bytes(sink.getvalue())


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[bytes], bytes]:
    """The same index with another table in it."""

    def rewrite(data: bytes) -> bytes:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table, said = file.read(), file.metadata.metadata[facts_index.PARTS]
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, (table := change(table)).schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({facts_index.PARTS.decode(): said.decode()})
        return bytes(sink.getvalue())

    return rewrite


def all_of(column: str, value: object) -> Callable[[bytes], bytes]:
    field = facts_index.NUMBERED.field(column)
    place = facts_index.NUMBERED.get_field_index(column)
    return rewritten(lambda table: table.set_column(place, field, pa.array([value] * len(table), field.type)))


DAMAGES = {
    "empty": lambda data: b"",
    "garbage": lambda data: np.random.default_rng(0).bytes(1000),
    "cut": cut,
    "headless": headless,
    "another table": of_others,
    "no paths": rewritten(lambda table: table.drop_columns("path")),
    "nulls": rewritten(lambda table: table.set_column(0, "path", pa.nulls(len(table), pa.string()))),
    "part -1": all_of("part", -1),
    "part beyond": all_of("part", 10**6),
    "row -1": all_of("row", -1),
    "row beyond": all_of("row", 4096),
    "status of no image": all_of("status", "it's"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_read_around_and_the_next_run_replaces_it(
    store: LocalStore, planned: Any, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    images = put_parts(store, 0, FEWEST)
    expected = told(planned(images, store), tmp_path)
    gathered(store, images, planned, tmp_path)
    (name,) = indexes(store)
    whole = store.get(name)
    store.put(name, damage(whole))
    assert told(planned(images, store), tmp_path) == expected
    gathered(store, images, planned, tmp_path)
    assert told(plan := planned(images, store), tmp_path) == expected
    assert (indexes(store), plan.known.opened) == ([name], [])


def test_an_index_under_another_s_name_is_damaged(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    (name,) = indexes(store)
    other = layout.facts_index([layout.part("e" * 64, "0" * 32)])
    store.put(other, store.get(name))
    assert facts_index.find(store, [name, other])[1] == [other]


def test_a_part_with_another_byte_in_its_footer_is_read_or_named(store: LocalStore) -> None:
    name = put_part(store, DIGEST, [Image("a"), Image("b")])
    file, row = store.root / name, pa.chunked_array([pa.array([1], pa.int32())])
    found, said = set(), []
    for data in footers(file.read_bytes()):
        file.write_bytes(data)
        found.add(read_facts(store, name) is None)
        for read in (part_of, lambda *_: read_features(store, pa.chunked_array([[name]]), row)):
            try:
                read(store, name)
            except FruitpipeError as error:
                said.append(str(error))
    assert all(f"{name} is damaged" in each for each in said)
    assert found == {True, False}


def test_an_index_with_another_byte_in_its_footer_is_read_or_damaged(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    gathered(store, put_parts(store, 0, FEWEST), planned, tmp_path)
    (name,) = indexes(store)
    file, found = store.root / name, set()
    for data in footers(file.read_bytes()):
        file.write_bytes(data)
        opened, damaged = facts_index.find(store, [name])
        found.add(bool(damaged))
        for index in opened:
            with suppress(facts_index.Damaged):
                list(facts_index.read(store, [facts_index.Chosen(index, set(index.parts))], {}))
    assert found == {True, False}


@pytest.mark.parametrize("row", [-1, 2])
def test_rows_that_a_part_does_not_have_are_a_damaged_part(row: int, store: LocalStore) -> None:
    name = put_part(store, DIGEST, [Image("a"), Image("b")])
    with pytest.raises(FruitpipeError, match=f"{name} is damaged"):
        read_features(store, pa.chunked_array([[name]]), pa.chunked_array([pa.array([row], pa.int32())]))


def test_a_part_with_a_status_that_no_image_has_is_damaged(store: LocalStore) -> None:
    assert read_facts(store, put_part(store, DIGEST, [Image("a"), Image("b", status="it's")])) is None


def test_a_part_that_may_not_be_read_is_not_called_damaged(public_folder: Path) -> None:
    """Who deletes it, as a damaged one, loses features."""
    store = LocalStore(str(public_folder))
    name = put_part(store, DIGEST, [Image("a")])
    (public_folder / name).chmod(0)
    rows = pa.chunked_array([pa.array([0], pa.int32())])
    with nobody():
        for read in (lambda: read_facts(store, name), lambda: read_features(store, pa.chunked_array([[name]]), rows)):
            with pytest.raises(UserError, match=rf"^Permission denied: {public_folder / name}\. Give rights on it"):
                read()


def test_a_part_whose_features_have_another_width_is_damaged(store: LocalStore) -> None:
    facts = pa.table([["a"], [""], [None], [1], [1], ["ok"], [None]], schema=layout.FACTS)
    for name, width in (("x", 4), ("y", 1)):
        store.put(name, to_parquet(facts, np.zeros((1, width), np.float32)))
    with pytest.raises(FruitpipeError, match="y is damaged"):
        read_features(store, pa.chunked_array([["x", "y"]]), pa.chunked_array([pa.array([0, 0], pa.int32())]))


def test_what_an_image_gave_and_what_it_gives_when_it_is_tried_again_are_two_parts(store: LocalStore) -> None:
    tried = [Image("a", status=status) for status in ("unreadable", "ok")]
    assert len({put_part(store, DIGEST, [each]) for each in tried}) == 2


def test_a_part_that_is_gone_or_written_again_is_not_as_the_index_says(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    gone, again, *_ = names = [name for name, _ in store.names(layout.FEATURES) if layout.is_feature_part(name)]
    store.delete(gone)
    facts = read_facts(store, again)
    assert facts is not None
    rows = zip(facts["path"].to_pylist(), facts["etag"].to_pylist(), strict=True)
    put_part(store, DIGEST, [Image(path, etag, "missing") for path, etag in rows], name=again)
    plan = planned(images, store)
    assert plan.known.opened == [again]
    assert told(plan, tmp_path) == without_indexes(store, images, planned, tmp_path)
    assert gone not in plan.known.feature_parts()
    assert len(names) == FEWEST


def test_an_index_that_a_run_has_outdated_goes_even_if_the_part_has_as_many_bytes(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    images = put_parts(store, 0, FEWEST)
    bad = put_part(store, DIGEST, [Image("x", status="missing")])
    images.append(Image("x"))
    gathered(store, images, planned, tmp_path)
    plan, before = planned(images, store), dict(store.names(layout.FEATURES))[bad]
    put_part(store, DIGEST, [Image("x", status="changed")], name=bad)
    assert dict(store.names(layout.FEATURES))[bad] == before
    plan.add_parts(store, [bad])
    with Lease(store, "test") as lease:
        gather(plan.known, store, DIGEST, tmp_path, lease)
    assert indexes(store) == []
    assert told(plan, tmp_path)[1:] == told(planned(images, store), tmp_path)[1:]


def test_an_index_that_is_taken_in_tells_nothing_of_a_part_that_was_written_again(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    """As results of earlier versions may have one, whose names told paths and etags alone."""
    images = [*put_parts(store, 0, FEWEST), Image("x", status="undecodable")]
    again = put_part(store, DIGEST, images[-1:])
    gathered(store, images, planned, tmp_path)
    put_part(store, DIGEST, [Image("x", status="too_large")], name=again)
    images += put_parts(store, 1000, 2 * FEWEST)
    gathered(store, images, planned, tmp_path)
    (index,) = indexes(store)
    facts = pq.read_table(store.root / index)
    assert facts.filter(pc.equal(facts["path"], "x"))["status"].to_pylist() == ["too_large"]


def test_with_contents_parts_are_read_themselves(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    """A part may be written again with other contents and as many bytes."""
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    assert len(planned(images, store, verify=True).known.opened) == FEWEST


def test_features_of_small_images_are_taken_over_by_the_other_index(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    (tmp_path / "x").mkdir()
    for below in (3, 4):
        with closing(Planned(tmp_path / "x", False)) as plan:
            plan.add_images(listing(images), source.LISTING)
            plan.add_features(store, "e" * 64, Twin(DIGEST, "shorter", below))
            assert plan.known.opened == []
            assert plan.summary().known == (0 if below == 3 else sum(each.status == "ok" for each in images))
            assert plan.known.unindexed == {}
        (tmp_path / "x/plan.duckdb").unlink()


def test_a_crash_at_any_change_loses_nothing_and_the_next_run_ends_the_work(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    images += put_parts(store, 5000, 2 * FEWEST)
    expected = told(planned(images, store), tmp_path)
    ended = False
    crashes = 0
    while not ended:
        copy = tmp_path / f"crashed{crashes}"
        shutil.copytree(store.root, copy)
        failing = FailingToUpload(str(copy), crashes)
        try:
            gathered(failing, images, planned, tmp_path)
            ended = True
        except Crash:
            crashes += 1
        crashed = LocalStore(str(copy))
        assert told(planned(images, crashed), tmp_path) == expected
        gathered(crashed, images, planned, tmp_path)
        gathered(crashed, images, planned, tmp_path)
        assert len(indexes(crashed)) == 1
        assert planned(images, crashed).known.opened == []
    assert crashes == 2, "before the new index, and before the old one is deleted"


class FailingToUpload(Failing):
    def upload(self, file: Path, name: str) -> None:
        self._count()
        super().upload(file, name)


def test_an_index_that_goes_while_a_plan_reads_is_read_around(
    store: LocalStore, planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    expected = without_indexes(store, images, planned, tmp_path)
    read = facts_index.read

    def deleted(*args: Any) -> Iterator[pa.RecordBatch]:
        for name in indexes(store):
            store.delete(name)
        return read(*args)

    monkeypatch.setattr(facts_index, "read", deleted)
    plan = planned(images, store)
    assert len(plan.known.opened) == FEWEST
    assert told(plan, tmp_path) == expected


def test_after_compaction_and_gc_there_is_no_index_of_parts_that_are_gone(
    store: LocalStore, planned: Any, tmp_path: Path
) -> None:
    images = put_parts(store, 0, FEWEST)
    store.put(layout.MARKER, b'{"layout": 1}')
    gathered(store, images, planned, tmp_path)
    expected = planned(images, store).summary()
    compact(store)
    assert indexes(store) == []
    assert planned(images, store).summary() == expected
    put_parts(store, 5000, FEWEST)
    gathered(store, images, planned, tmp_path)
    assert len(indexes(store)) == 1
    assert {each.name for each in collect(store).objects} >= set(indexes(store))
    assert indexes(store) == [], "no run uses these parts"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_indexes_hold_no_more_rows_than_they_may(counts: list[int]) -> None:
    rows = {str(number): count for number, count in enumerate(counts)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "LARGEST", 100)
        chunks = list(gathering.chunks(rows))
    assert [name for chunk in chunks for name in chunk] == list(rows)
    assert all(sum(rows[name] for name in chunk) <= 100 for chunk in chunks)


def test_of_many_rows_there_are_several_indexes_and_large_ones_stay(
    store: LocalStore, planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gathering, facts_index):
        monkeypatch.setattr(module, "LARGEST", 100)
    monkeypatch.setattr(facts_index, "ROW_GROUP", 20)
    images = put_parts(store, 0, 30)
    gathered(store, images, planned, tmp_path)
    before = indexes(store)
    assert len(before) == 3
    images += put_parts(store, 5000, FEWEST)
    gathered(store, images, planned, tmp_path)
    assert len(set(before) & set(indexes(store))) >= 2
    plan = planned(images, store)
    assert plan.known.opened == []
    assert told(plan, tmp_path) == without_indexes(store, images, planned, tmp_path)


@pytest.mark.slow
def test_a_run_leaves_an_index_that_the_next_one_plans_by(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(fruits, out)
    store, before = LocalStore(str(out)), vectors(out)
    (name,) = indexes(store)
    (found,), _ = facts_index.find(store, [name])
    assert sorted(found.parts) == manifest(out)["feature_parts"]
    assert json.loads(fruitpipe("gc", out, "--json").stdout)["objects"] == []
    assert run(fruits, out, ANEW)["plan"]["known"] == 320
    assert same_vectors(vectors(out), before)
    assert indexes(store) == [name]


def test_what_a_part_says_anew_is_taken_into_an_index_once(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = [*put_parts(store, 0, FEWEST), Image("x")]
    again = put_part(store, DIGEST, [Image("x", status="missing")])
    gathered(store, images, planned, tmp_path)
    images += put_parts(store, 1000, 2 * FEWEST)
    plan = planned(images, store)
    put_part(store, DIGEST, [Image("x", status="unreadable")], name=again)  # of another size
    plan.add_parts(store, [again])
    with Lease(store, "test") as lease:
        gather(plan.known, store, DIGEST, tmp_path, lease)
    (index,) = indexes(store)
    facts = pq.read_table(store.root / index)
    assert facts.filter(pc.equal(facts["path"], "x"))["status"].to_pylist() == ["unreadable"]


def test_who_has_lost_the_lease_writes_no_index(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    known = planned(put_parts(store, 0, FEWEST), store).known

    def gather_too_late() -> None:
        with Lease(store, "test") as lease:
            store.put(layout.LEASE, b'{"purpose": "another", "host": "h", "pid": 1, "token": "t"}')
            gather(known, store, DIGEST, tmp_path, lease)

    with pytest.raises(FruitpipeError, match="took over"):
        gather_too_late()
    assert indexes(store) == []


def test_an_index_that_is_made_again_under_its_name_stays(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    plan, before = planned(images, store), indexes(store)
    parts = [name for name, _ in store.names(layout.FEATURES) if layout.is_feature_part(name)]
    for number, name in enumerate(parts):
        put_part(store, DIGEST, [Image(f"new {number}", status="unreadable")] * 9, name=name)
    plan.add_parts(store, parts)
    with Lease(store, "test") as lease:
        gather(plan.known, store, DIGEST, tmp_path, lease)
    assert indexes(store) == before
    assert planned(images, store).known.opened == []


def test_indexes_are_gathered_up_to_the_most_rows(
    store: LocalStore, planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gathering, facts_index):
        monkeypatch.setattr(module, "LARGEST", 2 * FEWEST * 7)
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    images += put_parts(store, 5000, FEWEST)
    gathered(store, images, planned, tmp_path)
    assert len(indexes(store)) == 1
    monkeypatch.setattr(gathering, "LARGEST", 100)
    assert list(gathering.chunks({"a": 60, "b": 40, "c": 1})) == [["a", "b"], ["c"]]


def test_an_index_is_read_where_half_of_its_parts_are_wanted(store: LocalStore) -> None:
    held = {layout.part("a" * 64, f"{number:032x}"): 1 for number in range(4)}
    index = facts_index.FactsIndex("x", held, None)
    (chosen,) = facts_index.choose([index], live := dict(list(held.items())[:2]))
    assert chosen.parts == live.keys()
    assert not facts_index.choose([index], dict(list(held.items())[:1]))


def test_a_flipped_bit_of_an_index_changes_no_plan(store: LocalStore, planned: Any, tmp_path: Path) -> None:
    images = put_parts(store, 0, FEWEST)
    gathered(store, images, planned, tmp_path)
    (name,) = indexes(store)
    good, expected = store.get(name), without_indexes(store, images, planned, tmp_path)
    footer = int.from_bytes(good[-8:-4], "little") + 8
    for place in range(4, len(good) - footer, 97):
        store.put(name, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert told(planned(images, store), tmp_path) == expected, place


def test_an_index_of_more_rows_than_any_of_ours_is_needless(
    store: LocalStore, planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered(store, put_parts(store, 0, FEWEST), planned, tmp_path)
    monkeypatch.setattr(facts_index, "LARGEST", FEWEST * 7 - 1)
    assert facts_index.find(store, indexes(store)) == ([], indexes(store))
