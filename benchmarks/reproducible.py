"""What two builds of the container image differ in: reproducible.py IMAGE IMAGE

Prints a table of the layers, and the files that differ in more than their times. Ends with exit code 1 where there are
any: a layer in which only times differ is another layer, but the same program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from containers import engine

MANY = 20
"""Files that are named; more are counted."""


class Entry(NamedTuple):
    """A file in a layer; its fields are called what differences are."""

    contents: str
    rights: tuple[bytes, int, int, int]
    time: float


Layer = dict[str, Entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs=2)
    one, other = (layers(name) for name in parser.parse_args().image)
    print(f"{'layer':>5}{'files':>9}  differ in")
    named = []
    for number, (ours, theirs) in enumerate(zip(one, other, strict=True), 1):
        found = differences(ours, theirs)
        counted = Counter(kind for kinds in found.values() for kind in kinds)
        print(f"{number:>5}{len(ours):>9,}  {', '.join(f'{kind} {count:,}' for kind, count in counted.items()) or '-'}")
        named += [f"{number}: {name}: {', '.join(kinds)}" for name, kinds in found.items() if kinds != ["time"]]
    for line in named[:MANY]:
        print(line)
    if len(named) > MANY:
        print(f"and {len(named) - MANY} more")
    sys.exit(bool(named))


def differences(ours: Layer, theirs: Layer) -> dict[str, list[str]]:
    """By name of a file, in what it differs."""
    found = {}
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            found[name] = ["is in one alone"]
        elif ours[name] != theirs[name]:
            pairs = zip(Entry._fields, ours[name], theirs[name], strict=True)
            found[name] = [field for field, left, right in pairs if left != right]
    return found


def layers(image: str) -> list[Layer]:
    """In the order in which they lie on each other."""
    found: dict[str, Layer] = {}
    manifest = []
    with (
        subprocess.Popen([str(engine()), "save", image], stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|") as saved,
    ):
        for member in saved:
            if not (file := saved.extractfile(member) if member.isfile() else None):
                continue
            if member.name == "manifest.json":
                manifest = json.load(file)
                continue
            with suppress(tarfile.ReadError), tarfile.open(fileobj=file, mode="r|") as layer:
                found[member.name] = {each.name: entry(layer, each) for each in layer}
    return [found[name] for name in manifest[0]["Layers"]]


def entry(layer: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    file = layer.extractfile(member) if member.isreg() else None
    contents = hashlib.file_digest(file, "sha256").hexdigest() if file else member.linkname
    return Entry(contents, (member.type, member.mode, member.uid, member.gid), member.mtime)


if __name__ == "__main__":
    main()
