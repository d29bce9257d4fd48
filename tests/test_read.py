"""docs/read.md: every reader it names reads the vectors of a real run, and warehouses get columns of their types."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import command
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from command import run
from conftest import unavailable
from sqlglot import exp
from test_docs import BLOCK, PAGES

from fruitpipe.sinks import vectors_of

SECTION = re.compile(r"^##+ (.+)$", re.MULTILINE)
HEADINGS, TEXTS = SECTION.split(PAGES["read.md"].read_text())[1::2], SECTION.split(PAGES["read.md"].read_text())[2::2]
BLOCKS = {name: BLOCK.findall(text) for name, text in zip(HEADINGS, TEXTS, strict=True)}
READERS = {name: code for name, blocks in BLOCKS.items() for language, code in blocks if language == "python"}
TABLES = {name: code for name, blocks in BLOCKS.items() for language, code in blocks if language == "sql"}
HEAVY = {"ClickHouse", "Hugging Face datasets", "Lance", "Qdrant"}
"""What takes seconds to import."""
APART = {"Renumics Spotlight": "renumics-spotlight==1.8.2"}
"""What brings so much that it gets an environment of its own, for the moment of its test."""
DIALECTS = {"pgvector": "postgres"}
NUMBER = {"BigQuery": exp.DType.DOUBLE, "Athena": exp.DType.FLOAT, "Trino": exp.DType.FLOAT}
"""What the numbers of an array are, where a type says so; BigQuery has no others."""


@pytest.fixture(scope="module")
def result(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pa.Table]:
    """The vectors of a run onto `out` of the current folder, in several parts."""
    folder = tmp_path_factory.mktemp("read")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        run(fruits, Path("out"))
        yield command.vectors(Path("out"))


def meant(code: str) -> str:
    """With the run's id, and the whole path: the current folder of a Spark that others share is another one."""
    out = Path("out").absolute()
    return code.replace("out/runs/RUN/", f"{out}/runs/{command.manifest(out)['run']}/")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in READERS if n not in APART]
)
def test_a_reader_reads_what_the_page_says(name: str, result: pa.Table) -> None:
    """Every vector to the last bit, or the neighbours that NumPy finds."""
    for node in ast.walk(ast.parse(READERS[name])):
        modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if find_spec(module.partition(".")[0]) is None:
                unavailable(f"{module} is not installed")
    command.spark()  # or Spark's reader would start another
    found: dict[str, Any] = {}
    exec(compile(meant(READERS[name]), name, "exec"), found)
    vectors = vectors_of(result)
    if name == "pgvector":
        rows = list(csv.reader(Path("vectors.csv").read_text().splitlines()))
        assert [row[0] for row in rows] == result["path"].to_pylist()
        assert [row[1] for row in rows] == result["label"].to_pylist()
        assert np.array_equal(np.array([ast.literal_eval(row[2]) for row in rows], np.float32), vectors)
        return
    assert {"vectors", "nearest"} & set(found)
    if "vectors" in found:
        assert found["vectors"].dtype == np.float32
        assert np.array_equal(found["vectors"], vectors)
    if "nearest" in found:
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        nearest = np.argsort(-(unit @ unit[0]), kind="stable")[:12]
        names = [each.as_py() if isinstance(each, pa.Scalar) else each for each in found["nearest"]]
        assert [each if isinstance(each, str) else each[0] for each in names] == result["path"].take(
            nearest
        ).to_pylist()


@pytest.mark.slow
def test_spotlight_shows_every_vector_and_picture(result: pa.Table, tmp_path: Path) -> None:
    name = "Renumics Spotlight"
    asked = """
import json, sys, urllib.request
of = f"{viewer.url}api/table/"
columns = {each["name"]: each["dtype"]["name"] for each in json.load(urllib.request.urlopen(of))["columns"]}
paths, vectors = viewer.df["path"], viewer.df["vector"]
sys.stdout = said
print(json.dumps([columns, list(paths), [vector.tolist() for vector in vectors]]))
"""
    program = tmp_path / "program.py"
    quiet = "import sys; said, sys.stdout = sys.stdout, sys.stderr\n"
    program.write_text(f"{quiet}{meant(READERS[name])}{asked}")
    command_line = [sys.executable, "-m", "uv", "run", "--quiet", "--isolated", "--no-project", "--with", APART[name]]
    environment = os.environ | {"BROWSER": "true", "TMPDIR": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([*command_line, str(program)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    columns, paths, vectors = json.loads(done.stdout)
    assert columns == {"path": "Image", "label": "str", "vector": "Embedding"}
    assert paths == result["path"].to_pylist()
    assert np.array_equal(np.array(vectors, np.float32), vectors_of(result))


@pytest.mark.parametrize("name", TABLES)
def test_a_warehouses_table_has_the_columns_of_the_files(name: str, result: pa.Table) -> None:
    dialect = DIALECTS.get(name, name.lower())
    (file, *_) = Path("out").glob("runs/*/vectors/*.parquet")
    schema = pq.ParquetFile(file).schema  # as Parquet has it: what other readers see
    leaves = [schema.column(number) for number in range(len(schema))]
    assert [leaf.path for leaf in leaves] == ["path", "label", "vector.list.element"]
    assert [leaf.physical_type for leaf in leaves] == ["BYTE_ARRAY", "BYTE_ARRAY", "FLOAT"]
    statements = sqlglot.parse(TABLES[name], dialect=dialect)
    made = next(each for each in statements if isinstance(each, exp.Create))
    columns = {column.name: column for column in made.find_all(exp.ColumnDef)}
    assert list(columns) == result.column_names
    for column in ("path", "label"):
        assert columns[column].kind.is_type(*exp.DataType.TEXT_TYPES), column
        required = columns[column].find(exp.NotNullColumnConstraint, exp.PrimaryKeyColumnConstraint)
        assert required is None or not result.schema.field(column).nullable
    vector = columns["vector"].kind
    if name == "pgvector":
        assert vector.sql(dialect).upper() == "VECTOR(542)"
    else:
        assert vector.is_type(exp.DType.ARRAY)
        assert [each.this for each in vector.expressions] == ([NUMBER[name]] if name in NUMBER else [])
        assert "/out/runs/RUN/vectors/" in TABLES[name]


def test_every_block_is_run_or_compared() -> None:
    assert {language for blocks in BLOCKS.values() for language, _ in blocks} == {"python", "sql", "yaml"}
    others = {"Warehouses", "Tables that follow", "Who is told of a run", "The model, elsewhere"}
    assert set(BLOCKS) - others == set(READERS) | set(TABLES)
