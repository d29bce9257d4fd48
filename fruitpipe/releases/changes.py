"""What submitting would change on the cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fruitpipe.releases.helm import Helm
from fruitpipe.releases.observation import asked_of_runs
from fruitpipe.releases.plain import Plain, dig

Key = tuple[str, str]
"""Kind and name of an object."""


def changes(helm: Helm, name: str, files: Sequence[Path], values: dict[str, Any]) -> Iterator[str]:
    """Lines of the difference that installing a release with these values would make, and whether a run would start.

    Raises UserError as `Helm.install` does.
    """
    after = objects(helm.install(name, files, values, dry=True))
    before = objects(helm.manifest(name) or "")
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        word = "new" if old is None else "gone" if new is None else "changed"
        yield f"{key[0]} {key[1]}: {word}"
        if old is not None and new is not None:
            yield from (f"  {line}" for line in difference(old, new))
    yield outcome(before, after)


def outcome(before: dict[Key, Plain], after: dict[Key, Plain]) -> str:
    """Whether a run would start by these objects in place of those: operators start none for every change."""
    if before == after:
        return "nothing would change"
    for key, new in after.items():
        if dig(new, "spec", "suspend"):
            continue
        if key[0] == "ScheduledSparkApplication":
            return f"no run would start before its schedule says so: {new['spec']['schedule']}"
        old = before.get(key)
        let_go = dig(old, "spec", "suspend")
        if key[0] == "SparkApplication" and (old is None or let_go or asked_of_runs(old) != asked_of_runs(new)):
            return "a run would start"
    return "no run would start"


def objects(manifest: str) -> dict[Key, Plain]:
    """Objects of a manifest by kind and name, without what Secrets hold."""
    found = {}
    for each in yaml.safe_load_all(manifest):
        if each:
            found[each["kind"], each["metadata"]["name"]] = {**each, "data": "…"} if each["kind"] == "Secret" else each
    return found


def difference(old: Plain, new: Plain) -> list[str]:
    """Lines that go and lines that come, with the line before and after each."""
    before, after = (yaml.safe_dump(each, sort_keys=False, width=1000).splitlines() for each in (old, new))
    return list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
