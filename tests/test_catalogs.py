"""Published vectors in tables of Iceberg and Delta: registered, replaced by the next run, rolled back; never copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import command
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pytest
from command import fruitpipe, one_line_error, run
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog
from pyiceberg.utils.config import Config
from s3 import environment, options
from seaweed import BUCKET, Server

from fruitpipe.catalogs.iceberg import RUN, SCHEMA
from fruitpipe.sinks import vectors_of

TABLES = "{iceberg: {table: fruits.vectors}, delta: {}}"


@pytest.fixture
def images(fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few, and a SQL catalog of Iceberg in PyIceberg's own settings."""
    (tmp_path / "warehouse").mkdir()
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path / 'catalog.db'}")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{tmp_path / 'warehouse'}")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which it reads once in a process
    shutil.copytree(fruits / "Kiwi", tmp_path / "photos" / "Kiwi")
    return tmp_path / "photos"


def iceberg(out: Path) -> pa.Table:
    with closing(load_catalog()) as catalog:
        return catalog.load_table("fruits.vectors").scan().to_arrow()


def iceberg_by_polars(out: Path) -> pa.Table:
    with closing(load_catalog()) as catalog:
        table = catalog.load_table("fruits.vectors")
        return polars.scan_iceberg(table, reader_override="pyiceberg").collect().to_arrow()


def iceberg_by_duckdb(out: Path) -> pa.Table:
    """DuckDB's own extension is not on PyPI: it takes the files that the table names."""
    with closing(load_catalog()) as catalog:
        files = [task.file.file_path for task in catalog.load_table("fruits.vectors").scan().plan_files()]
    return duckdb.sql(f"FROM read_parquet({files})").to_arrow_table()


def delta(out: Path | str, version: int | None = None) -> pa.Table:
    return pa.table(DeltaTable(out, version).to_pyarrow_table())


def delta_by_polars(out: Path) -> pa.Table:
    return polars.read_delta(str(out), use_pyarrow=True).to_arrow()


def delta_by_duckdb(out: Path) -> pa.Table:
    return duckdb.sql(f"FROM read_parquet({DeltaTable(out).file_uris()})").to_arrow_table()


READERS: tuple[Callable[[Path], pa.Table], ...] = (
    *(iceberg, iceberg_by_polars, iceberg_by_duckdb),
    *(delta, delta_by_polars, delta_by_duckdb),
)


def holds(out: Path, run_id: str) -> None:
    """All readers see this run, to the bit."""
    wanted = command.vectors(out, run_id)
    for reader in READERS:
        found = reader(out).sort_by("path")
        assert found["path"].to_pylist() == wanted["path"].to_pylist(), reader.__name__
        assert found["label"].to_pylist() == wanted["label"].to_pylist(), reader.__name__
        numbers = np.array(found["vector"].to_pylist(), np.float32)
        assert np.array_equal(numbers, vectors_of(wanted)), reader.__name__


def written(folder: Path) -> set[Path]:
    return set(folder.rglob("*.parquet"))


def commits(out: Path) -> tuple[int, int]:
    """How often each table has changed for its readers."""
    with closing(load_catalog()) as catalog:
        log = catalog.load_table("fruits.vectors").metadata.metadata_log
    return len(log), DeltaTable(out).version()


