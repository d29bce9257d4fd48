"""Compile resample.c, into a file beside it: python -m fruitpipe.vision.compile"""

from __future__ import annotations

import os
import subprocess
import sys

from fruitpipe.vision.resampling import LIBRARY

OPTIONS = ("-std=c11", "-O3", "-shared", "-fPIC", "-s")


def main() -> int:
    """The exit code."""
    compiler = os.environ.get("CC", "cc")
    made = LIBRARY.with_suffix(".new")
    try:
        subprocess.run([compiler, *OPTIONS, "-o", made, LIBRARY.with_suffix(".c")], check=True)
    except FileNotFoundError:
        print(f"error: no {compiler}: install a C compiler, or go without: Pillow gives the same.", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    made.replace(LIBRARY)  # at once: a process may have it open
    return 0


if __name__ == "__main__":
    sys.exit(main())
