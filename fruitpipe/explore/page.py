"""The page: one HTML file, which needs no other and asks for none."""

from __future__ import annotations

from importlib.resources import files
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fruitpipe.errors import FruitpipeError
from fruitpipe.escapes import visible
from fruitpipe.explore.columns import codes, numbers, quantised, texts
from fruitpipe.explore.comparison import compare
from fruitpipe.explore.facts import Entry, Facts, Listing, facts_of
from fruitpipe.explore.judgement import judge
from fruitpipe.explore.loss import measure_loss
from fruitpipe.explore.pictures import LARGEST_PAGE, listed, pictures_of
from fruitpipe.result.pages import pages
from fruitpipe.result.report import curve
from fruitpipe.result.runs import Run
from fruitpipe.storage import layout
from fruitpipe.storage.lease import Lease
from fruitpipe.tasks.reduce import spread

SCRIPTS = ("columns.js", "map.js", "legend.js", "nearest.js", "pictures.js", "page.js")
COLOURS = 8
MOST_LABELS, TOLD_APART = 2000, 60_000
"""Labels that are listed, and those whose names images have; two bytes hold no more."""
SAMPLE = 2000
"""Images in the picture that a browser shows which runs no scripts, or prints."""
STILL = (1000, 700)
PAGES = pages("fruitpipe.explore")


class Dot(NamedTuple):
    """An image in the still picture, in its pixels."""

    x: float
    y: float
    colour: int
    title: str


class Line(NamedTuple):
    """An entry of a list as it is shown."""

    row: int | None
    path: str
    value: str


def render(facts: Facts, run: Run) -> str:
    """The page of a run. Raises FruitpipeError where features are damaged that its pictures need."""
    manifest, model = facts.manifest, facts.manifest.model
    reduced = model.explained is not None
    axis = "Component" if reduced else "Feature"
    kept, root = facts.components.shape[1], root_of(facts.paths)
    components, step = quantised(facts.components)
    columns = {f"component-{number}": numbers(components[:, number]) for number in range(kept)}
    if facts.positions is not None:
        placed, _ = quantised(facts.positions)
        columns |= {"layout-x": numbers(placed[:, 0]), "layout-y": numbers(placed[:, 1])}
    names = [label.name for label in facts.labels[:TOLD_APART]]
    names += ["a rarer label"] if len(facts.labels) > TOLD_APART else []
    columns["label"] = numbers(codes(np.minimum(facts.label, TOLD_APART), len(names)))
    columns |= {f"grouping-{number}": numbers(each.group) for number, each in enumerate(facts.groupings)}
    columns |= {f"measure-{number}": numbers(each.levels) for number, each in enumerate(facts.measures)}
    nearest, lists = facts.nearest.columns(listed(facts)) if facts.nearest else (None, {})
    columns |= lists
    columns |= {f"path-{name}": column for name, column in texts(facts.paths.to_pylist()).items()}
    pictures = pictures_of(run, facts, LARGEST_PAGE - sum(map(len, columns.values())))
    columns |= pictures.columns if pictures else {}
    return PAGES.get_template("page.html").render(
        script="\n".join(map(read, SCRIPTS)),
        style=read("page.css"),
        run=manifest.run,
        compared=facts.compared,
        images=len(facts.label),
        failed=manifest.counts.failed,
        labels=facts.labels,
        most_labels=MOST_LABELS,
        laid_out=facts.positions is not None,
        axis_name=axis,
        axes=[f"{axis[0]}{number + 1}" for number in range(kept)],
        groupings=facts.groupings,
        measures=facts.measures,
        dots=still(facts),
        listings=[shown(facts, listing, root) for listing in facts.listings],
        causes=facts.causes,
        curve=curve(model),
        components=model.components,
        records=list(manifest.records.values()),
        rows=[(name, value) for name, value in manifest.in_rows().items() if name == name.strip()],  # tables are above
        warnings=manifest.warnings,
        facts={
            "run": manifest.run,
            "images": len(facts.label),
            "labels": names,
            "layout": facts.positions is not None,
            "components": kept,
            "kept": model.components,
            "step": step,
            "root": root,
            "axis": axis,
            "nearest": nearest,
            "groupings": [{"title": each.title, "names": each.names, "rest": each.rest} for each in facts.groupings],
            "pictures": pictures and pictures.facts,
            "measures": [{"title": each.title, "most": each.most, "unit": each.unit} for each in facts.measures],
        },
        columns=columns,
    )


def page_of(run: Run, other: Run | None = None) -> bytes:
    """The page of a published run, with what differs in another one. Raises UserError where either is damaged."""
    facts = judge(measure_loss(facts_of(run), run), run)
    return render(facts if other is None else compare(facts, other), run).encode()


def add_page(run: Run, other: Run | None = None) -> tuple[str, int]:
    """Put a page, as `page_of` makes it, beside the report of its run, and say where, and how large it is.

    Raises UserError where somebody is writing, or nobody can: before the page is made, which takes time.
    """

    def held() -> Lease:
        return Lease(run.store, "fruitpipe explore")

    try:
        with held():
            pass  # for as long as the page takes to be made, a run might want to write
    except FruitpipeError as error:
        raise type(error)(f"{error} The page itself may be anywhere: `-o page.html`.") from error
    page, name = page_of(run, other), layout.explore(run.id)
    with held():
        run.store.put(name, page)
    return run.store.location(name), len(page)


def read(name: str) -> str:
    return (files("fruitpipe.explore") / name).read_text(encoding="utf-8")


def root_of(paths: pa.ChunkedArray) -> str:
    """The folder that all paths lie in, with a slash; empty where there is none."""
    first, last = pc.min_max(paths).as_py().values()
    folders = takewhile(lambda pair: pair[0] == pair[1], zip(first.split("/")[:-1], last.split("/")[:-1], strict=False))
    return "".join(f"{folder}/" for folder, _ in folders)


def still(facts: Facts) -> list[Dot]:
    """Some images, evenly spaced, in the plane that the page begins with."""
    rows = spread(len(facts.label), SAMPLE)
    plane = facts.components[:, :2] if facts.positions is None else facts.positions
    x, y = (scaled(plane[rows, side], STILL[side]) for side in (0, 1))
    paths = facts.paths.take(rows).to_pylist()
    return [
        Dot(round(float(a), 1), round(STILL[1] - float(b), 1), label % COLOURS, f"{path} ({facts.labels[label].name})")
        for a, b, label, path in zip(x, y, facts.label[rows].tolist(), paths, strict=True)
    ]


def scaled(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """From 0 to a length."""
    low, extent = values.min(), float(np.ptp(values))
    return (values - low) * np.float32(length / extent) if extent else np.full_like(values, length / 2)


def shown(facts: Facts, listing: Listing, root: str) -> dict[str, Any]:
    """A list as the template takes it, with paths from `root` on."""

    def line(entry: Entry) -> Line:
        row = entry.image if isinstance(entry.image, int) else None
        path = str(facts.paths[row].as_py() if row is not None else entry.image)
        return Line(row, visible(path.removeprefix(root), kept=""), entry.value)

    return {**vars(listing), "entries": [line(entry) for entry in listing.entries]}
