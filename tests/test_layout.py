from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fruitpipe.storage import layout

ROWS = st.lists(st.tuples(st.text(max_size=5), st.from_regex(r"[0-9]{1,3}-[0-9]{1,3}", fullmatch=True)), max_size=4)


@given(ROWS, ROWS)
def test_a_feature_part_is_named_by_its_rows(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    assert (layout.feature_part("d" * 64, one) == layout.feature_part("d" * 64, other)) == (one == other)


def test_rows_that_read_alike_when_joined_have_different_parts() -> None:
    pairs = (
        [("a 1", "2"), ("a", "1 2")],
        [("ab", "c"), ("d", "e")],
        [("ab", "c"), ("de", "")],
        [("d", "e"), ("ab", "c")],
        [("ab", "c", "d", "e")],
    )
    assert (
        len(
            {layout.feature_part("d", rows) for rows in pairs[1:]}
            | {layout.feature_part("d", [row]) for row in pairs[0]}
        )
        == 6
    )


def test_the_features_of_two_backbones_never_meet() -> None:
    rows = [("a", "1")]
    assert layout.feature_part("0" * 64, rows).rpartition("/")[0] == layout.features("0" * 64)
    assert layout.feature_part("1" * 64, rows).rpartition("/")[0] != layout.features("0" * 64)


def test_names_within_a_run_are_distinct_and_below_it() -> None:
    run = "20260101-000000-abcd"
    names = [
        layout.manifest(run), layout.report(run), layout.config(run), layout.outcome(run), layout.failures(run),
        layout.log(run), layout.model(run, "pca.npz"), layout.shares(run, layout.TODO, 0),
        *(layout.shares(run, layout.INDEX, file) for file in (0, 1)),
        layout.engine(run, "0" * 64),
        *(layout.vectors(run, number, kind) for number in (0, 1) for kind in layout.FOLDER),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert all(name == layout.run(run, layout.within(run, name)) for name in names)
    assert all(layout.is_ours(name) for name in names)


def test_names_that_fruitpipe_gives_are_told_from_those_of_others() -> None:
    part, run = layout.feature_part("0" * 64, [("a", "1")]), layout.new_run_id()
    folder, _, name = part.rpartition("/")
    assert all(
        layout.is_ours(ours) for ours in (part, layout.scratch(), layout.vocabulary("0" * 64), layout.network("0" * 64))
    )
    assert layout.is_ours(f"{folder}/.{name}.0123abcd.tmp")
    others = (
        "runs/apple.jpg", "features/part-1.parquet", f"{folder}/x.parquet", f"{folder}/.x.parquet.0123abcd.tmp",
        f"{part}/x", f"runs/{run}", f"runs/{run}/apple.jpg", f"runs/{run}/vectors/apple.jpg",
        f"runs/x{run}/config.yaml", f"photos/{part}", "features/.tmp", f"runs/{run}/work/notes.txt",
    )  # fmt: skip
    assert not [other for other in others if layout.is_ours(other)]


def test_vector_parts_sort_by_number() -> None:
    names = [layout.vectors("r", number) for number in range(0, 300, 7)]
    assert names == sorted(names)


def test_run_ids_are_safe_names_that_begin_with_a_time() -> None:
    assert re.fullmatch(r"20\d{6}-[0-2]\d[0-5]\d[0-5]\d-[0-9a-f]{4}", layout.new_run_id())
