"""Put Spark's jars on the classpath in one order: classpath.py JARS

Spark's launcher names a folder, and Java takes the jars of a folder in whatever order the disk lists them, another one
on another node. The archive of Spark's classes only counts with the classpath that it was made with. So the folder gets
a single jar that names the others.
"""

import sys
from pathlib import Path
from zipfile import ZipFile, ZipInfo

LINE = 70
"""Bytes of a line in a manifest; longer ones go on after a line end and a space."""


def main() -> None:
    jars = Path(sys.argv[1])
    folder = jars / "lib"
    folder.mkdir()
    for jar in jars.glob("*.jar"):
        jar.rename(folder / jar.name)
    names = " ".join(f"lib/{path.name}" for path in sorted(folder.iterdir()))
    entry = f"Class-Path: {names}"
    lines = [entry[start : start + LINE] for start in range(0, len(entry), LINE)]
    with ZipFile(jars / "classpath.jar", "w") as jar:
        # Without a time of its own, the entry is from 1980.
        jar.writestr(ZipInfo("META-INF/MANIFEST.MF"), "Manifest-Version: 1.0\n" + "\n ".join(lines) + "\n")


if __name__ == "__main__":
    main()
