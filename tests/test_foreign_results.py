"""Results and models that somebody else has made: they are data, end nothing and lead nowhere."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from command import fruitpipe, one_line_error
from conftest import a_stranger, nobody
from faults import Proxy, s3_error
from outside import install
from saved import write_model
from seaweed import BUCKET, Server

from fruitpipe import load_config
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import Config, ImageConfig, S3Config
from fruitpipe.engines import EngineSpec, custom
from fruitpipe.engines.visual_words import Detector, Vocabulary
from fruitpipe.errors import UserError
from fruitpipe.model.model import ARRAYS, CARD, PCA, Card, Model, load_model
from fruitpipe.numeric.arrays import read_arrays
from fruitpipe.numeric.pca import Pca
from fruitpipe.objects import Forbidden
from fruitpipe.pipeline import run as pipeline
from fruitpipe.pipeline.preview import plan
from fruitpipe.pipeline.reuse import model_to_reuse
from fruitpipe.result.compaction import Merge, compact
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.result.manifest import BackboneFacts, Counts, Manifest, ModelFacts, Outcome, Summary
from fruitpipe.result.runs import check_outside_results, check_place, is_marked, list_runs, open_run, publish
from fruitpipe.storage import layout, tree
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import LocalStore, Store, open_store

RUN, OTHER = "20260101-000000-0001", "20260102-000000-0002"
PART = layout.feature_part("a" * 64, [("a.jpg", "1")])
MIB = 1 << 20


def manifest(run_id: str = RUN) -> dict[str, Any]:
    """One as a run writes it."""
    now = datetime.now(UTC)
    found = Manifest(
        layout=layout.VERSION, run=run_id, started=now, finished=now, config=Config(input="a", output="b"),
        config_digest="c", features_digest="a" * 64, drift=None, files=[], feature_parts=[PART], timings={},
        worker_memory=0, warnings=[], versions={},
        backbone=BackboneFacts(
            name="n", layer="l", pooling="avg", input_size=8, dimension=3, parameters=0, digest="d"
        ),
        counts=Counts(images=1, ok=1, failed=0, by_status={"ok": 1}, by_label={}),
        plan=Summary(images=1, bytes=1, labels={}, new=1, changed=0, retried=0, known=0, known_failed=0, gone=0),
        model=ModelFacts(
            fitted_by=run_id, images=1, components=1, explained=1, explained_variance=[1],
            explained_variance_ratio=[1], reconstruction_error=0, reconstruction_error_p99=0,
        ),
    )  # fmt: skip
    document: dict[str, Any] = json.loads(found.model_dump_json())
    return document


def put_json(store: Store, name: str, document: object) -> None:
    store.put(name, json.dumps(document).encode())


@pytest.fixture
def result(store: LocalStore) -> LocalStore:
    """A result with a run, which is the latest, and its part of features."""
    put_json(store, layout.MARKER, {"layout": layout.VERSION})
    put_json(store, layout.manifest(RUN), manifest())
    put_json(store, layout.LATEST, {"run": RUN})
    store.put(PART, b"features")
    return store


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def peak_of(act: Callable[[], object]) -> int:
    """Bytes that were held at most while something was done."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# The store: names within it


