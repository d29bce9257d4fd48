"""PromQL in the chart: what dashboard and alerts ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import yaml


def queries(chart: Path) -> list[str]:
    """All queries of the dashboard and of the alerts."""
    dashboard = json.loads((chart / "files/dashboard.json").read_text())
    alerts = yaml.safe_load((chart / "files/alerts.yaml").read_text().replace("@max_rate@", "0.05"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def metric_names(query: str) -> Iterator[str]:
    """Names of the metrics in a query; fails where it is not PromQL."""
    return iter(re.findall(r"\b(?:fruitpipe|metrics)_\w+", promql_parser.parse(query).prettify()))
