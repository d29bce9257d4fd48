from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from campaigns.crash import small_disk
from conftest import unavailable
from hypothesis import given
from hypothesis import strategies as st
from parts import Image, listing, put_part

from fruitpipe import source
from fruitpipe.errors import FruitpipeError
from fruitpipe.pipeline import plan as plans
from fruitpipe.pipeline.plan import Plan
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore, Store
from fruitpipe.tasks.feature_part import (
    LARGEST_PART,
    SMALLEST_PART,
    USUAL_PART,
    largest_feature_part,
    largest_task,
    part_sizes,
    task_sizes,
)
from fruitpipe.tasks.reduce import vector_parts
from fruitpipe.tasks.shares import Shares
from fruitpipe.vision.bad_image import PERMANENT, TRANSIENT

DIGEST = "d" * 64
MANY = [Image(f"{number * 7919 % 300_000:06}") for number in range(300_000)]
STATUSES = (*TRANSIENT, *PERMANENT)
RETRIED = {"transient": {*TRANSIENT, "too_large", "rejected"}, "all": set(STATUSES), "none": set()}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    """Make plans of images, and close them in the end."""
    plans: list[Plan] = []

    def plan_of(
        images: Sequence[Image], store: Store | None = None, verify_content: bool = False, retry: Any = "transient"
    ) -> Plan:
        scratch = tmp_path / f"scratch{len(plans)}"
        scratch.mkdir()
        plans.append(Plan(scratch, verify_content, retry))
        plans[-1].add_images(listing(images), source.LISTING)
        if store is not None:
            plans[-1].add_features(store, DIGEST)
        return plans[-1]

    yield plan_of
    for each in plans:
        each.close()


@pytest.fixture
def shares(tmp_path: Path) -> Shares:
    return Shares(LocalStore(str(tmp_path / "work")), "20260101-000000-abcd", layout.TODO)


def read(shares: Shares, sizes: Sequence[int]) -> list[pa.Table]:
    """All shares, which are of these sizes."""
    tables = [shares.read(number) for number in range(len(sizes))]
    assert [len(table) for table in tables] == list(sizes)
    return tables


def todo(the_plan: Plan, shares: Shares) -> list[str]:
    tables = read(shares, the_plan.write_todo(shares, 2))
    return [path for table in tables for path in table["path"].to_pylist()]


def test_images_that_several_miss_are_in_shares_by_who_misses_them(make: Any, store: Store, shares: Shares) -> None:
    images = [Image(f"{number:03}") for number in range(300)]
    first = make(images)
    plans = [first, first.beside(), first.beside()]
    known = [range(100), range(50, 250), range(0)]
    for number, (plan, these) in enumerate(zip(plans, known, strict=True)):
        digest = str(number) * 64
        put_part(store, digest, [images[each] for each in these])
        plan.add_features(store, digest)
    assert [plan.summary().todo for plan in plans] == [200, 100, 300]
    missing: dict[str, int] = {}
    for share in read(shares, first.write_todo(shares, 2, *plans[1:])):
        (bits,) = set(share["missing"].to_pylist())
        assert share["path"].to_pylist() == sorted(share["path"].to_pylist())
        missing |= dict.fromkeys(share["path"].to_pylist(), bits)
    assert missing == {
        image.path: sum(1 << which for which, these in enumerate(known) if number not in these)
        for number, image in enumerate(images)
    }
    fresh = [Image(path) for path, bits in missing.items() if bits & 2]
    plans[1].add_parts(store, [put_part(store, "1" * 64, fresh)])
    assert [plan.summary().todo for plan in plans] == [200, 0, 300]
    assert [plan.summary().images for plan in plans] == 3 * [300]
    for plan in plans[1:]:
        plan.close()


def failures(the_plan: Plan, tmp_path: Path) -> pa.Table:
    count = the_plan.write_failures(tmp_path / "failures.parquet")
    table = pq.read_table(tmp_path / "failures.parquet")
    assert len(table) == count
    return table