@pytest.fixture
def outside(tmp_path: Path, store: LocalStore) -> Path:
    """A folder of somebody else's, which `features`, `a/deep` and a file of a result lead to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "x").write_bytes(b"theirs")
    (store.root / "features").symlink_to(folder)
    (store.root / "a").mkdir()
    (store.root / "a/deep").symlink_to(folder)
    (store.root / "linked").symlink_to(folder / "x")
    return folder


ACTS: dict[str, Callable[[Store, str], object]] = {
    "get": lambda store, name: store.get(name),
    "find": lambda store, name: store.find(name),
    "open": lambda store, name: store.open(name),
    "put": lambda store, name: store.put(name, b"ours"),
    "swap": lambda store, name: store.swap(name, None, b"ours"),
    "delete": lambda store, name: store.delete(name),
    "names": lambda store, name: list(store.names(name)),
    "entries": lambda store, name: list(store.entries(name)),
    "folders": lambda store, name: store.folders(name),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", ["features/x", "a/deep/x", "a/deep/y/z", "../outside/x", "a/../../outside/x", "/x"])
def test_no_name_leads_out_of_a_store(store: LocalStore, outside: Path, act: str, name: str) -> None:
    with pytest.raises(
        UserError, match=r"is a link, and none is followed|cannot be the name of a file or folder"
    ) as error:
        ACTS[act](store, name)
    one_line(error)
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("x", b"theirs")]


def test_a_file_is_not_moved_out_of_a_store(store: LocalStore, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ours")
    for name in ("features/x", "a/deep"):
        with pytest.raises((UserError, OSError)):
            store.upload(tmp_path / "file", f"{name}/x")
    store.upload(tmp_path / "file", "a/deep")
    assert store.get("a/deep") == b"ours", "in place of the link"
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("x", b"theirs")]


def test_what_is_written_takes_a_links_place(store: LocalStore, outside: Path) -> None:
    with pytest.raises(UserError, match="linked is a link"):
        store.get("linked")
    store.put("linked", b"ours")
    assert store.get("linked") == b"ours"
    store.delete("linked")
    assert (outside / "x").read_bytes() == b"theirs"


def test_a_folder_as_a_whole_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large-disk")
    store = LocalStore(str(tmp_path / "out"))
    store.create()
    assert store.swap("a/b", None, b"1")
    assert dict(store.names("a")) == {"a/b": 1}
    assert (tmp_path / "large-disk/a/b").read_bytes() == b"1"


def test_links_pipes_and_deep_folders_are_no_objects(store: LocalStore, outside: Path) -> None:
    store.put("a/b/ours", b"1")
    os.mkfifo(store.root / "a/pipe")
    deepest = store.root / "a" / "/".join("d" * 40)
    deepest.mkdir(parents=True)
    (deepest / "theirs").write_bytes(b"x")
    assert dict(store.names("a")) == {"a/b/ours": 1}
    others = {name for name, size in store.entries("a") if size is None}
    assert others == {"a/d/d/d/d/d/d/d/d", "a/deep", "a/pipe"}
    assert store.folders("a") == ["b", "d"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "pipe in a folder"])
def test_what_is_no_regular_file_is_refused_and_nobody_waits_for_it(store: LocalStore, kind: str) -> None:
    path = store.root / layout.LEASE
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path = path.with_name("a")
            path.mkdir()
            os.mkfifo(path / "b")
    name = layout.LEASE if path.name != "a" else "a/b"
    for act in ("get", "open", "swap"):
        with pytest.raises(UserError, match=r"is not a regular file: delete it|is a link"):
            ACTS[act](store, name)
    if name == layout.LEASE:
        with pytest.raises(UserError, match=r"is not a regular file: delete it|is a link"), Lease(store, "test"):
            pass


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_lock_that_is_no_regular_file_is_refused(store: LocalStore, kind: str) -> None:
    path = store.root / tree.LOCK
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    with pytest.raises((UserError, OSError), match=tree.LOCK):
        store.swap("x", None, b"1")


@pytest.mark.parametrize("name", [layout.LATEST, layout.LEASE, layout.MARKER, layout.manifest(RUN), "model.json"])
def test_what_is_larger_than_fruitpipe_makes_it_is_refused_unread(store: LocalStore, name: str) -> None:
    most = layout.most_bytes(name)
    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(100 * most)

    def refuse() -> None:
        with pytest.raises(UserError, match=r"is larger than the .* that such a file has at most"):
            store.find(name)

    assert peak_of(refuse) < MIB


def test_in_a_bucket_what_is_larger_than_fruitpipe_makes_it_is_refused(s3: S3Config) -> None:
    store = open_store(f"s3://{BUCKET}/foreign/{uuid4().hex}", s3)
    store.put(layout.LATEST, bytes(MIB + 1))
    for act in ("find", "swap"):
        with pytest.raises(UserError, match=r"latest\.json is larger than the 1\.0 MB"):
            ACTS[act](store, layout.LATEST)


@pytest.mark.parametrize("is_old", [False, True])
def test_who_may_only_read_cannot_lock(public_folder: Path, is_old: bool) -> None:
    store = LocalStore(str(public_folder))
    lock = store.root / tree.LOCK
    if is_old:
        lock.touch(0o644)  # as an earlier fruitpipe made it
    assert store.swap("x", None, b"1")
    assert lock.stat().st_mode & 0o777 == 0o600
    with a_stranger(), pytest.raises(PermissionError):
        lock.open("rb")


def test_what_is_forked_while_a_lock_is_held_holds_none(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "PATIENCE", 1.0)
    with store._tree.locked():
        if not (child := os.fork()):
            time.sleep(1000)
            os._exit(0)
    try:
        assert store.swap("x", None, b"1")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_nobody_waits_forever_for_a_lock(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "PATIENCE", 0.0)
    assert store.swap("x", None, b"1")
    with (store.root / tree.LOCK).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(UserError, match=r"another process has held .*\.lock for 0 s: end it") as error:
            store.swap("x", b"1", b"2")
        one_line(error)
    assert store.swap("x", b"1", b"2")


# Runs


def spoil(store: LocalStore, how: str) -> None:
    """A second run, whose manifest is not as fruitpipe writes one."""
    path = store.root / layout.manifest(OTHER)
    path.parent.mkdir()
    document = manifest(OTHER)
    match how:
        case "empty":
            path.write_bytes(b"")
        case "deep":
            path.write_bytes(b"[" * 100_000)
        case "of another run":
            document["run"] = RUN
        case "elsewhere":
            document["run"] = "../../../elsewhere"
        case "naive":
            document["started"] = "2026-01-01T00:00:00"
        case "of more images than numbers":
            document["plan"]["new"] = 10**400
        case "a part elsewhere":
            document["feature_parts"] = ["../../part.parquet"]
        case "a file elsewhere":
            document["files"] = [{"name": "../../../x", "bytes": 1, "sha256": "x"}]
        case "a pipe":
            os.mkfifo(path)
            return
        case "a link":
            path.symlink_to(store.root / layout.manifest(RUN))
            return
    if not path.exists():
        put_json(store, layout.manifest(OTHER), document)


SPOILT = (
    "empty", "deep", "of another run", "elsewhere", "naive", "of more images than numbers", "a part elsewhere",
    "a file elsewhere", "a pipe", "a link",
)  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_a_run_that_cannot_be_read_is_a_row_with_the_reason(result: LocalStore, how: str) -> None:
    spoil(result, how)
    good, bad = list_runs(result)
    assert (good.run, good.status) == (RUN, "latest")
    assert (bad.run, bad.status) == (OTHER, "unreadable")
    assert str(result.root / layout.manifest(OTHER)) in str(bad.reason)
    assert len(str(bad.reason).splitlines()) == 1
    shown = fruitpipe("runs", result.url).stdout
    assert f"{OTHER}  unreadable" in shown
    for act in (open_run, publish):
        with pytest.raises(UserError):
            act(result, OTHER)
    config = Config(input="a", output=result.url, model="reuse", reuse=OTHER)
    with pytest.raises(UserError):
        model_to_reuse(config, result)
    assert json.loads(result.get(layout.LATEST)) == {"run": RUN}


@pytest.mark.parametrize("how", SPOILT)
def test_gc_deletes_nothing_where_it_cannot_tell_what_a_run_needs(result: LocalStore, how: str) -> None:
    spoil(result, how)
    result.put(layout.outcome("20260103-000000-0003"), b"{}")
    before = sorted(path for path in result.root.rglob("*") if path.name != tree.LOCK)
    with pytest.raises(UserError) as error:
        collect(result)
    assert OTHER in one_line(error)
    assert sorted(path for path in result.root.rglob("*") if path.name != tree.LOCK) == before


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"run": "../../elsewhere"}', b'{"run": 5}', b'{"run": "photos"}', b"\xff"]
)
def test_a_latest_that_names_no_run_is_one_line_that_names_it(result: LocalStore, content: bytes) -> None:
    result.put(layout.LATEST, content)
    assert "latest.json" in one_line_error(fruitpipe("show", result.url, code=2))
    fruitpipe("publish", result.url, RUN)
    assert open_run(result).id == RUN


def test_only_ids_of_runs_are_runs(result: LocalStore) -> None:
    put_json(result, "runs/photos/manifest.json", manifest())
    (result.root / "runs" / OTHER).symlink_to(result.root / "runs" / RUN)
    assert [row.run for row in list_runs(result)] == [RUN]
    for name in ("photos", "../runs/photos", f"{RUN}/", "..", OTHER):
        with pytest.raises(UserError):
            open_run(result, name)


def test_what_a_manifest_says_is_data(result: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of classes, families, formats and stages load nothing, and text does nothing to a terminal."""
    started = tmp_path / "started"
    code = f"open({str(started)!r}, 'w')\nclass Part: names, pattern = ('theirs',), None"
    groups = ("backbones", "engines", "sinks", "stages")
    (tmp_path / "site").mkdir()
    entries = {f"fruitpipe.{group}": {"theirs": "foreign_part:Part"} for group in groups}
    install(tmp_path / "site", "foreign_part", code, entries, monkeypatch)
    document = manifest()
    document["config"] |= {"backbone": "unheard_of", "formats": ["theirs"], "weights": "/dev/zero.h5"}
    document["backbone"]["engine"] = "theirs"
    document["warnings"] = ["\x1b[2Jgone [/markup]"]
    document |= {"theirs": {"label": "theirs", "title": "", "note": "\x07"}, "other": 5, "half": {"label": 5}}
    put_json(result, layout.manifest(RUN), document)
    now = datetime.now(UTC)
    ended = Outcome(run=OTHER, status="failed", reason="[/x] [red]\x1b", started=now, finished=now)
    result.put(layout.outcome(OTHER), ended.model_dump_json().encode())
    shown = fruitpipe("show", result.url).stdout
    assert "\\x1b[2Jgone [/markup]" in shown
    assert "[/x] [red]\\x1b" in fruitpipe("runs", result.url).stdout
    assert "\x1b" not in shown
    assert not started.exists()
    document["config"]["backbone"] = "foreign_class:Mine"
    put_json(result, layout.manifest(RUN), document)
    fruitpipe("show", result.url)
    assert not started.exists()


