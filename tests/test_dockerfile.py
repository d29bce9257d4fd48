"""What a build of the image does before it asks anybody for anything; `tests/test_image.py` looks at the image."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

DOCKERFILE = Path(__file__).parents[1] / "docker/Dockerfile"


def test_a_build_knows_pips_secrets_where_there_are_any(tmp_path: Path) -> None:
    """Without any, there is not even a folder of them."""
    (lines,) = re.findall(r"id=pip_cert \\\n(.*?) PIP_PYTHON=", DOCKERFILE.read_text(), re.DOTALL)
    secrets = tmp_path / "secrets"
    script = lines.replace("/run/secrets", str(secrets)) + '; echo "$PIP_INDEX_URL,$PIP_CERT"'

    def known() -> str:
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert known() == ","
    secrets.mkdir()
    (secrets / "pip_index_url").write_text("https://mirror/simple")
    assert known() == "https://mirror/simple,"
    (secrets / "pip_cert").touch()
    assert known() == f"https://mirror/simple,{secrets}/pip_cert"
