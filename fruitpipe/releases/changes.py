"""What submitting would change on the cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fruitpipe.releases.helm import Helm

Key = tuple[str, str]
"""Kind and name of an object."""
RUNS = {"SparkApplication", "ScheduledSparkApplication"}
"""Kinds of which the operator starts a run when their spec changes."""


def changes(helm: Helm, name: str, files: Sequence[Path], values: dict[str, Any]) -> Iterator[str]:
    """Lines of the difference that installing a release with these values would make, and whether a run would start.

    Raises UserError as `Helm.install` does.
    """
    after = objects(helm.install(name, files, values, dry=True))
    before = objects(helm.manifest(name) or "")
    runs = False
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        runs |= key[0] in RUNS and (old or {}).get("spec") != (new or {}).get("spec") and new is not None
        word = "new" if old is None else "gone" if new is None else "changed"
        yield f"{key[0]} {key[1]}: {word}"
        if old is not None and new is not None:
            yield from (f"  {line}" for line in difference(old, new))
    if before == after:
        yield "nothing would change"
    elif runs:
        yield "a run would start"
    else:
        yield "no run would start"


def objects(manifest: str) -> dict[Key, dict[str, Any]]:
    """Objects of a manifest by kind and name, without what Secrets hold."""
    found = {}
    for each in yaml.safe_load_all(manifest):
        if each:
            found[each["kind"], each["metadata"]["name"]] = {**each, "data": "…"} if each["kind"] == "Secret" else each
    return found


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines that go and lines that come, with the line before and after each."""
    before, after = (yaml.safe_dump(each, sort_keys=False, width=1000).splitlines() for each in (old, new))
    return list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
