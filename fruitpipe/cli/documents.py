"""Output for scripts."""

from __future__ import annotations

import json
import sys
from typing import Any

from fruitpipe.redaction import values_without_secrets
from fruitpipe.streams import unfiltered


def print_json(value: Any) -> None:
    print(json.dumps(values_without_secrets(value)), file=unfiltered(sys.stdout))
