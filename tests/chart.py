"""The chart, and Helm: that which HELM names, pip has brought, or is on the PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[1] / "helm/fruitpipe"
HELM = os.environ.get("HELM") or shutil.which("helm", path=Path(sys.executable).parent) or "helm"


def helm(*arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    """The finished command; `given` is its standard input, as JSON."""
    text = None if given is None else json.dumps(given)
    return subprocess.run([HELM, *arguments], input=text, capture_output=True, text=True, check=False)
