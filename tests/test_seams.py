"""What other packages may add to fruitpipe, each shown by one that changes no file of it.

Runs are processes of their own, whose Spark and workers begin with what is installed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, fruitpipe, manifest, one_line_error, process, vectors
from outside import install
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import fruitpipe as package

STAGE = """
    import numpy as np

    from fruitpipe.pipeline.stage import Context
    from fruitpipe.result.manifest import Record


    class Brightness:
        \"\"\"How strong features are, by label; only where there are labels.\"\"\"

        def wanted(self, config):
            return config.labels == "parent"

        def run(self, context: Context) -> Record:
            features, labels = context.sample(100)
            means = {label: float(features[labels == label].mean()) for label in sorted(set(labels.tolist()))}
            return Record(
                label="strength",
                title="Mean of features, by label",
                note=f"of {len(labels)} images, {context.model.pca.length} components",
                columns=["label", "mean"],
                rows=[[label, f"{mean:.4f}"] for label, mean in means.items()],
                means=means,
            )
"""

SINK = """
    import io
    import os
    import signal
    import sqlite3
    from contextlib import closing
    from pathlib import Path

    import pyarrow.parquet as pq

    from fruitpipe.errors import FruitpipeError
    from fruitpipe.sinks import vectors_of
    from fruitpipe.storage import layout
    from fruitpipe.storage.file import File


    def die_once(moment):
        \"\"\"Be killed at the moment that the test has chosen, the first time.\"\"\"
        folder = Path(os.environ["SINK_FOLDER"])
        if (folder / moment).exists():
            (folder / moment).rename(folder / f"died {moment}")
            os.kill(os.getpid(), signal.SIGKILL)


    class Sqlite:
        \"\"\"Rows of the last run in a database that all runs share; parts are staged as objects of the run.\"\"\"

        def __init__(self, store, run, one_file):
            self.store, self.run = store, run

        def write(self, number, table):
            sink = io.BytesIO()
            pq.write_table(table, sink)
            name = layout.work(self.run, f"sqlite-{number}.parquet")
            self.store.put(name, sink.getvalue())
            die_once("after a part")
            return File.of(layout.within(self.run, name), sink.getvalue(), len(table))

        def commit(self, parts, scratch):
            assert not list(scratch.iterdir())
            die_once("before the commit")
            with closing(sqlite3.connect(os.environ["SINK_FOLDER"] + "/all.sqlite")) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS vectors (path TEXT, vector BLOB)")
                database.execute("DELETE FROM vectors")
                for part in parts:
                    table = pq.read_table(self.store.open(layout.run(self.run, part.name)))
                    rows = [vector.tobytes() for vector in vectors_of(table)]
                    database.executemany("INSERT INTO vectors VALUES (?, ?)", zip(table["path"].to_pylist(), rows))
                die_once("amid the commit")
            die_once("after the commit")
            if Path(os.environ["SINK_FOLDER"], "refuse").exists():
                raise FruitpipeError("the database does not like it")
            name = layout.sink(self.run, "sqlite", "receipt.txt")
            self.store.put(name, b"all there")
            return [File.of(layout.within(self.run, name), b"all there")]

        def abort(self):
            Path(os.environ["SINK_FOLDER"], f"aborted {self.run}").touch()
"""


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a sink that is installed under the name `sqlite`: its database, and moments at which it is to die."""
    (tmp_path / "site").mkdir()
    install(
        tmp_path / "site", "outside_sink", SINK, {"fruitpipe.sinks": {"sqlite": "outside_sink:Sqlite"}}, monkeypatch
    )
    folder = tmp_path / "sink"
    folder.mkdir()
    monkeypatch.setenv("SINK_FOLDER", str(folder))
    return folder


