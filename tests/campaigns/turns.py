"""Interleavings: who of several threads may make the next step on a store is drawn, so that a seed repeats it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from fruitpipe.storage import layout
from fruitpipe.storage.store import BucketStore, Store

READS = {"get", "find", "open", "names", "entries", "folders", "pages", "uploads", "has_any"}
LISTS = {"names", "entries", "pages", "uploads"}
CHANGES = {"put", "upload", "copy", "swap", "put_if", "delete", "delete_all"}


class Turns:
    """Threads make one step each at a time, in an order that is drawn.

    Whoever looks at the lease makes the next step too: nobody is taken to stand still for a minute in between.
    """

    def __init__(self, seed: str, changed: Callable[[str, str], None]) -> None:
        """changed: called after each change, with the operation and the name of its object."""
        self.random = random.Random(seed)
        self.steps = 0
        self.stood_still = 0
        self._holder = ""
        """who has the lease"""
        self._changed = changed
        self._here = threading.Condition()
        self._going: set[str] = set()
        self._waiting: dict[str, int] = {}
        self._turn = ""
        self._bound = ""
        self._still: set[str] = set()
        self._resting: set[str] = set()

    def store(self, store: Store, name: str) -> Store:
        """A store as the actor `name` has it. In a bucket each request is a step, on disk each operation."""
        if isinstance(store, BucketStore):
            seen = BucketStore(store.url, cast(Any, Stepped(store.bucket, self, name)))
            return seen
        return cast(Store, Stepped(store, self, name))

    def held_by(self, actor: str) -> None:
        """Who has the lease from now on; empty for nobody."""
        self._holder = actor
        self._resting.clear()

    def rest(self, actor: str) -> None:
        """Let others go first until the lease is somebody else's."""
        with self._here:
            self._resting.add(actor)
            self._bound = ""

    @contextmanager
    def step(self, actor: str, operation: str, name: str) -> Iterator[None]:
        with self._here:
            self._waiting[actor] = self._waiting.get(actor, 0) + 1
            self._here.notify_all()
            self._here.wait_for(lambda: self._turn == actor)
            self._turn = "taken"
            self._waiting[actor] -= 1
        try:
            yield
        finally:
            with self._here:
                self.steps += 1
                self._bound = actor if operation in READS and name.endswith(layout.LEASE) else ""
                try:
                    if operation in CHANGES:
                        self._changed(operation, name)
                finally:
                    self._turn = ""
                    self._here.notify_all()

    def play(self, actors: dict[str, Callable[[], None]], stands_still: int | None, lapse: Callable[[], None]) -> None:
        """Until all have ended.

        stands_still: the step before which whoever has the lease stands still until all others have ended. lapse: what
        the time that passes does to its lease.
        """

        def act(name: str, action: Callable[[], None]) -> None:
            try:
                action()
            finally:
                with self._here:
                    self._going.discard(name)
                    self._here.notify_all()

        self._going = set(actors)
        threads = [threading.Thread(target=act, args=each, name=each[0]) for each in actors.items()]
        for thread in threads:
            thread.start()
        while True:
            with self._here:
                self._here.wait_for(lambda: not self._turn and all(self._waiting.get(each) for each in self._going))
                if not self._going:
                    break
                if stands_still is not None and self.steps >= stands_still and self._holder and not self._bound:
                    self._still, stands_still, self.stood_still = {self._holder}, None, 1
                    lapse()
                    self.held_by("")
                awake = self._going - self._still or self._going
                next_ones = sorted(awake - self._resting or awake)
                self._turn = self._bound if self._bound in self._going else self.random.choice(next_ones)
                self._here.notify_all()
        for thread in threads:
            thread.join()


class Stepped:
    """A store or a bucket, each of whose operations waits for its turn. What is read of an open file does not."""

    def __init__(self, of: Any, turns: Turns, actor: str) -> None:
        self._of, self._turns, self._actor = of, turns, actor

    def delete_all(self, names: Iterable[str], before: Callable[[], None] = lambda: None) -> None:
        """A step for each request or file: it lasts until the store calls `before` again, or has done all."""
        given = list(names)
        with ExitStack() as step:

            def in_turn() -> None:
                step.close()
                before()
                step.enter_context(self._turns.step(self._actor, "delete_all", f"some of {given}"))

            self._of.delete_all(given, in_turn)

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._of, operation)
        if operation not in READS | CHANGES:
            return method

        def in_turn(*arguments: Any, **options: Any) -> Any:
            name = str((*arguments, "")[operation in {"upload", "copy"}])
            with self._turns.step(self._actor, operation, name):
                answer = method(*arguments, **options)
                if name.endswith(layout.LEASE) and operation in CHANGES and answer is not False:
                    given = operation != "delete" and arguments[2 if operation == "swap" else 1] is not None
                    self._turns.held_by(self._actor if given else "")
                return list(answer) if operation in LISTS else answer

        return in_turn
