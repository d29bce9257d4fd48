"""What the verbs print for people: lines, rows and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fruitpipe.backbones.catalogue import Entry
from fruitpipe.backbones.family import Listed
from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.escapes import visible
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import Run, RunRow
from fruitpipe.streams import is_terminal, styled
from fruitpipe.units import counted, duration, size

if TYPE_CHECKING:  # most verbs need nothing of it
    from fruitpipe.findings.similar import Described, Similar
    from fruitpipe.pipeline.preview import Planned
    from fruitpipe.result.garbage import Garbage

SHOWN = 10
"""Names of what is left alone: there may be a photograph to each."""


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Print a name and a value per line."""
    found = list(rows)
    width = max([11, *(len(name) for name, _ in found)])
    for name, value in found:
        print(f"{visible(name, kept=''):<{width}} {visible(str(value), kept='')}")


def print_table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; elsewhere, no line is cut.

    words, numbers: the columns, those of numbers to the right. What a row has beyond them is a remark.
    """
    table = Table(box=None, pad_edge=False)
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(visible(cell, kept="")) for cell in row))
    width = None if is_terminal(sys.stdout) else 1000
    console = Console(file=styled(sys.stdout), highlight=False, width=width)
    with console.capture() as drawn:
        console.print(table)
    console.file.write("\n".join(line.rstrip() for line in drawn.get().split("\n")))


def facts_of(run: Run) -> dict[str, Any]:
    """Facts about a run that has just ended, for scripts."""
    manifest = run.manifest
    return {
        "status": "unchanged" if run.reason else "published",
        "reason": run.reason,
        "run": run.id,
        "vectors": run.vectors,
        "model": run.path("model"),
        "report": run.path("report.html"),
        "images": manifest.counts.images,
        "failed": manifest.counts.failed,
        "components": manifest.model.components,
        "explained": manifest.model.explained,
    }


def facts_of_several(runs: Mapping[str, Run], errors: Mapping[str, FruitpipeError]) -> dict[str, Any]:
    """The same of runs by their names, and of those that have failed."""
    failed = {name: {"status": "failed", "reason": str(error)} for name, error in errors.items()}
    return {name: facts_of(run) for name, run in runs.items()} | failed


def print_outcome(run: Run, name: str = "") -> None:
    """Print the result of a run that has just ended, or that there was no need for.

    name: of the run, where there are several.
    """
    manifest = run.manifest
    if name:
        print(f"\n{visible(name)}")
    if run.reason:
        print(f"\n{run.reason}.")
        print_places(run)
        return
    counts, model = manifest.counts, manifest.model
    print_notes(manifest)
    failed = f", {counts.failed} failed (failures.parquet says why)" if counts.failed else ""
    gone = f", {manifest.plan.gone} of earlier runs gone" if manifest.plan.gone else ""
    kept = f"components, {model.explained:.1%} of the variance" if model.explained is not None else "features"
    print(f"\n{counts.ok} images to vectors of {model.components} {kept}{failed}{gone}.")
    if drift := manifest.drift:
        print(
            f"drift: {drift.beyond_p99:.1%} of the images lie beyond the fit's 99th percentile (1 % expected); "
            f"reconstruction error {drift.reconstruction_error:.3g}, {drift.fit_reconstruction_error:.3g} at the fit."
        )
    for record in manifest.records.values():
        if not record.rows:
            print(f"{record.label}: {record.note}.")
    print_places(run)


def outcome_line(name: str, run: Run) -> str:
    """What Kubernetes shows of a run that has ended well. name: as `print_outcome` has it."""
    counts = run.manifest.counts
    said = f"{run.reason or f'published run {run.id}'}: {counts.ok} images, {counts.failed} failed"
    return f"{name}: {said}" if name else said


def print_places(run: Run) -> None:
    print(f"vectors  {run.vectors}\nmodel    {run.path('model')}\nreport   {run.path('report.html')}\n")


def print_plan(planned: Planned, config: Config, name: str = "") -> None:
    """Print a plan. name: as `print_outcome` has it."""
    if name:
        print(f"\n{visible(name)}")
    print_rows(planned.in_rows().items())
    fits = config.model == "fit" and config.pca != "none"
    if planned.is_latest:
        said = f"nothing to do: run {planned.precedent} already covers these images with this config"
    elif planned.precedent:
        said = f"a run would publish run {planned.precedent} again, which already covers these images with this config"
    else:
        said = (
            f"a run would featurize {planned.todo} images with {config.backbone}, then "
            f"{'fit and ' if fits else ''}project {planned.known + planned.todo}"
        )
    print(f"\n{said}.")


def print_runs(rows: Iterable[RunRow]) -> None:
    def cells(row: RunRow) -> list[str]:
        counts = (row.images, row.new, row.failed, row.components)
        explained = f"{row.explained:.1%}" if row.explained is not None else ""
        time = duration(row.seconds) if row.seconds is not None else ""
        numbers = ["" if count is None else str(count) for count in counts]
        return [row.run, row.status, *numbers, explained, time, row.reason or ""]

    print_table(("run", "status"), ("images", "new", "failed", "k", "explained", "time"), map(cells, rows))


def print_run(run: Run) -> None:
    """Print a published run: counts, model, times, places."""
    print_rows(run.in_rows().items())
    print_notes(run.manifest)


def print_notes(manifest: Manifest) -> None:
    for warning in manifest.warnings:
        print(f"note: {visible(warning, kept='')}.")


def facts_of_garbage(garbage: Garbage) -> dict[str, Any]:
    """What is deleted or would be, and what is left alone, for scripts."""
    return {
        "bytes": sum(each.bytes for each in garbage.objects),
        "objects": [each.name for each in garbage.objects],
        "uploads": [each.name for each in garbage.uploads],
        "left_alone": garbage.others,
        "notes": garbage.notes,
    }


def print_garbage(garbage: Garbage, deleted: bool) -> None:
    """Print what is deleted or would be, all of it, and what is left alone."""
    for each in garbage.objects:
        print(f"{size(each.bytes):>10}  {each.name}")
    for upload in garbage.uploads:
        print(f"    upload  {upload.name}")
    uploads = f" and {counted(len(garbage.uploads), 'unfinished upload')}" if garbage.uploads else ""
    total = size(sum(each.bytes for each in garbage.objects))
    print(f"{'deleted' if deleted else 'would delete'} {counted(len(garbage.objects), 'object')}{uploads}, {total}")
    if garbage.others:
        named, rest = visible(", ".join(garbage.others[:SHOWN]), kept=""), len(garbage.others) - SHOWN
        print(f"left alone, as not fruitpipe's: {named}{f' and {rest} more' if rest > 0 else ''}")
    for note in garbage.notes:
        print(f"note: {visible(note, kept='')}")


def print_similar(found: Iterable[Similar | Described]) -> None:
    """Print a table of what is most like some images and texts."""
    from fruitpipe.findings.similar import Described

    rows = []
    for each in found:
        if isinstance(each, Described):
            rows += [[each.text, "", "", "text"]]
        else:
            rows += [[each.image, "", "", "" if each.of_run else "new"]]
        rows += [[f"  {match.path}", match.label or "", f"{match.distance:.4g}"] for match in each.matches]
    print_table(("image", "label"), ("distance",), rows)


def print_backbones(rows: Iterable[Listed]) -> None:
    def cells(row: Listed) -> list[str]:
        disk = size(row.bytes) if row.bytes else ""
        return [row.name, *shape_cells(row.dimension, row.input_size, row.parameters), disk]

    print_table(("backbone",), ("features", "input", "parameters", "on disk"), map(cells, rows))


def print_catalogue(entries: Iterable[Entry]) -> None:
    """Print a line for each network. The speed is that of a core, beside mobilenet_v2's."""

    def cells(entry: Entry) -> list[str]:
        numbers = shape_cells(entry.dimension, entry.size, entry.parameters)
        return [entry.name, entry.licence or "", *numbers, times(entry.speed), entry.good_for or ""]

    print_table(("backbone", "licence"), ("features", "input", "parameters", "speed"), map(cells, entries))


def print_entry(entry: Entry) -> None:
    """Print all that is known of a network, and what a config says to have it."""
    features, pixels, parameters = shape_cells(entry.dimension, entry.size, entry.parameters)
    speed = f"{times(entry.speed)} mobilenet_v2's images per second" if entry.speed else ""
    rows = {
        "good for": entry.good_for,
        "features": features,
        "input": pixels,
        "parameters": parameters,
        "speed": speed,
        "licence": entry.licence,
        "weights": entry.weights,
        "backbone": " or ".join(entry.backbones),
    }
    print_rows((name, value) for name, value in rows.items() if value)
    if entry.sidecar:
        print(f"\n# {entry.name}.yaml, beside {entry.file}\n{entry.sidecar_text}", end="")


def shape_cells(dimension: int, side: int, parameters: int | None) -> list[str]:
    return [str(dimension), f"{side} x {side}", f"{parameters / 1e6:.1f} M" if parameters else ""]


def times(speed: float | None) -> str:
    return f"{speed:.2g} x" if speed else ""
