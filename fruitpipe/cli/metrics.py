"""Tell Prometheus how a run goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


@contextmanager
def serving(reporter: Reporter, port: int | None) -> Iterator[None]:
    """Serve metrics of a run at http://0.0.0.0:port/metrics, if there is a port, until the block ends.

    Raises UserError where the port is taken or forbidden.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(RunCollector(reporter))
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        raise UserError(f"cannot serve metrics at port {port} ({error.strerror}): choose another.") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