@pytest.mark.parametrize("retry", RETRIED)
def test_every_image_is_counted_once_under_every_retry_policy(
    make: Any, store: Store, shares: Shares, retry: str
) -> None:
    known = [Image("ok1"), Image("ok2"), *(Image(status, status=status) for status in STATUSES)]
    put_part(store, DIGEST, [*known, Image("altered", etag="old"), Image("gone1"), Image("gone2")])
    images = [*known, Image("altered", etag="new"), Image("new1"), Image("new2"), Image("new3")]
    the_plan = make(images, store, retry=retry)
    summary = the_plan.summary()
    retried = RETRIED[retry]
    assert summary.model_dump(exclude={"labels", "bytes"}) == {
        "images": len(images), "new": 3, "changed": 1, "retried": len(retried), "known": 2,
        "known_failed": len(STATUSES) - len(retried), "gone": 2, "passed_over": {},
    }  # fmt: skip
    assert summary.bytes == 10 * len(images)
    expected = sorted({"altered", "new1", "new2", "new3", *retried})
    assert todo(the_plan, shares) == expected
    assert summary.todo == len(expected)


def test_after_featurizing_only_the_new_parts_are_read(make: Any, store: LocalStore) -> None:
    """Names of parts are made of their contents, so what was read once stays true; here the old part is even gone."""
    old = put_part(store, DIGEST, [Image("a"), Image("b", status="missing")])
    the_plan = make([Image("a"), Image("b"), Image("c")], store)
    (store.root / old).unlink()
    new = put_part(store, DIGEST, [Image("b"), Image("c")])
    the_plan.add_parts(store, [new])
    assert the_plan.count_by("status") == {"ok": 3}
    assert the_plan.known.feature_parts() == sorted([old, new])
    the_plan.add_parts(store, [new])
    assert the_plan.summary().known == 3


def test_a_part_that_was_broken_is_known_once_it_is_written_again(make: Any, store: LocalStore) -> None:
    name = put_part(store, DIGEST, [Image("a")])
    whole = store.get(name)
    store.put(name, whole[:100])
    the_plan = make([Image("a")], store)
    assert (the_plan.known.broken, the_plan.summary().new) == ([name], 1)
    store.put(name, whole)
    the_plan.add_parts(store, [name])
    assert the_plan.summary().known == 1


def test_images_that_failed_and_went_away_had_no_features_to_be_gone(make: Any, store: Store) -> None:
    put_part(store, DIGEST, [Image("a"), Image("b", status="missing")])
    assert make([Image("c")], store).summary().gone == 1


@pytest.mark.parametrize("distinct", [True, False])
def test_a_limit_takes_the_first_images_by_path_and_all_figures_are_theirs(
    make: Any, store: Store, shares: Shares, distinct: bool
) -> None:
    put_part(store, DIGEST, [Image("b"), Image("c"), Image("z")])
    images = [Image("d", label="y"), Image("c"), Image("a"), *([] if distinct else [Image("a")]), Image("b")]
    the_plan = make([])
    the_plan.add_images(listing(images), source.LISTING, distinct, limit=2)
    the_plan.add_features(store, DIGEST)
    summary = the_plan.summary()
    assert (summary.images, summary.labels, summary.new, summary.known, summary.gone) == (2, {"x": 2}, 1, 1, 2)
    assert todo(the_plan, shares) == ["a"]
    assert the_plan.sample(10) == [("a", "1"), ("b", "1")]


def test_a_sample_is_drawn_from_all_images_and_others_beside_them_change_few(make: Any) -> None:
    images = [Image(f"{number:04}") for number in range(1100)]
    first, again = ({path for (path,) in make(some).sample(50, "path")} for some in (images[:1000], images))
    assert len(first) == len(again) == 50
    assert min(first) < "0200"
    assert max(first) > "0800"
    assert len(first & again) > 35


def test_a_limit_above_the_number_of_images_takes_all(make: Any) -> None:
    the_plan = make([])
    the_plan.add_images(listing([Image("b"), Image("a")]), source.LISTING, limit=3)
    assert the_plan.images == 2


def test_an_empty_store_makes_all_images_new(make: Any, store: Store) -> None:
    summary = make([Image("a", label="x"), Image("b", label="x"), Image("c", label=None)], store).summary()
    assert (summary.new, summary.todo, summary.labels) == (3, 3, {"x": 2})


def test_features_of_another_backbone_do_not_count(make: Any, store: Store) -> None:
    put_part(store, "e" * 64, [Image("a")])
    assert make([Image("a")], store).summary().new == 1


def test_a_touched_file_with_the_same_bytes_is_known_where_content_is_verified(make: Any, store: Store) -> None:
    put_part(store, DIGEST, [Image("a", etag="old", content="same")])
    images = [Image("a", etag="new", content="same")]
    assert make(images, store).summary().changed == 1
    summary = make(images, store, verify_content=True).summary()
    assert (summary.known, summary.changed) == (1, 0)


