from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from parts import Image, put_part

from fruitpipe.errors import FruitpipeError
from fruitpipe.numeric import pca
from fruitpipe.numeric.distribution import Distribution
from fruitpipe.numeric.moments import Moments, added
from fruitpipe.numeric.pca import Pca
from fruitpipe.pipeline import stages
from fruitpipe.pipeline.stage import Context
from fruitpipe.sinks import Sink, open_sinks, to_table, vectors_of
from fruitpipe.sinks.files import Parquet
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce
from fruitpipe.tasks.feature_part import LARGEST_PART, read_facts
from fruitpipe.tasks.shares import Shares
from fruitpipe.tasks.vector_part import LARGEST, Vectors, require_plain, require_rows

DIGEST, RUN = "d" * 64, "20260101-000000-abcd"
COUNT, DIMENSION = 5000, 12
METADATA = {"fruitpipe.run": RUN, "fruitpipe.components": "4"}


class Features(NamedTuple):
    """A store with feature parts and an index of two vector parts; the features in the index' order."""

    store: LocalStore
    rows: NDArray[np.float32]
    images: list[Image]


def write_index(store: LocalStore, rows: Sequence[tuple[str, str | None, str, int]], cuts: Sequence[int]) -> Shares:
    """An index as the plan writes it, a share between each two cuts."""
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("part", pa.string()), ("row", pa.int32())])
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    shares = Shares(store, RUN, layout.INDEX)
    shares.write(table.to_batches(), [end - start for start, end in pairwise(cuts)], store.root)
    return shares


def read_index(made: Features) -> list[tuple[str, str | None, str, int]]:
    """The rows of both shares."""
    shares = Shares(made.store, RUN, layout.INDEX)
    return [tuple(row.values()) for number in (0, 1) for row in shares.read(number).to_pylist()]


def file(store: LocalStore, name: str) -> io.BytesIO:
    return io.BytesIO(store.get(name))


def test_a_sample_is_evenly_spaced_with_its_features_and_labels(made: Features) -> None:
    found = [reduce.Sample(made.store, RUN, 7)(number) for number in (0, 1)]
    features, labels = np.concatenate([each[0] for each in found]), [label for each in found for label in each[1]]
    cut = len(Shares(made.store, RUN, layout.INDEX).read(0))
    rows = [*(np.arange(7) * cut // 7), *(cut + np.arange(7) * (COUNT - cut) // 7)]
    assert np.array_equal(features, made.rows[rows])
    assert labels == [made.images[row].label for row in rows]


def test_a_sample_of_fewer_images_than_parts_is_of_some_parts(made: Features) -> None:
    spark = SimpleNamespace(map=lambda task, count, poll: [task(number) for number in range(count)])
    job: Any = SimpleNamespace(store=made.store, id=RUN, parts=2, runner=spark, reporter=SimpleNamespace(poll=None))
    for most in (1, 2, 3, 9):
        features, labels = Context(job, model=None, vectors=[]).sample(most)  # type: ignore[arg-type]
        assert len(features) == len(labels) == most - (most > 2)
    part = reduce.Projected([], Distribution.of(np.ones(1, np.float32)), 0, [("a", "", 0, 0)])
    assert [len(stages.report_sample([part] * count)) for count in (7, 2000, 4001)] == [7, 2000, 2000]


@pytest.fixture
def made(tmp_path: Path) -> Features:
    """Three feature parts in no order, with failures between, as after a run that was continued."""
    chance = np.random.default_rng(0)
    rows = (chance.normal(size=(COUNT, DIMENSION)) @ chance.normal(size=(DIMENSION, DIMENSION)) + 3).astype(np.float32)
    images = [Image(f'{number:05} "é, #\n🍎.jpg', label=f"l, {number % 3}") for number in range(COUNT)]
    order = chance.permutation(COUNT)
    store, where = LocalStore(str(tmp_path / "out")), {}
    for chosen in np.split(order, [1500, 1510]):
        block = [Image("bad", status="undecodable"), *(images[i] for i in chosen)]
        name = put_part(store, DIGEST, block, np.vstack([np.zeros((1, DIMENSION), np.float32), rows[chosen]]))
        where |= {images[i].path: (name, row) for row, i in enumerate(chosen, 1)}
    write_index(store, [(image.path, image.label, *where[image.path]) for image in images], [0, 2400, COUNT])
    return Features(store, rows, images)


def fit(made: Features, parts: int = 2) -> Moments:
    return reduce.fit_moments(made.store, RUN, parts, in_turn)


def in_turn(task: Callable[[int], None], count: int) -> None:
    for number in range(count):
        task(number)


def project(made: Features, model: Pca, formats: tuple[str, ...] = ()) -> list[reduce.Projected]:
    """formats: besides Parquet"""
    task = reduce.Project(made.store, RUN, open_sinks(formats, made.store, RUN, one_file=False), METADATA, 10)
    return [task(number, lambda: model) for number in (0, 1)]


def table(made: Features) -> pa.Table:
    return pa.concat_tables(pq.read_table(file(made.store, layout.vectors(RUN, number))) for number in (0, 1))


def test_merged_moments_are_those_of_the_whole(made: Features) -> None:
    found, expected = fit(made), Moments.of(made.rows)
    assert found.count == expected.count == COUNT
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-10, atol=1e-10 * expected.scatter.max())


def test_fitting_again_gives_the_same_bits_in_any_order_of_tasks(made: Features) -> None:
    first = fit(made)
    again = reduce.fit_moments(
        made.store, RUN, 2, lambda task, count: in_turn(lambda number: task(count - 1 - number), count)
    )
    assert np.array_equal(first.scatter, again.scatter)
    assert np.array_equal(first.mean, again.mean)


def test_other_vector_parts_give_the_same_moments(made: Features) -> None:
    expected = fit(made)
    write_index(made.store, read_index(made), [0, 1, 700, 2500, 4999, COUNT])
    found = fit(made, 5)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-10, atol=1e-10 * expected.scatter.max())


