"""How far a run is, by its driver's own figures."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from fruitpipe.releases.connection import Connection
from fruitpipe.releases.plain import Plain, dig


class Progress(NamedTuple):
    """Figures of one moment."""

    stage: str
    """the one that runs; empty before the first"""
    done: int
    """images featurized by this run, failed ones among them"""
    total: int
    """images that this run featurizes, as far as it is known by now"""
    failed: int
    rate: float
    """images per second, mean of the stage"""

    @property
    def remaining(self) -> float | None:
        """Estimated seconds until all images are featurized; None where there is no speed yet."""
        return (self.total - self.done) / self.rate if self.rate and self.total > self.done else None


def progress_of(connection: Connection, driver: Plain) -> Progress | None:
    """What a driver's metrics say; None where it serves none, or not yet."""
    port = next((each["containerPort"] for each in ports(driver) if each.get("name") == "metrics"), None)
    if port is None:
        return None
    try:
        return parsed(metrics(connection, driver["metadata"]["name"], port))
    except OSError:  # it starts, or ends
        return None


def ports(pod: Plain) -> list[Plain]:
    return [port for container in dig(pod, "spec", "containers", default=[]) for port in container.get("ports", [])]


def metrics(connection: Connection, pod: str, port: int) -> str:
    """The text that a pod serves. Raises OSError where it serves none."""
    answer = connection.ask(pod, port, b"GET /metrics HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError("no metrics")
    return body.decode(errors="replace")


def parsed(text: str) -> Progress:
    """The figures in metrics of a run."""
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    statuses = {key[1]: int(value) for key, value in found.items() if key[0] == "fruitpipe_images_total"}
    stages = [key[1] for key, value in found.items() if key[0] == "fruitpipe_stage" and value]
    done = sum(statuses.values())
    return Progress(
        stage=stages[0] if stages else "",
        done=done,
        total=done + int(found.get(("fruitpipe_backlog_images",), 0)),
        failed=done - statuses.get("ok", 0),
        rate=found.get(("fruitpipe_images_per_second",), 0.0),
    )
