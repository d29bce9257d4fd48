"""The report of a run: one self-contained HTML file with SVG figures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple

import jinja2

from fruitpipe.escapes import visible
from fruitpipe.numeric.pca import components_for
from fruitpipe.result.manifest import Manifest, ModelFacts
from fruitpipe.units import duration

WIDTH, HEIGHT = 640, 300
MOST_LABELS = 40
"""Bars in the page; a run may have thousands of labels."""

PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("fruitpipe", "."),
    autoescape=True,
    trim_blocks=True,
    finalize=lambda value: visible(value) if type(value) is str else value,
)
PAGES.filters["source"] = lambda text: f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
"""How a Content-Security-Policy names a text of the page itself (CSP Level 3, 2.3.1): whatever else gets into the page
neither runs nor styles anything, and nothing is loaded from anywhere."""


class Dot(NamedTuple):
    """An image in the plane of the first two components; x and y in pixels, hue in degrees."""

    x: float
    y: float
    hue: int
    label: str


class Mark(NamedTuple):
    """The fewest components that explain a share of the variance."""

    share: float
    components: int
    x: float
    y: float


class Curve(NamedTuple):
    """Explained variance against components: points of a polyline, the marks on it, and where the run is."""

    points: str
    marks: list[Mark]
    kept: tuple[float, float]


def render(manifest: Manifest, sample: Sequence[tuple[str, float, float]]) -> str:
    """The page.

    sample: label and first two components of some images.
    """
    labels = list(manifest.counts.by_label.items())
    hues = {label: round(360 * index / max(len(labels), 1)) for index, (label, _) in enumerate(sorted(labels))}
    page = PAGES.get_template("result/report.html")
    return page.render(
        manifest=manifest,
        duration=duration((manifest.finished - manifest.started).total_seconds()),
        width=WIDTH,
        height=HEIGHT,
        curve=curve(manifest.model),
        labels=labels[:MOST_LABELS],
        more_labels=len(labels) - MOST_LABELS,
        hues=hues,
        dots=scatter(sample, hues),
    )


def place(component: int, explained: float, count: int) -> tuple[float, float]:
    """Where a point of the curve lies, pixels. Components are on a square-root scale: the first ones matter most."""
    return WIDTH * (component / count) ** 0.5, HEIGHT * (1 - explained)


def curve(model: ModelFacts) -> Curve | None:
    """The curve of a model; None without a PCA."""
    if model.explained is None:
        return None
    cumulative = list(accumulate(model.explained_variance_ratio))
    points = (place(k, share, len(cumulative)) for k, share in enumerate([0.0, *cumulative]))
    return Curve(
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        marks=marks(cumulative),
        kept=place(model.components, model.explained, len(cumulative)),
    )


def marks(cumulative: Sequence[float]) -> list[Mark]:
    found = []
    for share in (0.5, 0.9, 0.95, 0.99):
        k = components_for(cumulative, share)
        if k <= len(cumulative):
            found.append(Mark(share, k, *place(k, share, len(cumulative))))
    return found


def scatter(sample: Sequence[tuple[str, float, float]], hues: dict[str, int]) -> list[Dot]:
    """Images scaled into the picture, with a margin."""

    def scaled(values: list[float], length: int) -> list[float]:
        low, high = min(values), max(values)
        return [8 + (length - 16) * ((value - low) / (high - low) if high > low else 0.5) for value in values]

    if not sample:
        return []
    xs = scaled([x for _, x, _ in sample], WIDTH)
    ys = scaled([-y for _, _, y in sample], HEIGHT)
    names = [label for label, _, _ in sample]
    return [Dot(x, y, hues.get(name, 0), name) for x, y, name in zip(xs, ys, names, strict=True)]
