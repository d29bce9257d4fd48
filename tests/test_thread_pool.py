"""Threads of generators that are given up."""

from __future__ import annotations

import ast
import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import fruitpipe
from fruitpipe.thread_pool import thread_pool

GIVES_UP = (ast.Yield, ast.YieldFrom)


class Work:
    """A generator with threads: one item is worked on, others wait for it."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.threads: set[threading.Thread] = set()
        self.done = 0

    def _each(self) -> None:
        self.begun.set()
        assert self.may_end.wait(30)
        self.done += 1

    def items(self, error: Exception | None = None) -> Iterator[None]:
        with thread_pool(1) as pool:
            for _ in range(3):
                pool.submit(self._each)
            self.threads |= pool._threads
            self.begun.wait(30)
            yield
            self.may_end.set()
            if error:
                raise error

    def end(self) -> None:
        """Let what was begun end, and wait for its threads."""
        self.may_end.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_where_a_generator_ends_or_fails_its_threads_have_ended() -> None:
    done, failed = Work(), Work()
    assert len(list(done.items())) == 1
    with pytest.raises(ValueError, match="of its own"):
        list(failed.items(ValueError("of its own")))
    assert done.done == 3
    assert failed.done < 3, "of what fails, no more is begun"
    for work in (done, failed):
        assert not any(thread.is_alive() for thread in work.threads)


def test_where_it_is_given_up_nobody_waits_and_nothing_more_is_begun() -> None:
    work = Work()
    with closing(work.items()) as items:
        next(items)
    work.end()
    assert work.done == 1


def test_the_garbage_collector_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run where a thread has the lock that waiting for another one takes."""
    waited: list[threading.Thread] = []
    work = Work()
    cycle: list[Any] = [work.items()]
    next(cycle[0])
    cycle.append(cycle)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", lambda thread, timeout=None: waited.append(thread))
        del cycle
        gc.collect()
    assert not waited
    work.end()
    assert work.done == 1


def test_generators_have_no_other_threads() -> None:
    assert generators_with_pools(ast.parse(Path(__file__).read_text(), __file__)) == ["example"]
    folder = Path(fruitpipe.__file__).parent
    found = {
        f"{path.relative_to(folder)}: {name}"
        for path in folder.rglob("*.py")
        for name in generators_with_pools(ast.parse(path.read_text(), path))
    }
    assert found == {"thread_pool.py: thread_pool"}


def generators_with_pools(module: ast.Module) -> list[str]:
    """Names of the functions that yield and use a ThreadPoolExecutor."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    return [
        function.name
        for function in functions
        if any(isinstance(node, GIVES_UP) for node in ast.walk(function))
        and any(isinstance(node, ast.Name) and node.id == "ThreadPoolExecutor" for node in ast.walk(function))
    ]


def example() -> Iterator[int]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(int).result()
