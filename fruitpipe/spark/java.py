"""The Java that Spark runs on, and the archive of Spark's classes, which makes it start sooner."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from fruitpipe.config import Environment
from fruitpipe.errors import UserError

OLDEST_JAVA = 17
MONTH = 30 * 24 * 3600


def class_archive(environment: Environment, java: Path) -> str:
    """JVM options that use the archive of Spark's loaded classes or, the first time, write it as the JVM ends.

    The JVM writes the archive's header last and passes over one without: a half-written file does no harm, and one that
    has stayed so for ten minutes is written again. It also passes over an archive of other jars, by their times: each
    installation of Spark has its own, and those that nobody has used for a month go.
    """
    import pyspark

    installed = Path(pyspark.__file__, "../jars").resolve().stat().st_mtime_ns
    archive = environment.cache / "spark" / f"{pyspark.__version__}-{installed}-java-{java_version(java)}.jsa"
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with archive.open("rb") as file:
            whole = any(file.read(4))
        if whole:
            return f"-Xshare:auto -XX:SharedArchiveFile={archive}"
        if time.time() - archive.stat().st_mtime < 600:
            return ""
    except FileNotFoundError:
        with suppress(OSError):
            for other in archive.parent.glob("*.jsa"):
                if time.time() - other.stat().st_atime > MONTH:
                    other.unlink()
    except OSError:
        return ""  # a cache that cannot be written to costs three seconds at each start, no more
    return f"-XX:ArchiveClassesAtExit={archive} -Xlog:disable -Xlog:all=off"


def find_java(environment: Environment) -> Path:
    """The Java home that Spark will use. Raises UserError where there is none or it is too old."""
    install = "Install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless, from 13 on openjdk-21-…)"
    advice = f"{install}, or set JAVA_HOME."
    if environment.java_home:
        advice = f"{install}, and set JAVA_HOME to it or unset it."
        java = environment.java_home
        if not (java / "bin" / "java").exists():
            raise UserError(f"JAVA_HOME is {java}, which has no bin/java. {advice}")
    else:
        found = shutil.which("java")
        if found is None:
            raise UserError(f"no Java, which Spark needs. {advice}")
        java = Path(found).resolve().parent.parent
    version = java_version(java)
    if int(version.split(".")[0]) < OLDEST_JAVA:
        raise UserError(f"Java {version} in {java} is too old for Spark. {advice}")
    return java


def java_version(java: Path) -> str:
    """As in 17.0.15, from the `release` file of a Java home, or from Java itself where there is none."""
    release = java / "release"
    if release.is_file():
        match = re.search(r'^JAVA_VERSION="([^"]+)"', release.read_text(), re.MULTILINE)
    else:
        printed = subprocess.run([java / "bin" / "java", "-version"], capture_output=True, text=True, check=False)
        match = re.search(r'version "([^"]+)"', printed.stderr)
    version = match[1] if match else "0"
    return "8" if version.startswith("1.8") else version