@pytest.mark.slow
def test_tables_hold_what_is_published(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first: dict[str, Any] = run(images, out, f"publish={TABLES}")
    holds(out, first["run"])
    after_first = commits(out)

    next(images.rglob("*.jpg")).unlink()
    second = run(images, out, f"publish={TABLES}")
    holds(out, second["run"])
    after_second = commits(out)
    assert after_second == (after_first[0] + 1, after_first[1] + 1), "one commit each"

    before = written(tmp_path)
    options = ("--set", f"publish={TABLES}")
    fruitpipe("publish", out, first["run"], *options)
    holds(out, first["run"])
    fruitpipe("publish", out, first["run"], *options)
    assert commits(out) == (after_second[0] + 1, after_second[1] + 1), "what is there already is not registered again"
    assert written(tmp_path) == before, "no vector is written again"
    assert written(tmp_path / "warehouse") == set()

    # A run that has nothing to do but to publish the newer one again.
    again = fruitpipe("run", images, out, "--set", command.BACKBONE, *options)
    assert "is published again" in again.stdout + again.stderr
    holds(out, second["run"])

    assert DeltaTable(out).vacuum(full=True) == [], "VACUUM leaves models, features and older runs alone"


@pytest.mark.slow
def test_tables_hold_what_is_published_in_a_bucket(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both libraries have the keys from where they look for them."""
    (tmp_path / "s3").mkdir()
    with Server(tmp_path / "s3") as server:
        admin = server.identities["admin"]
        for name, value in environment(server, admin, server.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"s3://{BUCKET}/warehouse")
        monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__S3__ENDPOINT", server.endpoint)
        monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
        out = f"s3://{BUCKET}/out"
        given = options(server.endpoint, command.BACKBONE, f"publish={TABLES}")
        fruitpipe("run", images, out, *given)
        next(images.rglob("*.jpg")).unlink()
        fruitpipe("run", images, out, *given)
        newer, older = iceberg(Path()), delta(out, version=1)
        assert len(newer) == len(delta(out)) == 39
        assert len(older) == 40
        assert newer.sort_by("path").equals(delta(out).cast(newer.schema).sort_by("path"))


def test_mistakes_are_one_line_before_any_work(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for tables, said in (
        ("{iceberg: {table: vectors}}", "publish.iceberg.table"),
        ("{iceberg: {table: fruits.vectors, catalog: elsewhere}}", "catalog elsewhere"),
        ("{delta: {storage: {aws_secret_access_key: abc}}}", "publish.delta.storage"),
    ):
        done = fruitpipe("run", images, out, "--set", command.BACKBONE, "--set", f"publish={tables}", code=2)
        assert said in one_line_error(done)
    assert not out.exists()


@pytest.mark.slow
def test_a_table_that_is_another_is_told_of_and_the_run_stays_published(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with closing(load_catalog()) as catalog:
        catalog.create_namespace("fruits")
        catalog.create_table("fruits.vectors", pa.schema([(name, pa.string()) for name in ("path", "label", "vector")]))
    options = ("--set", command.BACKBONE, "--set", "publish={iceberg: {table: fruits.vectors}}")
    line = one_line_error(fruitpipe("run", images, out, *options, code=1))
    assert "is published, but the Iceberg table fruits.vectors" in line
    published = command.manifest(out)["run"]
    assert f"fruitpipe publish {out} {published}" in line
    assert not [path for path in out.glob("runs/*/work/**/*") if path.is_file()]

    with closing(load_catalog()) as catalog:
        catalog.drop_table("fruits.vectors")
    fruitpipe("run", images, out, *options)
    assert command.manifest(out)["run"] == published, "nothing is to be done but that"
    assert len(iceberg(out)) == 40


OTHERS = pa.Table.from_pylist([{"path": "a.jpg", "label": None, "vector": [1.0]}], SCHEMA.as_arrow())


@pytest.mark.parametrize(
    "others", [pa.table({"price": [1.5]})[:0], pa.table({"price": [1.5]}), OTHERS], ids=["empty", "columns", "rows"]
)
def test_somebody_else_s_iceberg_table_is_left_alone(others: pa.Table, images: Path, tmp_path: Path) -> None:
    with closing(load_catalog()) as catalog:
        catalog.create_namespace("fruits")
        catalog.create_table("fruits.vectors", others.schema).append(others)
    before = iceberg(out := tmp_path / "out")
    error = one_line_error(fruitpipe("run", images, out, "--set", f"publish={TABLES}", code=2))
    assert error == (
        "error: publish: the Iceberg table fruits.vectors of the catalog default was not made by fruitpipe: name "
        "another in publish.iceberg.table."
    )
    assert iceberg(out) == before == others
    assert not out.exists()


def test_an_iceberg_table_that_holds_nothing_yet_or_a_run_of_an_earlier_version_is_ours(
    images: Path, tmp_path: Path
) -> None:
    out, setting = tmp_path / "out", "publish={iceberg: {table: fruits.vectors}}"
    with closing(load_catalog()) as catalog:
        catalog.create_namespace("fruits")
        catalog.create_table("fruits.vectors", SCHEMA)
    for count in (3, 4):
        run(images, out, setting, f"limit={count}")
        assert len(iceberg(out)) == count
        with closing(load_catalog()) as catalog, catalog.load_table("fruits.vectors").transaction() as change:
            change.remove_properties(RUN)


def test_somebody_else_s_delta_table_is_left_alone(images: Path, tmp_path: Path) -> None:
    """Its rows would be gone, and VACUUM, to which nothing there says otherwise, would delete the result."""
    write_deltalake(out := tmp_path / "out", pa.table({"a": [1, 2]}))
    before = sorted(tmp_path.rglob("*"))
    error = one_line_error(fruitpipe("run", images, out, "--set", "publish.delta={}", code=2))
    assert error == (
        f"error: publish: the Delta table {out} was not made by fruitpipe: choose another output, "
        "or leave out publish.delta."
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_publish_without_a_config_is_for_the_tables_of_what_is_published(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(images, out, f"publish={TABLES}", "limit=3")
    second = run(images, out, f"publish={TABLES}")
    assert len(delta(out)) == second["counts"]["ok"]
    fruitpipe("publish", out, first["run"])
    assert [len(delta(out)), len(iceberg(out))] == [3, 3]


def test_a_path_that_delta_rs_would_take_for_another_is_refused(images: Path, tmp_path: Path) -> None:
    done = fruitpipe("run", images, tmp_path / "o%41ut", "--set", "publish.delta={}", code=2)
    assert "takes %XX in" in one_line_error(done)
