"""Benchmarks are not run by tests, but what they take from fruitpipe and from each other is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def taken(name: str) -> Iterator[tuple[str, str]]:
    """Modules, of fruitpipe and of benchmarks, and what is imported from each."""
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module in NAMES or (node.module or "").startswith("fruitpipe")):
            yield from ((str(node.module), each.name) for each in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_benchmark_imports_is_there(name: str) -> None:
    for module, each in taken(name):
        found = import_module(module)
        assert hasattr(found, each) or find_spec(f"{module}.{each}"), f"{module} has no {each}"
