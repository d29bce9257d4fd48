"""The chart, and Helm: the one that pip brings, or another that HELM names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[1] / "helm/fruitpipe"
HELM = os.environ.get("HELM") or str(Path(sys.executable).parent / "helm")


def helm(*arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    """The finished command; `given` is its standard input, as JSON."""
    text = None if given is None else json.dumps(given)
    return subprocess.run([HELM, *arguments], input=text, capture_output=True, text=True, check=False)