def rows(folder: Path) -> list[tuple[str, bytes]]:
    """What a reader of the database sees."""
    if not (folder / "all.sqlite").exists():
        return []
    with closing(sqlite3.connect(folder / "all.sqlite")) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return database.execute("SELECT path, vector FROM vectors ORDER BY path").fetchall() if tables[0] else []


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Readers look at the database all the time meanwhile; fails where one has seen a row twice, or half of them."""
    seen: set[tuple[int, int]] = set()
    end = threading.Event()

    def read() -> None:
        while not end.wait(0.01):
            paths = [path for path, _ in rows(folder)]
            seen.add((len(paths), len(set(paths))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        end.set()
        reader.join()
    assert seen <= {(0, 0), (320, 320)}


def published(out: Path) -> list[tuple[str, bytes]]:
    """The rows of the latest run, as its Parquet has them."""
    table = vectors(out)
    values = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return sorted(zip(table["path"].to_pylist(), (row.tobytes() for row in values), strict=True))


@pytest.mark.slow
def test_a_sink_from_outside_takes_the_vectors_and_a_killed_task_writes_no_row_twice(
    fruits: Path, tmp_path: Path, sqlite: Path
) -> None:
    out = tmp_path / "out"
    (sqlite / "after a part").touch()
    with reading(sqlite):
        process("run", fruits, out, "--set", BACKBONE, "--set", "formats=[sqlite, csv]", "--set", "one_file=true")
    assert (sqlite / "died after a part").exists(), "a Python worker, whose task was run again"
    assert rows(sqlite) == published(out)
    document = manifest(out)
    folder = out / "runs" / document["run"]
    assert [file["name"] for file in document["files"]][:3] == [
        "vectors/part-00000.parquet", "sinks/sqlite/receipt.txt", "vectors.csv"
    ]  # fmt: skip
    assert (folder / "sinks/sqlite/receipt.txt").read_text() == "all there"
    assert not (folder / "work").exists()
    assert not list(sqlite.glob("aborted*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the commit", "amid the commit", "after the commit"])
def test_a_run_that_is_killed_around_a_commit_and_the_next_one_show_no_row_twice(
    moment: str, fruits: Path, tmp_path: Path, sqlite: Path
) -> None:
    out = tmp_path / "out"
    (sqlite / moment).touch()
    with reading(sqlite):
        process("run", fruits, out, "--set", BACKBONE, "--set", "formats=[sqlite]", code=-signal.SIGKILL)
        assert (sqlite / f"died {moment}").exists()
        assert not list(out.glob("runs/*/manifest.json"))
        process("run", fruits, out, "--set", BACKBONE, "--set", "formats=[sqlite]")
    assert rows(sqlite) == published(out)
    fruitpipe("gc", out, "--delete")
    assert len(list((out / "runs").iterdir())) == 1, "nothing of the killed run is left"


@pytest.mark.slow
def test_a_sink_whose_run_is_not_published_is_told_so(fruits: Path, tmp_path: Path, sqlite: Path) -> None:
    out = tmp_path / "out"
    (sqlite / "refuse").touch()
    done = process("run", fruits, out, "--set", BACKBONE, "--set", "formats=[sqlite]", code=1)
    assert "the database does not like it" in one_line_error(done)
    (run,) = (out / "runs").iterdir()
    assert (sqlite / f"aborted {run.name}").exists()


@pytest.mark.slow
def test_a_format_is_one_that_is_installed_and_earlier_runs_stay_readable_without_it(
    fruits: Path, tmp_path: Path, sqlite: Path
) -> None:
    process("run", fruits, tmp_path / "out", "--set", BACKBONE, "--set", "formats=[sqlite]")
    told = one_line_error(process("run", fruits, tmp_path / "no", "--set", "formats=[sqlight]", code=2))
    assert "formats.0: 'sqlight' is not one of json, csv, csv-raw, sqlite. Did you mean 'sqlite'?" in told
    schema = json.loads(fruitpipe("schema").stdout)
    assert schema["properties"]["formats"]["items"] == {"type": "string", "enum": ["json", "csv", "csv-raw", "sqlite"]}
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone["PYTHONPATH"] = str(Path(package.__file__).parents[1])
    told = one_line_error(process("run", fruits, tmp_path / "no", "--set", "formats=[sqlite]", code=2, variables=alone))
    assert "formats.0: 'sqlite' is not one of json, csv, csv-raw." in told
    shown = json.loads(process("show", tmp_path / "out", "--json", variables=alone).stdout)
    assert shown["config"]["formats"] == ["sqlite"]


@pytest.mark.slow
def test_a_stage_from_outside_is_in_manifest_show_and_report(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    entries = {"fruitpipe.stages": {"strength": "outside_stage:Brightness"}}
    install(tmp_path / "site", "outside_stage", STAGE, entries, monkeypatch)
    out = tmp_path / "out"
    fruitpipe("run", fruits, out, "--set", BACKBONE)
    found = manifest(out)
    assert found["strength"]["means"].keys() == found["counts"]["by_label"].keys()
    assert all(mean > 0 for mean in found["strength"]["means"].values())
    assert "strength" in found["timings"]
    shown = fruitpipe("show", out).stdout
    assert f"strength    of 100 images, {found['model']['components']} components\n" in shown
    assert f"  Apple     {found['strength']['means']['Apple']:.4f}\n" in shown
    assert json.loads(fruitpipe("show", out, "--json").stdout)["strength"] == found["strength"]
    page = (out / "runs" / found["run"] / "report.html").read_text()
    assert "<h2>Mean of features, by label</h2>" in page
    assert f'<td>Apple</td><td class="count">{found["strength"]["means"]["Apple"]:.4f}</td>' in page
    fruitpipe("run", fruits, out, "--set", BACKBONE, "--set", "labels=none")
    assert manifest(out)["strength"] is None


def test_a_plug_in_that_cannot_be_loaded_or_claims_a_name_that_is_taken_is_one_line(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code, entry, says in (
        ("broken_stage", "import nowhere_to_be_found", "mine", "cannot load broken_stage:Stage: No module named"),
        ("rival_stage", "Stage = None", "evaluation", "rival_stage:Stage claims a name that is taken"),
        ("greedy_stage", "Stage = None", "counts", "a stage may not be called counts"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as patch:
            install(folder, name, code, {"fruitpipe.stages": {entry: f"{name}:Stage"}}, patch)
            done = process("run", fruits, tmp_path / "out", "--set", BACKBONE, code=2)
            assert says in one_line_error(done)
    assert not (tmp_path / "out").exists(), "told before anything is made"


TILES = """
    import hashlib
    import json
    from pathlib import Path

    import numpy as np

    from fruitpipe.backbones.backbone import Backbone
    from fruitpipe.backbones.family import Listed
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.engines import EngineSpec

    SIDES = {"tiles8": 8, "tiles16": 16}


    class Tiles:
        \"\"\"Mean colours of 4 x 4 tiles: 48 numbers.\"\"\"

        names = tuple(SIDES)
        pattern = None
        keys = frozenset()
        defaults = {"image": {"resample": "bilinear", "decode": "exact"}}
        learns = False

        def listed(self, name, environment):
            return Listed(name, 48, SIDES[name], None, None)

        def worker_memory(self, config):
            return 10_000_000

        def resolve(self, config, environment, learning=None):
            side = SIDES[config.backbone]
            data = json.dumps({"side": side, "log": str(environment.cache / "batches")}).encode()
            facts = Backbone(
                name=config.backbone, input_size=side, layer="tiles", pooling="avg",
                weights=hashlib.sha256(data).hexdigest(), dimension=48, parameters=0,
            )
            return ResolvedBackbone.of(config, facts, EngineSpec("tiles", data, device="board"))


    class TilesEngine:
        dimension, batch = 48, 5

        def __init__(self, source, device):
            settings = json.loads(source)
            self.side, self.log, self.device = settings["side"], Path(settings["log"]), device

        def run(self, batch, out):
            with self.log.open("a") as log:
                log.write(f"{self.device} {len(batch)} {batch.shape[1:]} {batch.dtype}\\n")
            tile = self.side // 4
            tiles = batch.reshape(-1, 4, tile, 4, tile, 3).astype(np.float32)
            out[...] = tiles.mean(axis=(2, 4)).reshape(len(batch), -1)
            return {}