def test_moments_of_many_parts_are_added_as_a_tree_by_tasks_as_in_one_process(made: Features) -> None:
    """As scikit-learn's users have it: FruitpipePCA adds in the same order."""
    cuts = [*range(0, COUNT, 38), COUNT]
    parts = len(cuts) - 1
    assert parts == 132
    write_index(made.store, read_index(made), cuts)
    found = fit(made, parts)
    levels = Counter(name.rsplit("-", 2)[1] for name, _ in made.store.names(layout.work(RUN)) if "moments" in name)
    assert levels == {"0": 132, "1": 3}
    expected = added(Moments.of(made.rows[start:end]) for start, end in pairwise(cuts))
    assert np.array_equal(found.scatter, expected.scatter)
    assert np.array_equal(found.mean, expected.mean)
    np.testing.assert_allclose(found.scatter, Moments.of(made.rows).scatter, atol=1e-10 * found.scatter.max())


def test_vectors_are_those_of_the_pca_of_the_whole_matrix(made: Features) -> None:
    expected = pca.fit(Moments.of(made.rows), 4)
    parts = project(made, pca.fit(fit(made), 4))
    vectors, errors = expected.transform_with_error(made.rows)
    published = table(made)
    np.testing.assert_allclose(vectors_of(published), vectors, atol=1e-5)
    found = parts[0].errors + parts[1].errors
    assert len(found) == COUNT
    np.testing.assert_allclose(found.mean, errors.mean(dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(found.quantile(0.99), np.quantile(errors, 0.99), rtol=2e-3)
    assert published["path"].to_pylist() == [image.path for image in made.images]
    assert published["label"].to_pylist() == [image.label for image in made.images]


def test_the_published_schema_is_a_fixed_size_list_with_metadata(made: Features) -> None:
    project(made, pca.fit(fit(made), 4))
    schema = pq.read_schema(file(made.store, layout.vectors(RUN, 0)))
    assert schema.names == ["path", "label", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert not schema.field("path").nullable
    assert not schema.field("vector").nullable
    assert {key.encode(): value.encode() for key, value in METADATA.items()}.items() <= schema.metadata.items()


def test_json_lines_and_csv_hold_the_vectors_of_the_parquet(made: Features) -> None:
    project(made, pca.fit(fit(made), 4), ("json", "csv"))
    expected = table(made)
    lines = b"".join(made.store.get(layout.vectors(RUN, number, "json")) for number in (0, 1)).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [each["path"] for each in documents] == expected["path"].to_pylist()
    assert [each["label"] for each in documents] == expected["label"].to_pylist()
    vectors = np.array([each["vector"] for each in documents], np.float32)
    assert np.array_equal(vectors, vectors_of(expected))
    frames = pd.concat(pd.read_csv(file(made.store, layout.vectors(RUN, number, "csv"))) for number in (0, 1))
    assert frames.columns.to_list() == ["path", "label", "c0", "c1", "c2", "c3"]
    assert frames["path"].to_list() == expected["path"].to_pylist()
    assert frames["label"].to_list() == expected["label"].to_pylist()
    assert np.array_equal(frames[["c0", "c1", "c2", "c3"]].to_numpy(np.float32), vectors_of(expected))


TEXTS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "'=1",
    "''+1",
    "a=1",
    "'a",
    "",
    "1-1",
    'a"b',
    "苹果",
)


def test_a_spreadsheet_computes_no_text_of_csv_and_all_can_be_had_again(tmp_path: Path) -> None:
    rows = -np.ones((len(TEXTS), 2), np.float32)
    texts = pa.chunked_array([[*TEXTS]])
    written = to_table(texts, pa.chunked_array([[None, *TEXTS[1:]]], pa.string()), rows, {})
    guarded, raw = open_sinks(("csv", "csv-raw"), LocalStore(str(tmp_path)), RUN, one_file=False)[1:]

    def read(sink: Sink) -> pd.DataFrame:
        name = layout.run(RUN, sink.write(0, written).name)
        return pd.read_csv(tmp_path / name, keep_default_na=False, na_values={"label": []}, dtype={"path": str})

    frame = read(guarded)
    assert frame["path"].to_list()[:10] == [f"'{text}" for text in TEXTS[:10]]
    assert frame["path"].to_list()[10:] == [*TEXTS[10:]]
    assert frame["label"].to_list()[:2] == ["", "'+1"]
    assert (frame[["c0", "c1"]] == -1).all(axis=None), "numbers"
    again = re.search(
        r"`label(\.str\.replace.*?)` in pandas", Path(__file__).parents[1].joinpath("docs/configuration.md").read_text()
    )
    assert again
    assert eval("frame.path" + again[1]).to_list() == [*TEXTS], "as the documentation says"
    assert read(raw)["path"].to_list() == [*TEXTS]


def test_images_without_labels_have_null_labels_in_every_format(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    rows = np.eye(3, dtype=np.float32)
    name = put_part(store, DIGEST, [Image("a"), Image("b"), Image("c")], rows)
    write_index(store, [(path, None, name, row) for row, path in enumerate("abc")], [0, 3])
    model = pca.fit(Moments.of(rows), 1)
    reduce.Project(store, RUN, open_sinks(("json", "csv"), store, RUN, one_file=False), {}, 10)(0, lambda: model)
    assert pq.read_table(file(store, layout.vectors(RUN, 0)))["label"].to_pylist() == [None] * 3
    lines = store.get(layout.vectors(RUN, 0, "json")).splitlines()
    assert [json.loads(line)["label"] for line in lines] == [None] * 3
    assert pd.read_csv(file(store, layout.vectors(RUN, 0, "csv")))["label"].isna().all()


def test_files_are_described_as_they_are_and_a_retry_writes_the_same_bytes(made: Features) -> None:
    model = pca.fit(fit(made), 4)
    formats = ("json", "csv")
    files = [file for part in project(made, model, formats) for file in part.files]
    assert [file.rows for file in files] == [2400] * 3 + [2600] * 3
    for file in files:
        data = made.store.get(layout.run(RUN, file.name))
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert [file for part in project(made, model, formats) for file in part.files] == files


def test_parts_are_joined_with_one_header_and_described_as_they_are(made: Features, tmp_path: Path) -> None:
    parts = project(made, pca.fit(fit(made), 4), ("json", "csv"))
    names = [each.name for part in parts for each in part.files]
    frames = [pd.read_csv(file(made.store, layout.vectors(RUN, number, "csv"))) for number in (0, 1)]
    lines = [made.store.get(layout.vectors(RUN, number, "json")) for number in (0, 1)]
    committed = []
    sinks = open_sinks(("json", "csv"), made.store, RUN, one_file=True)
    for sink, files in zip(sinks, zip(*(part.files for part in parts), strict=True), strict=True):
        committed += sink.commit(files, tmp_path)
    assert [file.name for file in committed] == [names[0], names[3], "vectors.jsonl", "vectors.csv"]
    for joined in committed[2:]:
        data = made.store.get(layout.run(RUN, joined.name))
        assert (joined.rows, joined.bytes) == (COUNT, len(data))
        assert joined.sha256 == hashlib.sha256(data).hexdigest()
    assert made.store.get(layout.joined_vectors(RUN, "json")) == b"".join(lines)
    pd.testing.assert_frame_equal(
        pd.read_csv(file(made.store, layout.joined_vectors(RUN, "csv"))), pd.concat(frames, ignore_index=True)
    )
    left = {name for name, _ in made.store.names(layout.run(RUN))}
    assert not left & {layout.run(RUN, name) for name in names if not name.startswith("vectors/")}


def test_the_sample_is_of_labels_and_first_two_components(made: Features) -> None:
    parts = project(made, pca.fit(fit(made), 4))
    published = table(made)
    known = {
        (path, label, *row[:2])
        for path, label, row in zip(
            *(published[name].to_pylist() for name in ("path", "label")), vectors_of(published).tolist(), strict=True
        )
    }
    sample = [row for part in parts for row in part.sample]
    assert len(sample) == 20
    assert set(sample) <= known


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_sample_is_never_larger_than_asked_for_nor_than_the_part(count: int) -> None:
    vectors = np.arange(3, dtype=np.float32)[:, None]
    names = pa.chunked_array([["a", "b", "c"]])
    sample = reduce.sample_of(to_table(names, names, vectors, {}), count)
    assert len(sample) == min(count, 3)
    assert all(second == 0 for *_, second in sample)


def test_images_whose_feature_is_zeros_are_counted_in_all_blocks(tmp_path: Path) -> None:
    store, rows = LocalStore(str(tmp_path)), np.ones((2 * reduce.BLOCK + 10, 2), np.float32)
    rows[[0, 5, reduce.BLOCK, -1]] = 0
    name = put_part(store, DIGEST, [Image(f"{number:05}") for number in range(len(rows))], rows)
    write_index(store, [(f"{number:05}", None, name, number) for number in range(len(rows))], [0, len(rows)])
    model = pca.fit(Moments.of(rows), 1)
    found = reduce.Project(store, RUN, open_sinks((), store, RUN, one_file=False), {}, 10)(0, lambda: model)
    assert found.blank == 4


def test_a_damaged_feature_is_never_taken_for_a_good_one(tmp_path: Path) -> None:
    """Disks and networks flip bits; a run that fails is better than vectors that are wrong."""
    chance = np.random.default_rng(0)
    store, rows = LocalStore(str(tmp_path)), chance.normal(size=(100, 64)).astype(np.float32)
    name = put_part(store, DIGEST, [Image(f"{number:03}") for number in range(100)], rows)
    shares = write_index(store, [(f"{number:03}", None, name, number) for number in range(100)], [0, 100])
    whole = store.get(name)
    column = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(7)
    assert column.path_in_schema == "feature"
    first = column.data_page_offset
    for place in chance.integers(first + 100, first + column.total_compressed_size - 100, 30):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        store.put(name, bytes(damaged))
        try:
            (found,) = reduce.Index(shares, 0).blocks()
        except FruitpipeError:
            continue
        assert np.array_equal(found, rows)


@pytest.mark.parametrize("rows", [LARGEST_PART, LARGEST_PART + 1])
def test_a_part_of_more_rows_than_any_of_ours_is_not_unpacked(rows: int, tmp_path: Path) -> None:
    """It may have been made to take more memory than a task has."""
    store = LocalStore(str(tmp_path))
    name = put_part(store, DIGEST, [Image(f"{number:05}") for number in range(rows)])
    shares = write_index(store, [("00000", None, name, 0)], [0, 1])
    if rows > LARGEST_PART:
        assert read_facts(store, name) is None
        with pytest.raises(FruitpipeError, match="is damaged"):
            list(reduce.Index(shares, 0).blocks())
    else:
        assert len(read_facts(store, name) or ()) == rows
        (block,) = reduce.Index(shares, 0).blocks()
        assert block.shape == (1, 3)


class Counting(LocalStore):
    """A store that knows how often each object was read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: Counter[str] = Counter()

    def get(self, name: str) -> bytes:
        self.reads[name] += 1
        return super().get(name)


def test_a_vector_part_reads_each_feature_part_once_however_many_lie_between_one_another(tmp_path: Path) -> None:
    store = Counting(str(tmp_path))
    features = np.random.default_rng(0).normal(size=(2 * reduce.BLOCK + 10, 7)).astype(np.float32)
    where: dict[int, tuple[str, int]] = {}
    for increment in range(30):
        chosen = np.arange(increment, len(features), 30)
        name = put_part(store, DIGEST, [Image(f"{number:05}") for number in chosen], features[chosen])
        where |= {number: (name, row) for row, number in enumerate(chosen.tolist())}
    rows = [(f"{number:05}", None, *where[number]) for number in range(len(features))]
    index = reduce.Index(write_index(store, rows, [0, len(features)]), 0)
    blocks = list(index.blocks())
    assert [len(block) for block in blocks] == [reduce.BLOCK, reduce.BLOCK, 10]
    assert np.array_equal(np.concatenate(blocks), features)
    assert set(store.reads.values()) == {1}
    assert len(store.reads) == 30
    store.reads.clear()
    assert np.array_equal(index.features(np.array([61, 1, 31, 2])), features[[61, 1, 31, 2]])
    assert store.reads == {where[1][0]: 1, where[2][0]: 1}


def test_a_flipped_bit_is_never_taken_for_a_fact(tmp_path: Path) -> None:
    """Of a status, it might give an image the feature zeros."""
    store = LocalStore(str(tmp_path))
    images = [Image(f"{number:03}", status="ok" if number % 3 else "missing") for number in range(100)]
    name = put_part(store, DIGEST, images)
    whole, facts = store.get(name), read_facts(store, name)
    first = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(7).data_page_offset
    damaged = 0
    for place in range(4, first, 23):
        store.put(name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = read_facts(store, name)
        damaged += found is None
        assert found is None or found == facts
    assert damaged


def test_a_flipped_bit_is_never_taken_for_a_vector(made: Features) -> None:
    parquet = Parquet(made.store, RUN)
    chance = np.random.default_rng(0)
    table = to_table(
        pa.chunked_array([[f"{number:03}" for number in range(200)]]),
        pa.chunked_array([["x"] * 200]),
        chance.normal(size=(200, 8)).astype(np.float32),
        {},
    )
    file = parquet.write(0, table)
    found = Vectors(made.store, RUN, (file,), 8)
    name, columns = layout.run(RUN, file.name), ["path", "label", "vector"]
    expected, whole = found.table(0, columns), made.store.get(name)
    damaged = 0
    for place in range(4, len(whole) - int.from_bytes(whole[-8:-4], "little") - 8, 37):
        made.store.put(name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert found.table(0, columns) == expected
        except FruitpipeError:
            damaged += 1
    assert damaged


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (3, 4), (LARGEST + 1, LARGEST + 1)])
def test_a_vector_part_of_other_rows_is_refused(count: int, rows: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        require_rows(count, File(name="x", rows=rows, bytes=1, sha256="x"))


def test_a_vector_part_with_nulls_is_refused() -> None:
    with pytest.raises(ValueError, match="path has nulls"):
        require_plain(pa.table({"path": pa.array(["a", None], pa.string())}), ["path"], 1)
