"""Other users of this machine: they reach no Spark of ours, see no settings, and plant no files."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - which a user without rights could not import
import os
import socket
import stat
import struct
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from command import BACKBONE, command, process, same_vectors, vectors
from conftest import a_stranger
from processes import children_of, jvms_of, lives, wait, words_of

from fruitpipe.config import Environment, SparkConfig
from fruitpipe.errors import UserError
from fruitpipe.model.transform import whole_file
from fruitpipe.scratch import private_folder
from fruitpipe.spark.embedded import local_settings
from fruitpipe.spark.java import find_java
from fruitpipe.storage.store import LocalStore

STARTS = """
import json, os, sys
from pathlib import Path
from fruitpipe.config import Environment, SparkConfig
from fruitpipe.spark.embedded import running
config = SparkConfig(master="local[1]", conf=json.loads(os.environ["CONF"]))
with running(config, Environment.read(), Path(os.devnull), verbose=False) as (spark, _):
    assert spark.parallelize([1], 1).map(lambda number: number).collect() == [1]
    assert not [name for name, _ in spark.getConf().getAll() if "secret" in name]
    print(spark._gateway.proc.pid, flush=True)
    sys.stdin.read()
"""
ANSWER, REFUSAL = 4, 5
"""Of Spark's kinds of messages."""


@pytest.fixture
def shared(public_folder: Path) -> Path:
    """A folder for temporary files, as all users have it."""
    public_folder.chmod(0o1777)
    return public_folder


@contextmanager
def jvm(folder: Path, conf: str = "{}") -> Iterator[psutil.Process]:
    """The JVM of an embedded Spark whose workers have started, with temporary files in a folder."""
    words = [sys.executable, "-c", STARTS]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "CONF": conf},
    ) as driver:
        assert driver.stdin
        assert driver.stdout
        try:
            yield psutil.Process(int(driver.stdout.readline()))
        finally:
            driver.stdin.close()
    assert driver.returncode == 0


def frame(body: bytes) -> bytes:
    """A question in the protocol of Spark's ports."""
    message = struct.pack(">bqi", 3, 1, len(body)) + body
    return struct.pack(">q", 8 + len(message)) + message


def questions(port: int) -> list[bytes]:
    """To the scheduler's port, which takes any object of Java's, here the text x; to the blocks' port, for none."""
    address = struct.pack(">bH9sI", 1, 9, b"127.0.0.1", port)
    return [
        frame(b"\0" + address + struct.pack(">H17s", 17, b"endpoint-verifier") + b"\xac\xed\x00\x05t\x00\x01x"),
        frame(b"\0" + struct.pack(">i1si6si", 1, b"a", 6, b"driver", 0)),
    ]