@pytest.mark.parametrize("place", ["latest", "features", "runs"])
def test_an_output_that_cannot_hold_results_is_told_before_there_is_work(
    fruits: Path, store: LocalStore, tmp_path: Path, place: str
) -> None:
    if place == "latest":
        os.mkfifo(store.root / layout.LATEST)
    else:
        (tmp_path / "outside").mkdir()
        (store.root / place).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=place):
        pipeline.run(load_config(input=str(fruits), output=store.url))
    assert not store.folders("runs") if place != "runs" else not list((tmp_path / "outside").iterdir())


# What is cleared away


@pytest.mark.parametrize("place", ["", "features/mine"])
def test_what_is_closed_to_us_is_no_result_that_is_in_the_way(place: str, public_folder: Path) -> None:
    """As `lost+found` on a disk of its own, and folders above the output that may be gone through and not be read."""
    (public_folder / "lost+found").mkdir(mode=0o700)
    (output := public_folder / place).mkdir(parents=True, exist_ok=True)
    public_folder.chmod(0o711 if place else 0o755)
    with nobody():
        check_outside_results(str(output), None)
        check_place(LocalStore(str(output)))


def test_of_a_bucket_what_is_forbidden_is_not_in_the_way_either(store: LocalStore, tmp_path: Path) -> None:
    """A role may be for one prefix alone."""

    class Theirs(LocalStore):
        def find(self, name: str) -> bytes | None:
            raise Forbidden(f"no right to read {name}.")

    assert not is_marked(Theirs(store.url))
    assert not is_marked(Theirs(store.url), "runs")