def test_changed_bytes_with_the_same_size_and_time_are_found_only_where_content_is_verified(
    make: Any, store: Store
) -> None:
    put_part(store, DIGEST, [Image("a", content="old")])
    images = [Image("a", content="new")]
    assert make(images, store).summary().known == 1
    assert make(images, store, verify_content=True).summary().changed == 1


def test_of_a_file_that_changed_back_the_old_feature_counts(make: Any, store: Store) -> None:
    put_part(store, DIGEST, [Image("a", etag="1")])
    put_part(store, DIGEST, [Image("a", etag="2")])
    assert make([Image("a", etag="1")], store).summary().known == 1


@pytest.mark.parametrize("verify_content", [False, True])
@pytest.mark.parametrize("status", [*TRANSIENT, "too_large", "rejected"])
def test_an_image_that_could_not_be_read_keeps_its_status(
    make: Any, store: Store, tmp_path: Path, verify_content: bool, status: str
) -> None:
    """The content of such a file is unknown to the part that tried it, and often to the listing, too."""
    put_part(store, DIGEST, [Image("a", status=status), Image("b", content="b")])
    images = [Image("a", content="a" if status == "too_large" and verify_content else None), Image("b", content="b")]
    the_plan = make(images, store, verify_content=verify_content, retry="none")
    assert the_plan.count_by("status") == {"ok": 1, status: 1}
    assert failures(the_plan, tmp_path)["status"].to_pylist() == [status]
    assert the_plan.summary().known_failed == 1


def test_an_image_in_several_parts_counts_once_and_ok_is_preferred(make: Any, store: Store, shares: Shares) -> None:
    put_part(store, DIGEST, [Image("a", status="unreadable"), Image("b")])
    good = put_part(store, DIGEST, [Image("z"), Image("a")])
    put_part(store, DIGEST, [Image("a", status="missing"), Image("y"), Image("x")])
    the_plan = make([Image("a")], store)
    assert the_plan.summary().known == 1
    (table,) = read(shares, the_plan.write_index(shares, 4))
    assert table.to_pylist() == [{"path": "a", "label": "x", "part": good, "row": 1}]
    assert the_plan.known.feature_parts() == [good]


@pytest.mark.parametrize(
    ("folder", "several"), [("/", False), ("/a:/", False), ("s3://b/", True), ("gs://b/a:/", True)]
)
def test_shares_of_the_todo_are_ordered_by_path_and_larger_where_images_are_in_a_bucket(
    make: Any, store: Store, shares: Shares, folder: str, several: bool
) -> None:
    chance = np.random.default_rng(0)
    paths = [f"{folder}{number} é#\n🍎" for number in range(9000)]
    the_plan = make([Image(paths[i], etag=f"e{i}") for i in chance.permutation(9000)], store)
    sizes = the_plan.write_todo(shares, 3)
    assert sizes == task_sizes(9000, 3, largest_task(9000, several))
    assert max(sizes) == (1024 if several else 512)
    rows = pa.concat_tables(read(shares, sizes)).to_pylist()
    assert [row["path"] for row in rows] == sorted(paths)
    assert {row["path"]: row["etag"] for row in rows} == {path: f"e{i}" for i, path in enumerate(paths)}


def test_nothing_to_do_has_no_parts(make: Any, store: Store, shares: Shares) -> None:
    put_part(store, DIGEST, [Image("a")])
    assert make([Image("a")], store).write_todo(shares, 4) == []


def test_the_index_is_ordered_by_path_and_tells_where_each_feature_lies(
    make: Any, store: Store, shares: Shares
) -> None:
    chance = np.random.default_rng(0)
    images = [Image(f"{number:05}", label=f"l{number % 7}") for number in range(9000)]
    shuffled = [images[i] for i in chance.permutation(9000)]
    where = {}
    for start in range(0, 9000, 3000):
        block = [*shuffled[start : start + 3000], Image(f"bad{start}", status="undecodable")]
        name = put_part(store, DIGEST, block)
        where |= {image.path: (name, row) for row, image in enumerate(block)}
    the_plan = make([*images, Image("bad0"), Image("bad3000")], store)
    sizes = the_plan.write_index(shares, 4)
    assert sizes == [2250] * 4
    rows = pa.concat_tables(read(shares, sizes)).to_pylist()
    assert [(row["path"], row["label"]) for row in rows] == [(image.path, image.label) for image in images]
    assert all((row["part"], row["row"]) == where[row["path"]] for row in rows)


