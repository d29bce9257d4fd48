"""What Prometheus would be told, asked as it asks."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest
from command import command
from prometheus_client import CollectorRegistry, generate_latest

from fruitpipe.cli.metrics import Address, RunCollector, address_of, serving
from fruitpipe.errors import UserError
from fruitpipe.pipeline.progress import PlainReporter, Reporter


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def scrape(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def value(text: str, name: str) -> float | None:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def test_a_stage_in_its_middle() -> None:
    reporter, port = Reporter(), free_port()
    with serving(reporter, Address("127.0.0.1", port)):
        assert value(scrape(port), 'fruitpipe_images_total{status="ok"}') == 0
        with reporter.stage("list"):
            pass
        with reporter.stage("featurize", 50):
            reporter.advance(Counter(ok=8, undecodable=2), 2, 4096)
            text = scrape(port)
    assert value(text, 'fruitpipe_images_total{status="ok"}') == 8
    assert value(text, 'fruitpipe_images_total{status="undecodable"}') == 2
    assert value(text, "fruitpipe_read_bytes_total") == 4096
    assert value(text, "fruitpipe_backlog_images") == 40
    assert value(text, 'fruitpipe_stage{stage="featurize"}') == 1
    assert value(text, 'fruitpipe_stage{stage="list"}') is None
    assert (value(text, "fruitpipe_images_per_second") or 0) > 0
    assert (value(text, 'fruitpipe_stage_seconds{stage="featurize"}') or 0) > 0


def test_nothing_is_served_afterwards() -> None:
    port, before = free_port(), threading.active_count()
    with serving(Reporter(), Address("127.0.0.1", port)):
        scrape(port)
    with pytest.raises(OSError, match="refused"):
        scrape(port)
    assert threading.active_count() == before


def test_nothing_is_served_without_a_port() -> None:
    before = threading.active_count()
    with serving(Reporter(), None):
        assert threading.active_count() == before


def test_a_port_that_is_taken_is_a_users_mistake() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(UserError, match="choose another"), serving(Reporter(), Address(*other.getsockname())):
            pass


@pytest.mark.parametrize("address", ["256.0.0.1", "192.0.2.1"])
def test_an_address_that_is_none_of_this_machine_is_a_users_mistake(address: str) -> None:
    with (
        pytest.raises(UserError, match=f"cannot serve metrics at {address}:9000"),
        serving(Reporter(), Address(address, 9000)),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "in_pod", "address"),
    [
        ("9000", False, "127.0.0.1:9000"),
        ("9000", True, "0.0.0.0:9000"),
        ("0.0.0.0:9000", False, "0.0.0.0:9000"),
        ("127.0.0.1:9000", True, "127.0.0.1:9000"),
        ("[::1]:9000", False, "[::1]:9000"),
    ],
)
def test_a_machine_keeps_its_metrics_to_itself_unless_told_otherwise(given: str, in_pod: bool, address: str) -> None:
    assert str(address_of(given, in_pod)) == address


@pytest.mark.parametrize("given", ["0", "65536", "port", "localhost:", "", "127.0.0.1"])
def test_what_has_no_port_is_a_users_mistake(given: str) -> None:
    with pytest.raises(UserError, match="has no port"):
        address_of(given, in_pod=False)


def test_one_line_says_where_metrics_are() -> None:
    stream, address = io.StringIO(), Address("127.0.0.1", free_port())
    with serving(PlainReporter(stream=stream), address):
        assert stream.getvalue() == f"metrics: http://127.0.0.1:{address.port}/metrics\n"


@pytest.mark.slow
def test_a_run_counts_its_images_and_their_bytes(fruits: Path, tmp_path: Path) -> None:
    port, text = free_port(), ""
    options = ("--set", "backbone=efficientnet_lite0", "--metrics", port)
    with subprocess.Popen(command("run", fruits, tmp_path / "out", *options)) as running:
        while running.poll() is None:
            with suppress(OSError, HTTPException):  # not there yet, or not any more
                text = scrape(port) or text  # a server that ends may say nothing
            time.sleep(0.02)
    assert running.returncode == 0
    assert value(text, 'fruitpipe_images_total{status="ok"}') == 320
    assert value(text, "fruitpipe_read_bytes_total") == sum(path.stat().st_size for path in fruits.rglob("*.*"))
    assert value(text, "fruitpipe_backlog_images") == 0


def test_the_page_has_their_names() -> None:
    page = (Path(__file__).parents[1] / "docs/kubernetes.md").read_text()
    registry = CollectorRegistry()
    registry.register(RunCollector(Reporter()))
    samples = re.findall(r"^(\w+)(?:\{(\w+)=|[ {])", generate_latest(registry).decode(), re.MULTILINE)
    kinds = re.findall(r"^# TYPE (\w+) ", generate_latest(registry).decode(), re.MULTILINE)
    rows = dict(re.findall(r"^\| `(fruitpipe_\w+)(?:\{(\w+)\})?` \|", page, re.MULTILINE))
    assert list(rows) == kinds
    assert dict(samples).items() <= rows.items()
