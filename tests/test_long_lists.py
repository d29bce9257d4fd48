"""Long lists of a manifest, which lie beside it: for readers they are lists as any others."""

from __future__ import annotations

import io
import json
import shutil
from bisect import bisect_left
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, fruitpipe, one_line_error, run, vectors
from hypothesis import given
from hypothesis import strategies as st
from published import RELEASED

from fruitpipe.config import RECORDED
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.pipeline.limits import require_few_labels
from fruitpipe.result import long_lists
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.result.manifest import Manifest, Summary
from fruitpipe.result.runs import list_runs, open_run, put_lists
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks import reduce

RELEASED_BYTES = RELEASED.read_bytes()
FILES, PARTS = "manifest-files.parquet", "manifest-feature_parts.parquet"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """All lists are long, and vectors are in several parts."""
    monkeypatch.setattr(long_lists, "LONG", 0)
    monkeypatch.setattr(reduce, "VECTOR_PART", 24)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    hex_of = st.text("0123456789abcdef", min_size=64, max_size=64)
    count = st.integers(0, (1 << 63) - 1)
    numbers = st.integers(0, 10**7).map(lambda number: f"vectors/part-{number:05d}.parquet")
    named = st.builds(File, name=numbers | st.just("config.yaml"), rows=st.none() | count, bytes=count, sha256=hex_of)
    parts = st.builds(layout.part, hex_of, hex_of)
    lists = {"files": draw(st.lists(named, max_size=9)), "feature_parts": draw(st.lists(parts, max_size=9))}
    return Manifest.read(RELEASED_BYTES).model_copy(update=lists)


@given(manifests(), st.integers(0, 9))
def test_a_manifest_comes_back_equal_however_long_its_lists_are(manifest: Manifest, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_lists, "LONG", most)
        document, beside = manifest.written()
    long = {name for name, entries in ((FILES, manifest.files), (PARTS, manifest.feature_parts)) if len(entries) > most}
    assert beside.keys() == long
    assert Manifest.read(document, beside.get) == manifest


def test_one_with_short_lists_is_as_it_always_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    released = Manifest.read(RELEASED_BYTES)
    assert released == Manifest.model_validate_json(RELEASED_BYTES, context=RECORDED)
    assert released.written() == (released.model_dump_json(indent=2).encode(), {})
    parts = [layout.part("a" * 64, f"{number:064x}"[::-1]) for number in range(long_lists.LONG + 1)]
    for count, files in ((long_lists.LONG, set()), (long_lists.LONG + 1, {PARTS})):
        document, beside = released.model_copy(update={"feature_parts": parts[:count]}).written()
        assert beside.keys() == files
        assert len(document) < 200_000