def test_the_index_does_not_depend_on_how_features_came_to_be_grouped(
    make: Any, tmp_path: Path, shares: Shares
) -> None:
    images = [Image(f"{number:04}") for number in range(5000)]
    found = []
    for size in (LARGEST_PART, 700):
        store = LocalStore(str(tmp_path / f"out{size}"))
        for start in range(0, 5000, size):
            put_part(store, DIGEST, images[start : start + size])
        the_plan = make(images, store)
        found.append([table["path"].to_pylist() for table in read(shares, the_plan.write_index(shares, 4))])
    assert found[0] == found[1]


def test_no_ok_image_has_no_index(make: Any, store: Store, shares: Shares) -> None:
    put_part(store, DIGEST, [Image("a", status="missing")])
    assert make([Image("a")], store).write_index(shares, 4) == []


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), other)
    path.write_bytes(
        {
            "empty": b"",
            "garbage": np.random.default_rng(0).bytes(1000),
            "truncated": data[: len(data) // 2],
            "headless": data[10:],
            "another table": other.getvalue().to_pybytes(),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "headless", "another table"])
def test_a_broken_part_is_named_and_its_images_are_computed_again(
    make: Any, store: Store, shares: Shares, kind: str
) -> None:
    broken = put_part(store, DIGEST, [Image("a"), Image("b")])
    put_part(store, DIGEST, [Image("c")])
    damage(store.root / broken, kind)
    the_plan = make([Image("a"), Image("b"), Image("c")], store)
    assert the_plan.known.broken == [broken]
    assert todo(the_plan, shares) == ["a", "b"]
    assert the_plan.summary().known == 1


def test_a_broken_part_is_named_once_however_often_features_are_added(make: Any, store: Store) -> None:
    broken = put_part(store, DIGEST, [Image("a")])
    damage(store.root / broken, "garbage")
    the_plan = make([Image("a")], store)
    put_part(store, DIGEST, [Image("a"), Image("b")])
    the_plan.add_features(store, DIGEST)
    assert the_plan.known.broken == [broken]
    assert the_plan.summary().known == 1


def test_temporary_files_are_no_parts(make: Any, store: Store) -> None:
    store.put(f"{layout.features(DIGEST)}/.part-x.parquet.1234.tmp", b"half")
    assert make([Image("a")], store).known.broken == []


def test_features_that_came_later_are_known_when_added_again(make: Any, store: Store, shares: Shares) -> None:
    the_plan = make([Image("a"), Image("b"), Image("c")], store)
    assert todo(the_plan, shares) == ["a", "b", "c"]
    put_part(store, DIGEST, [Image("a"), Image("b", status="undecodable")])
    the_plan.add_features(store, DIGEST)
    assert todo(the_plan, shares) == ["c"]
    assert the_plan.count_by("status") == {"ok": 1, "undecodable": 1, "changed": 1}
    assert the_plan.count_by("label", "status = 'ok'") == {"x": 1}


def test_failures_tell_of_every_image_without_a_feature(make: Any, store: Store, tmp_path: Path) -> None:
    put_part(store, DIGEST, [Image("b", status="undecodable"), Image("ok")])
    rows = failures(make([Image("b"), Image("a"), Image("ok")], store), tmp_path).to_pylist()
    assert [(row["path"], row["status"]) for row in rows] == [("a", "changed"), ("b", "undecodable")]
    assert rows[1]["error"] == "as the test has it"
    assert "run again" in rows[0]["error"]
    assert failures(make([Image("ok")], store), tmp_path).num_rows == 0


@pytest.mark.parametrize("dimension", [64, 1280, 4096])
def test_vector_parts_are_what_a_task_may_hold_and_few_of_them_a_power_of_two(dimension: int) -> None:
    for count in (1, 4096, 4097, 20_622, 524_288, 524_289, 1_048_576, 1_048_577, 5_000_000, 100_000_000):
        sizes = vector_parts(count, dimension)
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= max(4096, (80 << 20) // (4 * dimension))
        assert max(sizes) <= 4096 or len(sizes) >= 256
        assert min(sizes) >= 2048 or count <= 4096
        assert len(sizes) > 256 or len(sizes).bit_count() == 1, "cores that are a power of two have equal shares"
    assert vector_parts(0, dimension) == []
    assert len(vector_parts(1_048_576, dimension)) == 256
    assert len(vector_parts(100_000_000, 1280)) == 6104


def test_of_an_image_that_is_listed_twice_the_row_with_an_etag_counts(make: Any, store: Store) -> None:
    the_plan = make([])
    put_part(store, DIGEST, [Image("a", etag="1"), Image("b", etag="")])
    twice = [Image("a", etag=""), Image("a", etag="1"), Image("b", etag=""), Image("b", etag=""), Image("c")]
    the_plan.add_images(listing(twice), source.LISTING, distinct=False)
    the_plan.add_features(store, DIGEST)
    summary = the_plan.summary()
    assert (the_plan.images, summary.known, summary.new, summary.labels) == (3, 2, 1, {"x": 3})


@pytest.mark.parametrize("at_once", [plans.DOUBLES, 1, 7])
def test_many_paths_that_come_twice_come_once(at_once: int, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "DOUBLES", at_once)
    the_plan = make([])
    names = [f"{number:02}" for number in range(30)]
    the_plan.add_images(listing([Image(name) for name in names + names[:20]]), source.LISTING, distinct=False)
    assert the_plan.sample(50, "path") == [(name,) for name in names]


def test_of_rows_of_one_etag_that_with_a_label_counts(make: Any) -> None:
    the_plan = make([])
    rows = [Image("ä", label=None), Image("ä", label="x"), Image("ä", label="y"), Image("a\u0308", label=None)]
    the_plan.add_images(listing(rows), source.LISTING, distinct=False)
    assert the_plan.sample(3, "path, label") == [("a\u0308", None), ("ä", "x")]


@pytest.mark.parametrize(("lacks", "memory", "disk"), [("memory", "5MB", "1GB"), ("disk space", "24MB", "1MB")])
def test_a_plan_without_room_says_what_it_needs(lacks: str, memory: str, disk: str, make: Any) -> None:
    the_plan = make([])
    the_plan.add_images(listing(MANY), source.LISTING)
    room = f"SET memory_limit = '{memory}'; SET max_temp_directory_size = '{disk}'"
    the_plan.database.execute(f"SET threads = 2; {room}")  # each takes some
    with pytest.raises(FruitpipeError, match=f"^the plan needs more {lacks} .*Kubernetes by driver"):
        the_plan.digest()


@pytest.mark.slow
def test_a_plan_on_a_full_disk_says_so(tmp_path: Path) -> None:
    if os.geteuid():
        unavailable("only root can mount a small file system")
    with small_disk(tmp_path / "disk", megabytes=1) as folder:
        the_plan = Plan(folder, verify_content=False, retry="transient")
        try:
            with pytest.raises(FruitpipeError, match=r"^the plan needs more disk space .*No space left.*TMPDIR"):
                the_plan.add_images(listing(MANY), source.LISTING)
        finally:
            the_plan.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [("Out of Memory Error: failed to offload data", FruitpipeError), ("Invalid Input Error: no", OSError)],
)
def test_what_ends_a_query_amid_its_rows_is_told_likewise(
    said: str, told: type[Exception], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow makes an OSError of it; DuckDB mostly fails before its first row, so this one is a stand-in."""

    def rows() -> Iterator[pa.RecordBatch]:
        yield from pa.table({"row": ["1"]}).to_batches()
        raise OSError(said)

    class Connection:
        def sql(self, query: str) -> Any:
            return self

        def to_arrow_reader(self, size: int) -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(pa.schema({"row": pa.string()}), rows())

    database = make([]).database
    with monkeypatch.context() as patch:
        patch.setattr(database, "_connection", Connection())
        batches = database.batches("SELECT row FROM images")
        assert batches.read_next_batch().to_pylist() == [{"row": "1"}]
        with pytest.raises(told, match=said):
            batches.read_next_batch()


def test_the_digest_is_of_paths_contents_and_labels_in_any_order(make: Any) -> None:
    images = [Image("a"), Image("b", label=None), Image("c", label="")]
    expected = make(images).digest()
    assert make(images[::-1]).digest() == expected
    others = [
        [*images, Image("d")],
        images[1:],
        [Image("a", etag="2"), *images[1:]],
        [Image("a", label="y"), *images[1:]],
        [Image("a"), Image("b", label=""), images[2]],
        [Image("a 1", etag=""), *images[1:]],
        [],
    ]
    assert len({expected, *(make(each).digest() for each in others)}) == len(others) + 1


def test_the_digest_knows_where_a_text_ends(make: Any) -> None:
    """Spaces within paths, etags and labels are not those between them."""
    pairs = [
        (Image("a b", etag="c"), Image("a", etag="b c")),
        (Image("a", etag="b c", label="d"), Image("a", etag="b", label="c d")),
        (Image("a 1 b", etag="c", label="x"), Image("a", etag="b", label="1 c x")),
    ]
    for one, other in pairs:
        assert make([one]).digest() != make([other]).digest()


def test_with_contents_the_digest_is_of_them_where_they_could_be_read(make: Any) -> None:
    def digest(etag: str, content: str | None) -> str:
        found: str = make([Image("a", etag=etag, content=content)], verify_content=True).digest()
        return found

    assert digest("1", "x") == digest("2", "x")
    assert len({digest("1", "x"), digest("1", "y"), digest("1", None), digest("2", None)}) == 4


def test_what_a_listing_raises_comes_out_as_it_is(make: Any) -> None:
    class Broken(Exception):
        pass

    def batches() -> Iterator[pa.RecordBatch]:
        yield from listing([Image("a")])
        raise Broken

    with pytest.raises(Broken):
        make([]).add_images(batches(), source.LISTING)


@given(st.integers(0, 200_000) | st.integers(0, 30_000_000), st.integers(1, 5000), st.booleans())
def test_tasks_are_small_for_each_slot_at_first_then_never_grow_and_sum_to_the_count(
    count: int, slots: int, several: bool
) -> None:
    largest = largest_task(count, several)
    sizes = task_sizes(count, slots, largest)
    assert sum(sizes) == count
    assert all(size == SMALLEST_PART for size in sizes[:-1][:slots])
    assert sizes[slots:] == sorted(sizes[slots:], reverse=True)
    assert all(1 <= size <= largest for size in sizes)
    assert all(size >= SMALLEST_PART for size in sizes[:-1])


@given(st.integers(1, 64))
def test_there_are_tasks_for_all_slots_where_there_are_images_for_them(slots: int) -> None:
    count = SMALLEST_PART * slots
    assert len(task_sizes(count, slots, largest_task(count, several=True))) >= slots


@given(st.integers(0, 30_000_000))
def test_a_task_makes_several_parts_where_these_are_small(count: int) -> None:
    part = largest_feature_part(count)
    assert USUAL_PART <= part <= LARGEST_PART
    assert largest_task(count, several=False) == part
    assert largest_task(count, several=True) == (2 * part if part == USUAL_PART else part)


@given(st.integers(1, LARGEST_PART), st.integers(0, 30_000_000))
def test_the_parts_of_a_task_are_few_and_of_one_size(images: int, of_all: int) -> None:
    largest = largest_feature_part(of_all)
    sizes = part_sizes(images, largest)
    assert sum(sizes) == images
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * largest < images <= len(sizes) * largest


@pytest.mark.parametrize("path", "abcdefgh")  # parts are named by digests, in one order or the other
@pytest.mark.parametrize(
    ("before", "now"), [("too_large", "undecodable"), ("missing", "forbidden"), ("unreadable", "too_slow")]
)
def test_of_an_image_that_fails_again_the_last_attempt_is_told(
    store: LocalStore, make: Any, path: str, before: str, now: str
) -> None:
    put_part(store, DIGEST, [Image(path, status=before)])
    plan = make([Image(path)], store)
    plan.add_parts(store, [put_part(store, DIGEST, [Image(path, status=now)])])
    assert plan.count_by("status") == {now: 1}
    if now not in RETRIED["transient"]:  # by any run
        plan.add_features(store, DIGEST)
        assert plan.summary().known_failed == 1


def test_the_commonest_error_is_of_the_commonest_status(make: Any, store: LocalStore) -> None:
    """Errors of one status may have as many texts as there are images, such as those with their sizes."""
    images = [Image(f"{number}", status="too_large") for number in range(5)]
    images += [Image(f"x{number}", status="undecodable") for number in range(2)]
    put_part(store, DIGEST, images)
    assert make(images, store).commonest_error("undecodable") == "as the test has it"