def test_gc_says_what_it_leaves_alone(result: LocalStore) -> None:
    unneeded = layout.feature_part("b" * 64, [("b", "1")])
    result.put(unneeded, b"x")
    result.put("features/photo.jpg", b"x")
    bad = "runs/\udcff\x1b\n.jpg"
    result.put(bad, b"x")
    found = json.loads(fruitpipe("gc", result.url, "--json").stdout)
    assert found["objects"] == [unneeded]
    assert found["left_alone"] == ["features/photo.jpg", bad]
    told = fruitpipe("gc", result.url, "--delete").stdout
    assert "left alone, as not fruitpipe's: features/photo.jpg, runs/\\xff\\x1b\\x0a.jpg\n" in told
    assert "\x1b" not in told
    assert {name for name, _ in result.names("features")} == {PART, "features/photo.jpg"}


@pytest.mark.parametrize("kind", ["others' files", "another name", "damaged"])
def test_a_record_of_compaction_makes_nobody_delete_what_is_not_a_part(result: LocalStore, kind: str) -> None:
    theirs = "features/photo.jpg"
    result.put(theirs, b"mine")
    made = Merge(parts=[], replaced=[PART])
    document = json.loads(made.model_dump_json())
    name = layout.merge_record([PART])
    match kind:
        case "others' files":
            document["replaced"] = [theirs]
        case "another name":
            name = layout.merge_record([layout.feature_part("a" * 64, [("z", "1")])])
        case _:
            document = []
    put_json(result, name, document)
    for act in (compact, collect):
        with pytest.raises(UserError, match=name) as error:
            act(result)
        one_line(error)
    assert result.get(theirs) == b"mine"
    assert result.get(PART) == b"features"


