"""Compile resample.c, into a file beside it: python -m fruitpipe.vision.compile"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from fruitpipe.vision.resampling import SOURCE, compiled_file

OPTIONS = ("-std=c11", "-O3", "-shared", "-fPIC", "-s")


def main() -> int:
    """The exit code."""
    compiler = os.environ.get("CC") or "cc"
    file = compiled_file()
    made = file.with_suffix(f".{os.getpid()}")
    try:
        subprocess.run([*shlex.split(compiler), *OPTIONS, "-o", made, SOURCE], check=True)
    except (FileNotFoundError, PermissionError):
        print(f"error: no {compiler}: install a C compiler, or go without: Pillow gives the same.", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: {compiler} ended with {error.returncode}: see above. Pillow gives the same.", file=sys.stderr)
        return 2
    made.replace(file)  # at once: a process may have it open
    for earlier in SOURCE.parent.glob(f"{file.stem.rpartition('-')[0]}-*.so"):
        if earlier != file:
            earlier.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
