"""What other packages may add to fruitpipe, each shown by one that changes no file of it.

Commands are processes of their own: what is installed is found out once in each.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from command import BACKBONE, manifest, one_line_error, process, vectors
from outside import install

import fruitpipe

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
    process("gc", out, "--delete")
    assert len(list((out / "runs").iterdir())) == 1, "nothing of the killed run is left"


def test_a_sink_whose_run_is_not_published_is_told_so(fruits: Path, tmp_path: Path, sqlite: Path) -> None:
    out = tmp_path / "out"
    (sqlite / "refuse").touch()
    done = process("run", fruits, out, "--set", BACKBONE, "--set", "formats=[sqlite]", code=1)
    assert "the database does not like it" in one_line_error(done)
    (run,) = (out / "runs").iterdir()
    assert (sqlite / f"aborted {run.name}").exists()


def test_a_format_is_one_that_is_installed_and_earlier_runs_stay_readable_without_it(
    fruits: Path, tmp_path: Path, sqlite: Path
) -> None:
    process("run", fruits, tmp_path / "out", "--set", BACKBONE, "--set", "formats=[sqlite]")
    told = one_line_error(process("run", fruits, tmp_path / "no", "--set", "formats=[sqlight]", code=2))
    assert "formats.0: 'sqlight' is not one of json, csv, sqlite. Did you mean 'sqlite'?" in told
    schema = json.loads(process("schema").stdout)
    assert schema["properties"]["formats"]["items"] == {"type": "string", "enum": ["json", "csv", "sqlite"]}
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone["PYTHONPATH"] = str(Path(fruitpipe.__file__).parents[1])
    told = one_line_error(process("run", fruits, tmp_path / "no", "--set", "formats=[sqlite]", code=2, variables=alone))
    assert "formats.0: 'sqlite' is not one of json, csv." in told
    shown = json.loads(process("show", tmp_path / "out", "--json", variables=alone).stdout)
    assert shown["config"]["formats"] == ["sqlite"]


def test_a_stage_from_outside_is_in_manifest_show_and_report(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    entries = {"fruitpipe.stages": {"strength": "outside_stage:Brightness"}}
    install(tmp_path / "site", "outside_stage", STAGE, entries, monkeypatch)
    out = tmp_path / "out"
    process("run", fruits, out, "--set", BACKBONE)
    found = manifest(out)
    assert found["strength"]["means"].keys() == found["counts"]["by_label"].keys()
    assert all(mean > 0 for mean in found["strength"]["means"].values())
    assert "strength" in found["timings"]
    shown = process("show", out).stdout
    assert f"strength    of 100 images, {found['model']['components']} components\n" in shown
    assert f"  Apple     {found['strength']['means']['Apple']:.4f}\n" in shown
    assert json.loads(process("show", out, "--json").stdout)["strength"] == found["strength"]
    page = (out / "runs" / found["run"] / "report.html").read_text()
    assert "<h2>Mean of features, by label</h2>" in page
    assert f'<td>Apple</td><td class="count">{found["strength"]["means"]["Apple"]:.4f}</td>' in page
    process("run", fruits, out, "--set", BACKBONE, "--set", "labels=none")
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