def test_on_s3_unfinished_uploads_of_others_are_shown_and_stay(server: Server, s3: S3Config, admin: Any) -> None:
    prefix = f"foreign/{uuid4().hex}"
    out = f"s3://{BUCKET}/{prefix}"
    store = open_store(out, s3)
    put_json(store, layout.MARKER, {"layout": layout.VERSION})
    left = layout.vectors(OTHER, 0)
    for name in (left, "dump.sql", "features/dump.sql", f"runs/{OTHER}/x.sql"):
        admin.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{name}")
    others = ["dump.sql", "features/dump.sql", f"runs/{OTHER}/x.sql"]
    options = ("--set", f"s3.endpoint={server.endpoint}", "--set", "s3.allow_http=true")
    shown = fruitpipe("gc", out, *options).stdout
    assert f"    upload  {left}\nwould delete 0 objects and 1 unfinished upload, 0 B\n" in shown
    assert f"left alone, as not fruitpipe's: {', '.join(others)}\n" in shown
    assert "next: fruitpipe gc" in shown
    assert len(store.uploads()) == 4
    done = json.loads(fruitpipe("gc", out, "--delete", *options, "--json").stdout)
    assert (done["uploads"], done["left_alone"]) == ([left], others)
    assert [each.name for each in store.uploads()] == others
    assert find_garbage(store).uploads == []


def test_without_a_right_to_list_uploads_the_rest_is_cleared_away(proxy: Proxy, s3: S3Config) -> None:
    out = f"s3://{BUCKET}/foreign/{uuid4().hex}"
    store = open_store(out, s3)
    put_json(store, layout.MARKER, {"layout": layout.VERSION})
    store.put(PART, b"no run needs it")
    proxy.rewrite = lambda method, path, headers: s3_error(403, "AccessDenied") if "?uploads" in path else None
    options = ("--set", f"s3.endpoint={proxy.endpoint}", "--set", "s3.allow_http=true")
    told = fruitpipe("gc", out, "--delete", *options).stdout
    assert "deleted 1 object, 15 B\n" in told
    assert f"note: no right to list uploads to {out} (s3:ListBucketMultipartUploads)" in told
    assert store.find(PART) is None


def test_on_s3_images_among_the_results_are_refused(s3: S3Config) -> None:
    place = f"foreign/{uuid4().hex}"
    out = f"s3://{BUCKET}/{place}/out"
    open_store(out, s3).put("runs/2026/a.jpg", b"x")
    for images in (out, f"{out}/runs/", f"{out}/runs/2026", f"{out}/runs/*/*.jpg"):
        with pytest.raises(UserError, match=r"is input and output|is in runs/ of the output"):
            plan(load_config(input=images, output=out, s3=s3.model_dump(exclude_unset=True)))


# Models


def pca_of(d: int = 3) -> Pca:
    return Pca(np.zeros(d), np.ones(d), np.eye(d)[:2].copy(), np.ones(d))


