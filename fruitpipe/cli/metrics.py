"""Tell Prometheus how a run goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fruitpipe.errors import UserError
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.vision.bad_image import OK


class RunCollector(Collector):
    """What a reporter knows at the moment when Prometheus asks."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterable[Metric]:
        reporter = self._reporter
        images = CounterMetricFamily("fruitpipe_images", "Images featurized by this run.", labels=["status"])
        for status, count in ({OK: 0} | dict(reporter.statuses)).items():
            images.add_metric([status], count)
        yield images
        yield CounterMetricFamily("fruitpipe_read_bytes", "Bytes of images read by this run.", reporter.bytes)
        left = reporter.total - reporter.done
        yield GaugeMetricFamily("fruitpipe_backlog_images", "Images that this stage has yet to do.", left)
        yield GaugeMetricFamily("fruitpipe_images_per_second", "Mean speed of this stage.", reporter.rate)
        stage = GaugeMetricFamily("fruitpipe_stage", "1 for the stage that runs.", labels=["stage"])
        seconds = GaugeMetricFamily("fruitpipe_stage_seconds", "Time in each stage so far.", labels=["stage"])
        times = dict(reporter.timings)
        if current := reporter.stage_name:
            stage.add_metric([current], 1)
            times.setdefault(current, reporter.seconds)
        for name, time in times.items():
            seconds.add_metric([name], time)
        yield stage
        yield seconds


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(given: str, in_pod: bool) -> Address:
    """The address that `[ADDRESS:]PORT` means. Without a host, a pod listens to all, and a machine to itself.

    Raises UserError where there is no port in it.
    """
    host, _, port = given.rpartition(":")
    if not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UserError(f"--metrics: {given!r} has no port from 1 to 65535: say one, such as 9000 or 0.0.0.0:9000.")
    return Address(host.strip("[]") or ("0.0.0.0" if in_pod else "127.0.0.1"), int(port))


@contextmanager
def serving(reporter: Reporter, address: Address | None) -> Iterator[None]:
    """Serve metrics of a run at http://ADDRESS/metrics, if there is one, until the block ends, and say where.

    Raises UserError where the port is taken or forbidden, or this machine has no such address.
    """
    if address is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(RunCollector(reporter))
    try:
        server, thread = start_http_server(address.port, address.host, registry=registry)
    except OSError as error:
        raise UserError(f"cannot serve metrics at {address} ({error.strerror}): choose another.") from error
    try:
        reporter.note(f"metrics: http://{address}/metrics")
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
