"""What other packages may add, found by entry points beside what comes with fruitpipe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from fruitpipe.errors import UserError

Part = TypeVar("Part")
FIX = "Rename it there, or remove the package that brings it."


class Registry(Generic[Part]):
    """Parts by name: those that come with fruitpipe, and those that others register in an entry-point group."""

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        """own: package.module:attribute by name; nothing of it is imported before it is asked for."""
        self.group, self.own = group, own

    def names(self) -> list[str]:
        """All names, fruitpipe's own first. Raises UserError where two packages claim one name."""
        return [*self.own, *self._others]

    def get(self, name: str) -> Part:
        """The part of a name. Raises KeyError where there is none, UserError where it cannot be imported."""
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return cast(Part, getattr(import_module(module), attribute))
        entry = self._others[name]
        try:
            return cast(Part, entry.load())
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"{self.group} {name}: cannot load {entry.value}: {error}. Fix or remove the package that brings it."
            ) from error

    def code_of(self, name: str) -> str:
        """package.module:attribute of a part, which is not loaded. Raises KeyError where there is none."""
        return self.own[name] if name in self.own else self._others[name].value

    @property
    def _others(self) -> dict[str, EntryPoint]:
        found = registered(self.group)
        if taken := found.keys() & self.own.keys():
            name = min(taken)
            raise UserError(f"{self.group} {name}: {found[name].value} claims a name that is taken. {FIX}")
        return found


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Entry points of all installed packages by name. Raises UserError where two of them claim one."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if found.setdefault(entry.name, entry).value != entry.value:
            raise UserError(f"{group} {entry.name}: {entry.value} claims a name that is taken. {FIX}")
    return found