def model_in(folder: Path, engine: EngineSpec, pca: Pca | None = None, **changes: Any) -> Path:
    card = Card(
        run=RUN, backbone="b", features="f", image=ImageConfig(), images=1, reconstruction_error=0,
        reconstruction_error_p99=0, extractor=engine.digest, engine=engine.kind,
    )  # fmt: skip
    return write_model(Model(card.model_copy(update=changes), pca or pca_of(), engine), folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose engine nobody starts."""
    return model_in(tmp_path / "model", EngineSpec("litert", b"no flatbuffer"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_model(folder)
    return one_line(error)


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array_header_1_0(sink, {"descr": descr, "fortran_order": False, "shape": shape})
    return sink.getvalue()


def bombs() -> dict[str, Callable[[Path], None]]:
    def compressed(path: Path) -> None:
        np.savez_compressed(path, **vars(pca_of()) | {"components": np.zeros((2000, 10_000))})

    def promised(path: Path, shape: tuple[int, ...] = (1 << 20, 1 << 20)) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in vars(pca_of()):
                archive.writestr(f"{name}.npy", header(shape if name == "components" else (3,)) + bytes(24))

    def forged(path: Path, size: int = 1 << 18) -> None:
        """Compressed, but as long as its header says in the archive's directory."""
        deflate = zlib.compressobj(wbits=-15)
        numbers = (size - len(header((1, 1)))) // 8
        body = deflate.compress(header((1, numbers)) + bytes(160 * MIB)) + deflate.flush()
        with zipfile.ZipFile(path, "w") as archive:
            for name in vars(pca_of()):
                data = body.ljust(size, b"\0") if name == "components" else header((3,)) + bytes(24)
                archive.writestr(f"{name}.npy", data)
            member = archive.getinfo("components.npy")
        data = bytearray(path.read_bytes())
        in_directory = data.rindex(b"PK\1\2", 0, data.rindex(member.filename.encode()))
        for method in (member.header_offset + 8, in_directory + 10):
            data[method] = zipfile.ZIP_DEFLATED
        path.write_bytes(data)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(3 << 30)

    def nested(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in vars(pca_of()):
                text = b"-" * 9000 + b"1"
                archive.writestr(f"{name}.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)

    return {
        "compressed": compressed,
        "promised": promised,
        "forged": forged,
        "negative": lambda path: promised(path, (-1, -3)),
        "sparse": sparse,
        "nested": nested,
        "of another type": lambda path: np.savez(path, **vars(pca_of()) | {"mean": np.zeros(3, np.complex128)}),
        "that do not fit": lambda path: np.savez(path, **vars(pca_of()) | {"scale": np.zeros(4)}),
        "without components": lambda path: np.savez(path, **vars(pca_of()) | {"components": np.zeros((0, 3))}),
    }


@pytest.mark.parametrize("kind", bombs())
def test_arrays_that_ask_for_memory_are_refused_before_they_are_made(folder: Path, kind: str) -> None:
    bombs()[kind](folder / PCA)
    assert peak_of(lambda: refused(folder)) < 8 * MIB


def test_damaged_arrays_are_read_or_refused(folder: Path) -> None:
    data = (folder / PCA).read_bytes()
    random, outcomes = np.random.default_rng(0), set()
    for _ in range(2000):
        damaged = bytearray(data)
        for place in random.integers(len(data), size=3):
            damaged[place] = random.integers(256)
        try:
            read_arrays(io.BytesIO(damaged), ARRAYS)
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_card_that_is_no_card_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / CARD
    card = json.loads(path.read_text())
    for changed in (
        card | {"run": "../../elsewhere"}, card | {"unreduced": -1}, card | {"engine": ["litert"]}, [card]
    ):  # fmt: skip
        path.write_text(json.dumps(changed))
        assert "model.json" in refused(folder)
    path.write_bytes(b"[" * 100_000)
    assert "model.json" in refused(folder)
    with path.open("wb") as file:
        file.truncate(1 << 32)
    assert peak_of(lambda: refused(folder)) < 8 * MIB
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in refused(folder)
    path.unlink()
    path.symlink_to(tmp_path / "card")
    assert "is a link" in refused(folder)


def test_parts_of_two_models_are_told_apart(fruits: Path, lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model", EngineSpec("litert", lite0[1].read_bytes()))
    image = next(fruits.rglob("*.jpg"))
    with pytest.raises(UserError, match="takes 3 features, and its backbone gives 1280"):
        list(load_model(folder).transform_images(image))


def test_a_flatbuffer_that_is_none_is_one_line(fruits: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"litert cannot run backbone\.tflite") as error:
        list(load_model(folder).transform_images(next(fruits.rglob("*.jpg"))))
    one_line(error)


@pytest.mark.parametrize(
    "changes", [{"name": "evil"}, {"side": 1 << 30}, {"keypoints": 1 << 40}, {"words": np.zeros((5, 7), np.float32)}]
)
def test_words_that_no_run_has_learnt_are_refused(fruits: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    good = {"words": np.zeros((5, 256), np.float32), "name": "orb", "side": 320, "keypoints": 500}
    assert Vocabulary.from_bytes(saved(good)).detector == Detector("orb", 320, 500)
    folder = model_in(tmp_path / "model", EngineSpec("words", saved(good | changes)), pca_of(5))
    with pytest.raises(UserError, match=r"words cannot run vocabulary\.npz"):
        list(load_model(folder).transform_images(next(fruits.rglob("*.jpg"))))
    reuse = load_config(
        input=str(fruits), output=str(tmp_path / "out"), backbone="orb", model="reuse", reuse=str(folder)
    )
    with pytest.raises(UserError, match="the words of the model to reuse are damaged"):
        plan(reuse)


def saved(arrays: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


ENGINE = """
    from pathlib import Path
    Path("{started}").touch()
    class Theirs:
        side, dimension, batch = 8, 3, 4
        def __init__(self, source, device): pass
        def run(self, batch, out): return {{}}
"""


def test_an_engine_of_another_package_runs_only_if_the_caller_names_it(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, site = tmp_path / "started", tmp_path / "site"
    site.mkdir()
    entries = {"fruitpipe.engines": {"theirs": "foreign_engine:Theirs"}}
    install(site, "foreign_engine", ENGINE.format(started=started), entries, monkeypatch)
    folder = model_in(tmp_path / "model", EngineSpec("theirs", b"anything"))
    image = next(fruits.rglob("*.jpg"))
    arguments = ("transform", folder, image.parent, tmp_path / "out.parquet")
    for named in ((), ("--backbone", "mobilenet_v2"), ("--backbone", "foreign_engine:Other")):
        said = one_line_error(fruitpipe(*arguments, *named, code=2))
        assert "a class, foreign_engine:Theirs, whose code would run here: if you trust it, say so" in said
    assert load_model(folder).transform(np.ones((2, 3))).shape == (2, 2)
    assert not started.exists()
    fruitpipe(*arguments, "--backbone", "foreign_engine:Theirs")
    assert started.exists()


@pytest.mark.parametrize("document", [b"", b"[]", b'{"class": 5}', b'{"class": "os:system"}', b"[" * 100_000])
def test_an_artefact_of_a_class_that_is_none_is_refused(tmp_path: Path, document: bytes) -> None:
    assert "cannot read the model" in refused(model_in(tmp_path / "model", EngineSpec("python", document)))


def test_the_working_folder_counts_only_for_a_module_that_is_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, site = tmp_path / "here", tmp_path / "site"
    for each in (here, site):
        each.mkdir()
    name = f"module_{uuid4().hex}"
    (site / f"{name}.py").write_text("where = 'site'")
    (here / f"{name}.py").write_text("where = 'here'")
    (here / f"{name}_here.py").write_text("where = 'here'")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(site), *(each for each in sys.path if each)])
    before = list(sys.path)
    assert custom.import_user_module(name).where == "site"
    for missing in (f"{name}_nowhere", f"{name}.nothing"):
        with pytest.raises(ModuleNotFoundError):
            custom.import_user_module(missing)
    assert sys.path == before
    assert custom.import_user_module(f"{name}_here").where == "here"


def test_a_model_to_reuse_is_not_looked_for_behind_a_link(result: LocalStore, folder: Path) -> None:
    (result.root / layout.model(RUN)).symlink_to(folder)
    for name in ("latest", RUN):
        with pytest.raises(UserError, match="is a link, and none is followed"):
            model_to_reuse(Config(input="a", output=result.url, model="reuse", reuse=name), result)
    reused = model_to_reuse(Config(input="a", output=result.url, model="reuse", reuse=str(folder)), result)
    assert reused
    assert reused.card.run == RUN
