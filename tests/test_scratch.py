"""Temporary folders: whose process was killed are cleared away, and nobody takes another's."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fruitpipe import scratch

MAKER = """
import sys, time
from pathlib import Path
from fruitpipe.scratch import private_folder

with private_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = (Path(maker.stdout.readline().strip()) for maker in makers if maker.stdout)
        (killed / "part").write_bytes(b"half")
        makers[0].send_signal(signal.SIGKILL)
        makers[0].wait()
        with scratch.private_folder(tmp_path) as ours:
            assert {*tmp_path.iterdir()} == {living, ours}
        assert {*tmp_path.iterdir()} == {living}
    finally:
        for maker in makers:
            maker.kill()
            maker.communicate()


def gone(folder: Path) -> None:
    """Somebody who clears up has taken it, and is done."""
    scratch.clear_one(folder)


def going(folder: Path) -> None:
    """Somebody who clears up has its lock, and takes his time."""
    fcntl.flock(scratch.opened(folder), fcntl.LOCK_EX)


@pytest.mark.parametrize("meets", [gone, going])
def test_a_folder_that_somebody_clears_away_before_it_has_its_lock_is_made_anew(
    meets: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    mkdtemp = scratch.tempfile.mkdtemp

    def met(**options: object) -> str:
        folder = Path(mkdtemp(**options))
        made.append(folder)
        if len(made) == 1:
            meets(folder)
        return str(folder)

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", met)
    with scratch.private_folder(tmp_path) as folder:
        assert [folder] == made[1:]
        assert folder.is_dir()