"""
TILES_ENTRIES = {
    "fruitpipe.backbones": {"tiles": "outside_tiles:Tiles"},
    "fruitpipe.engines": {"tiles": "outside_tiles:TilesEngine"},
}


def mean_colours(path: Path) -> np.ndarray[Any, Any]:
    """of 4 x 4 tiles of 2 x 2 pixels"""
    pixels = np.asarray(Image.open(path).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR))
    return pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)).ravel()


@pytest.mark.slow
def test_a_backbone_family_and_an_engine_from_outside_are_like_those_that_come_with_process(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITPIPE_CACHE", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))  # so that `doctor` does not start Spark
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        (tmp_path / "site").mkdir()
        install(tmp_path / "site", "outside_tiles", TILES, TILES_ENTRIES, patch)
        listed = json.loads(fruitpipe("backbones", "--json").stdout)
        facts = {"dimension": 48, "parameters": None, "bytes": None}
        assert listed[-2:] == [
            {"name": "tiles8", "input_size": 8, **facts},
            {"name": "tiles16", "input_size": 16, **facts},
        ]
        assert "tiles16" in str(json.loads(fruitpipe("schema").stdout)["properties"]["backbone"])
        found = json.loads(fruitpipe("doctor", "--set", "backbone=tiles8", "--json", code=2).stdout)
        told = {each["subject"]: each["message"] for each in found}
        assert re.search(r"need about \d{5,}\.\d GB", told["memory"]), "10 TB a worker"
        assert "48 features" in told["weights"]
        assert "run by tiles" in told["weights"]
        for verb, assignments, says in (
            ("plan", ["backbone=tiles9"], "Did you mean 'tiles8'?"),
            ("plan", ["backbone=tiles8", "layer=top"], "tiles8 has no layer"),
            ("convert", ["backbone=tiles8"], "there is nothing to convert"),
        ):
            options = [part for each in assignments for part in ("--set", each)]
            places = [fruits, out] if verb == "plan" else []
            assert says in one_line_error(fruitpipe(verb, *places, *options, code=2))

        patch.delenv("JAVA_HOME")
        process("run", fruits, out, "--backbone", "tiles8", "--components", "7")
        done = manifest(out)
        assert (done["backbone"]["engine"], done["config"]["image"]["resample"]) == ("tiles", "bilinear")
        paths = sorted(fruits.rglob("*.jpg"))
        standard = StandardScaler().fit_transform(np.stack([mean_colours(path) for path in paths]))
        expected = PCA(7, svd_solver="full").fit_transform(standard)
        table = vectors(out)
        assert [Path(path) for path in table["path"].to_pylist()] == paths
        ours = np.stack(table["vector"].to_pylist())
        np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-3)
        batches = [line.split(maxsplit=2) for line in (tmp_path / "batches").read_text().splitlines()]
        assert {(device, shape) for device, _, shape in batches} == {("board", "(8, 8, 3) uint8")}
        sizes = [int(size) for _, size, _ in batches]
        assert (max(sizes), sum(sizes)) == (5, len(paths))
        again = json.loads(fruitpipe("plan", fruits, out, "--set", "backbone=tiles8", "--json").stdout)
        assert again["known"] == len(paths)
        model = out / "runs" / done["run"] / "model"
        assert json.loads((model / "backbone.bin").read_text())["side"] == 8
        refused = fruitpipe("transform", model, fruits, tmp_path / "again.parquet", code=2)
        assert "a class, outside_tiles:TilesEngine, whose code would run here" in one_line_error(refused)
        named = ("--backbone", "outside_tiles:TilesEngine")
        fruitpipe("transform", model, fruits, tmp_path / "again.parquet", *named)
        applied = np.stack(pq.read_table(tmp_path / "again.parquet").sort_by("path")["vector"].to_pylist())
        np.testing.assert_allclose(applied, ours, atol=1e-4)

    # The package is gone.
    assert f"{done['run']} " in fruitpipe("runs", out).stdout
    assert "run by tiles" in fruitpipe("show", out).stdout
    lost = fruitpipe("transform", model, fruits, tmp_path / "lost.parquet", code=2)
    assert "no engine tiles is installed here" in one_line_error(lost)
    assert "'tiles8' is not a known backbone" in one_line_error(
        fruitpipe("plan", fruits, out, "-s", "backbone=tiles8", code=2)
    )


def test_a_family_that_claims_another_ones_backbone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = "class Rival:\n    names, pattern = ('vgg16',), None"
    install(tmp_path, "rival_family", rival, {"fruitpipe.backbones": {"rival": "rival_family:Rival"}}, monkeypatch)
    assert "rival: vgg16 is a backbone that is there already" in one_line_error(fruitpipe("backbones", code=2))
