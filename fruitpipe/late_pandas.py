"""Arrow without pandas, until somebody imports that.

Arrow imports pandas when it makes its first array, to tell pandas' arrays from others. That takes longer than importing
everything else that a worker needs, and hardly anybody has such arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa

NAME = "pandas"


def let_pandas_wait() -> None:
    """Have Arrow believe that there is no pandas, until it is imported. Does nothing where it has been already.

    For processes of our own, before others of their threads import anything.
    """
    if NAME in sys.modules or any(isinstance(finder, Late) for finder in sys.meta_path):
        return
    late = Late()
    sys.meta_path.insert(0, late)
    pa.array([])  # it asks once
    late.is_there = True


class Late(MetaPathFinder):
    """Finds no pandas at first; then it does, and has Arrow look again."""

    is_there = False
    is_over = False
    """It stays in sys.meta_path, which other threads may be going through."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME or self.is_over:
            return None
        if not self.is_there:
            raise ModuleNotFoundError("pandas has to wait", name=NAME)
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec and spec.loader:  # perhaps nobody imports it now: who only asks whether it is there changes nothing
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                self.is_over = True
                with suppress(ImportError):  # pandas that Arrow does not take
                    pa.array([]).to_pandas()  # which cannot do without it

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec
