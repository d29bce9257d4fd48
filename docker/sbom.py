"""Say what is in the image, as CycloneDX: sbom.py FOLDER, which holds the package before it is installed."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

PACKAGE = "fruitpipe"
DEB = "${Package}\t${Version}\t${Architecture}\n"


def component(kind: str, group: str, name: str, version: str, rest: str = "") -> dict[str, Any]:
    where = "/".join(quote(part, safe="") for part in (kind, group, name) if part)
    purl = f"pkg:{where}@{quote(version, safe='')}{rest}"
    return {"type": "library", "bom-ref": purl, "group": group, "name": name, "version": version, "purl": purl}


def debian() -> Iterator[dict[str, Any]]:
    listed = subprocess.run(["dpkg-query", "--show", "--showformat", DEB], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        name, number, architecture = line.split("\t")
        yield component("deb", "debian", name, number, f"?arch={architecture}")


def python() -> Iterator[dict[str, Any]]:
    """Those included that others bring as copies of their own."""
    for path in Path(sys.prefix).rglob("*.dist-info"):
        found = Distribution.at(path)
        yield component("pypi", "", re.sub(r"[-_.]+", "-", found.name).lower(), found.version)


def java() -> Iterator[dict[str, Any]]:
    """By what Maven has left in a jar, which is also there for the jars that went into it, or else by its name."""
    for path in Path(sys.prefix).rglob("pyspark/jars/lib/*.jar"):
        with ZipFile(path) as jar:
            left = [jar.read(name).decode() for name in jar.namelist() if name.endswith("/pom.properties")]
        own = False
        for text in left:
            facts = dict(re.findall(r"^(groupId|artifactId|version)=(\S+)", text, re.MULTILINE))
            yield component("maven", facts["groupId"], facts["artifactId"], facts["version"])
            own |= f"{path.stem}-".startswith(f"{facts['artifactId']}-{facts['version']}-")
        if not own:
            name, number = re.split(r"-(?=\d)", path.stem, maxsplit=1)
            yield component("generic", "", name, number)


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path += map(str, folder.rglob("site-packages"))
    found = {each["bom-ref"]: each for kind in (debian, python, java) for each in kind()}
    application = component("pypi", "", PACKAGE, version(PACKAGE)) | {"type": "application"}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": application},
        "components": [found[reference] for reference in sorted(found)],
    }
    (folder / "opt/fruitpipe/sbom.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