@pytest.fixture(scope="module")
def made(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a result of them."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "images").mkdir()
    for number, path in enumerate(sorted(fruits.rglob("*.jpg"))[::4][:72]):
        shutil.copy(path, folder / "images" / f"{number:02d}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_lists, "LONG", 0)
        patch.setattr(reduce, "VECTOR_PART", 24)
        run(folder / "images", folder / "out", "pca.components=8")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder with a copy of that result."""
    shutil.copytree(made / "out", tmp_path / "place" / "out")
    return tmp_path / "place"


def newest(place: Path) -> Path:
    return max((place / "out" / "runs").iterdir())


def test_a_result_is_run_inherited_cleared_and_applied_as_any_other(made: Path, place: Path) -> None:
    images, out, store = made / "images", place / "out", LocalStore(str(place / "out"))
    run(images, out, "pca.components=7")
    first = open_run(store)
    document = json.loads((newest(place) / "manifest.json").read_text())
    assert document["files"]["name"] == FILES
    assert document["files"]["rows"] == len(first.manifest.files)
    assert document["feature_parts"]["rows"] == len(first.manifest.feature_parts)
    assert sum(file.rows or 0 for file in first.vector_files) == 72
    shown = json.loads(fruitpipe("show", out, "--json").stdout)
    assert shown["files"] == [file.model_dump() for file in first.manifest.files]

    assert "nothing to do" in fruitpipe("run", images, out, "--set", "pca.components=7", "--set", BACKBONE).stdout
    with (images / "70.jpg").open("ab") as last:
        last.write(b"\0")
    run(images, out, "model=reuse")
    second = open_run(store)
    assert second.id != first.id
    shared = {file.sha256 for file in first.vector_files} & {file.sha256 for file in second.vector_files}
    assert len(shared) == len(first.vector_files) - 1 > 1

    needed = {name for name, _ in store.names("runs")} | set(second.manifest.feature_parts)
    assert {layout.run(each.id, name) for each in (first, second) for name in (FILES, PARTS)} < needed
    assert {Path(each.name).name for each in find_garbage(store).objects} == {"outcome.json"}  # of the one unchanged
    (out / layout.manifest(first.id)).unlink()
    assert {layout.run(first.id, name) for name in (FILES, PARTS)} < {each.name for each in collect(store).objects}
    assert set(second.manifest.feature_parts) <= {name for name, _ in store.names("features")}
    assert len(vectors(out)) == 72
    fruitpipe("transform", second.path("model"), images, place / "applied.parquet")
    assert pq.read_metadata(place / "applied.parquet").num_rows == 72


@pytest.mark.parametrize("name", [FILES, PARTS])
@pytest.mark.parametrize("how", ["missing", "cut", "another's", "larger"])
def test_a_list_that_is_not_the_one_that_was_written_is_one_line(place: Path, how: str, name: str, made: Path) -> None:
    path = newest(place) / name
    match how:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "another's":
            path.write_bytes((newest(place) / "failures.parquet").read_bytes())
        case "larger":
            with path.open("wb") as file:
                file.truncate(layout.most_bytes(name) + 1)
    before = sorted((place / "out").rglob("*"))
    for command in ("show", "gc"):
        line = one_line_error(fruitpipe(command, place / "out", code=2))
        assert name in line
        assert newest(place).name in line
    with pytest.raises(UserError, match=name):
        collect(LocalStore(str(place / "out")))
    assert {path for path in before if path.suffix} <= set((place / "out").rglob("*"))
    (row,) = list_runs(LocalStore(str(place / "out")))
    assert row.status == "unreadable"
    line = one_line_error(
        fruitpipe("run", made / "images", place / "out", "--set", "model=reuse", "--set", BACKBONE, code=2)
    )
    assert name in line


@pytest.mark.parametrize(
    ("key", "table", "words"),
    [
        ("feature_parts", {"name": ["../../part.parquet"]}, "is not a name that fruitpipe gives"),
        ("feature_parts", {"nom": ["x"]}, "is no list of its feature_parts"),
        ("feature_parts", {"name": ["x" * 2000] * 1000}, "is no list of its feature_parts"),
        ("feature_parts", {"name": [["a"]]}, "is no list of its feature_parts"),
        ("files", {"name": ["../x"], "rows": [1], "bytes": [1], "sha256": ["x"]}, "is not a name that fruitpipe gives"),
        ("files", {"name": ["config.yaml"], "rows": [1], "bytes": ["x"], "sha256": ["x"]}, "is no list of its files"),
    ],
)
def test_a_list_may_say_anything(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, key: str, table: dict[str, Any], words: str
) -> None:
    """Whoever can write to a result can give it the right digest, too."""
    monkeypatch.setattr(long_lists, "LARGEST", 1 << 20)
    manifest = Manifest.read(RELEASED_BYTES)
    store.put(layout.manifest(manifest.run), put_lists(store, manifest))
    store.put(layout.MARKER, json.dumps({"layout": layout.VERSION}).encode())
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, use_dictionary=False)
    name = layout.manifest_list(key)
    document = json.loads(store.get(layout.manifest(manifest.run)))
    document[key] = File.of(name, sink.getvalue(), len(table[next(iter(table))])).model_dump()
    store.put(layout.run(manifest.run, name), sink.getvalue())
    store.put(layout.manifest(manifest.run), json.dumps(document).encode())
    with pytest.raises(UserError, match=words) as error:
        open_run(store, manifest.run)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["files", "feature_parts"])
def test_a_list_has_the_rows_that_were_written(key: str) -> None:
    entries: list[Any] = Manifest.read(RELEASED_BYTES).model_dump(mode="json")[key]
    tree, beside = long_lists.without_lists({"files": [], "feature_parts": [], key: entries})
    assert long_lists.with_lists(tree, beside.get)[key] == entries
    tree[key]["rows"] += 1
    with pytest.raises(ValueError, match="rows"):
        long_lists.with_lists(tree, beside.get)


def test_a_list_of_few_bytes_does_not_become_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of the same text again and again, of which a dictionary has one."""
    sink = io.BytesIO()
    schema = long_lists.SCHEMAS["feature_parts"]
    pq.write_table(pa.table({"name": ["x" * 500] * 200_000}, schema), sink, use_dictionary=True)
    assert len(sink.getvalue()) < 20_000
    monkeypatch.setattr(long_lists, "LARGEST", 1 << 20)
    with pytest.raises(ValueError, match="too large"):
        long_lists.unpacked(sink.getvalue(), schema)


def test_no_list_is_written_that_readers_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """For its bytes in memory, or in its file."""
    parts = [layout.part("a" * 64, f"{number:032x}") for number in range(20_000)]
    long_lists.without_lists({"files": [], "feature_parts": parts})
    with monkeypatch.context() as patch:
        patch.setattr(long_lists, "LARGEST", 1 << 20)
        with pytest.raises(FruitpipeError, match="gc OUT --delete --compact"):
            long_lists.without_lists({"files": [], "feature_parts": parts})
    monkeypatch.setitem(layout.MOST_BYTES, layout.manifest_list("feature_parts"), 1000)
    with pytest.raises(FruitpipeError, match="gc OUT --delete --compact"):
        long_lists.without_lists({"files": [], "feature_parts": parts})


def test_a_list_that_is_another_s_is_refused() -> None:
    entries = [layout.part("a" * 64, f"{number:032x}") for number in range(2000)]
    tree, beside = long_lists.without_lists({"files": [], "feature_parts": entries})
    others = long_lists.packed(pa.table({"name": entries[::-1]}, long_lists.SCHEMAS["feature_parts"]))
    with pytest.raises(ValueError, match="not the list"):
        long_lists.with_lists(tree, dict.fromkeys(beside, others).get)


def test_a_manifest_that_no_reader_takes_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.read(RELEASED.read_bytes())
    monkeypatch.setitem(layout.MOST_BYTES, layout.MANIFEST, 1000)
    with pytest.raises(FruitpipeError, match="more than readers take"):
        manifest.written()


@pytest.mark.parametrize("label", ["{:020}", '"{:020}\t\N{GREEN APPLE}'], ids=["plain", "with escapes"])
def test_labels_that_no_manifest_holds_are_refused_before_there_is_work(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most that are taken fit, and are most of what a manifest may be."""
    monkeypatch.setitem(layout.MOST_BYTES, layout.MANIFEST, most := 1 << 20)
    manifest = Manifest.read(RELEASED.read_bytes())
    labels = dict.fromkeys((label.format(number) for number in range(20_000)), 1234)

    def of(count: int) -> Summary:
        return manifest.plan.model_copy(update={"labels": dict(list(labels.items())[:count])})

    def is_refused(count: int) -> bool:
        try:
            require_few_labels(of(count))
        except UserError:
            return True
        return False

    first = bisect_left(range(len(labels)), True, key=is_refused)
    with pytest.raises(UserError, match=f"{first} labels are more than .*: set labels: none"):
        require_few_labels(of(first))
    plan = of(first - 1)
    counts = manifest.counts.model_copy(update={"by_label": plan.labels})
    document, _ = manifest.model_copy(update={"plan": plan, "counts": counts}).written()
    assert 0.88 * most < len(document) <= most