def answer(port: int, question: bytes) -> int | None:
    """The kind of what is answered; ports with another protocol say nothing, or hang up."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(question)
        try:
            said = connection.recv(9)
        except (TimeoutError, ConnectionError):
            return None
    return said[8] if len(said) == 9 else None


def answers(spark: psutil.Process) -> Counter[int | None]:
    """What a stranger is answered who tries each question at each port."""
    ports = [each.laddr.port for each in spark.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    asked = [(port, question) for port in ports for question in questions(port)]
    with a_stranger(), ThreadPoolExecutor(len(asked)) as pool:
        return Counter(pool.map(answer, *zip(*asked, strict=True)))


def command_line(process: psutil.Process) -> list[str]:
    """The words that started a process and those that it has started."""
    return [word for each in (process, *children_of(process.pid)) for word in words_of(each)]


@pytest.mark.slow
def test_without_authentication_a_stranger_is_answered_by_two_ports(shared: Path) -> None:
    """So that the next test can fail."""
    with jvm(shared, '{"spark.authenticate": "false"}') as spark:
        assert answers(spark)[ANSWER] == 2


@pytest.mark.slow
def test_a_stranger_reaches_nothing_of_an_embedded_spark_and_sees_no_setting(shared: Path) -> None:
    with jvm(shared, '{"spark.note": "a note of ours"}') as spark:
        told = answers(spark)
        assert told[REFUSAL] == 4, "both questions at both ports"
        assert not told[ANSWER]
        (folder,) = shared.iterdir()
        settings = folder / "spark.properties"
        sockets = [path for path in folder.iterdir() if path.is_socket()]
        assert len(sockets) == 2, "of accumulators, and of the workers' daemon"
        with a_stranger(), socket.socket(socket.AF_UNIX) as connection, pytest.raises(PermissionError):
            connection.connect(str(sockets[0]))
        assert folder.name.startswith(f".fruitpipe-{spark.ppid()}-")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
        assert "spark.note a\\u0020note\\u0020of\\u0020ours\n" in settings.read_text()
        seen = command_line(spark)
        assert str(settings) in seen
        assert not [word for word in seen if "spark.note" in word or "spark.authenticate" in word]
    assert not list(shared.iterdir())


@pytest.mark.slow
def test_a_run_whose_spills_and_broadcasts_are_encrypted_gives_the_same(fruits: Path, tmp_path: Path) -> None:
    """As the chart has it."""
    encrypted = "spark.conf.spark.io.encryption.enabled=true"
    process("run", fruits, tmp_path / "one", "--set", encrypted, "--backbone", "efficientnet_lite0")
    process("run", fruits, tmp_path / "other", "--backbone", "efficientnet_lite0")
    assert same_vectors(vectors(tmp_path / "one"), vectors(tmp_path / "other"))


@pytest.mark.parametrize(("master", "value"), [("local[*]", "true"), ("local", "true"), ("spark://host:7077", None)])
def test_a_cluster_is_not_asked_for_a_secret_that_it_may_not_have(
    master: str, value: str | None, tmp_path: Path
) -> None:
    environment = Environment.read()
    settings = local_settings(SparkConfig(master=master), environment, find_java(environment), tmp_path)
    assert settings.get("spark.authenticate") == value


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_gone_with_the_next_command(fruits: Path, shared: Path, tmp_path: Path) -> None:
    variables = os.environ | {"TMPDIR": str(shared)}
    settings = ("--set", BACKBONE, "--set", "spark.master=local[2]")
    with subprocess.Popen(command("run", fruits, tmp_path / "out", *settings), env=variables) as run:
        wait(lambda: len(list(shared.glob("*/*.sock"))) == 2 or run.poll() is not None)
        (jvm,) = jvms_of(run.pid)
        run.kill()
    wait(lambda: not lives(jvm))
    left = list(shared.iterdir())
    assert left
    assert all(path.name.startswith(f".fruitpipe-{run.pid}-") for path in left)
    process("plan", fruits, tmp_path / "out", "--set", BACKBONE, variables=variables)
    assert not list(shared.iterdir())


def test_only_folders_of_this_user_that_nobody_holds_are_cleared_away(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with a_stranger():
        (shared / ".fruitpipe-1-another").mkdir()
        (shared / ".fruitpipe-1-link").symlink_to(tmp_path)
    (shared / ".fruitpipe-1-mine").mkdir()
    (shared / "fruitpipe-1-mine").mkdir()
    with private_folder(shared) as held:
        (held / "file").touch()
        with private_folder(shared) as other:
            assert {path.name for path in shared.iterdir()} == {
                ".fruitpipe-1-another", ".fruitpipe-1-link", "fruitpipe-1-mine", held.name, other.name,
            }  # fmt: skip
        assert (held / "file").exists()
    assert (tmp_path / "file").exists()
    assert {path.name for path in shared.iterdir()} == {".fruitpipe-1-another", ".fruitpipe-1-link", "fruitpipe-1-mine"}


def test_vectors_are_written_where_nobody_else_writes(shared: Path) -> None:
    with whole_file(str(shared / "vectors.parquet"), None) as temporary:
        (folder,) = shared.iterdir()
        assert temporary.parent == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        temporary.write_bytes(b"vectors")
    assert [path.read_bytes() for path in shared.iterdir()] == [b"vectors"]


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path / "out"))
    store.create()
    (store.root / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"\.lock is a link, .*: put there"):
        store.swap("lease.json", None, b"mine")
    guessed = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: guessed)
    (store.root / f".lease.json.{guessed.hex[:8]}.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        store.put("lease.json", b"mine")
    assert not (tmp_path / "elsewhere").exists()
