"""Arrow without pandas, and with it again."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib.util
import sys
import pyarrow as pa
from fruitpipe.late_pandas import let_pandas_wait
if sys.argv[1] == "late":
    let_pandas_wait()
    let_pandas_wait()
    finders = len(sys.meta_path)
    assert pa.array([1, None]).null_count == 1 and pa.table([[1]], names=["x"])["x"].to_pylist() == [1]
    assert importlib.util.find_spec("pandas") and "pandas" not in sys.modules  # as libraries ask that may do without
import pandas
let_pandas_wait()
if sys.argv[1] == "late":
    assert len(sys.meta_path) == finders and sys.meta_path[0].find_spec("pandas", None) is None
frame = pandas.DataFrame({"number": [1.5, float("nan")], "kind": pandas.Categorical(["a", "b"])})
print(pa.array(frame["number"]).null_count, pa.array(frame["kind"]).type, pa.Table.from_pandas(frame).schema)
print(pandas.__spec__.loader, pandas.__file__)
"""
WITHOUT = """
import sys
import pyarrow as pa
from fruitpipe.late_pandas import let_pandas_wait
let_pandas_wait()
print(pa.table([[1, 2]], names=["x"]).to_pandas()["x"].sum(), "pandas" in sys.modules)
"""


def said(program: str, *words: str) -> str:
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True).stdout


def test_whoever_imports_pandas_later_has_all_of_it() -> None:
    late, early = (said(PROGRAM, when).split("at 0x") for when in ("late", "early"))
    assert late[0] == early[0]
    assert "1 dictionary<" in late[0]


def test_arrow_imports_it_where_it_is_asked_for_frames() -> None:
    assert said(WITHOUT).split() == ["3", "True"]
