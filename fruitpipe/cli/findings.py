"""Verbs about what is found in the vectors of a run: neighbours, curate, similar."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson, ConfigFile, Given, MetricName, Result, RunArgument, Set

commands = typer.Typer()


Neighbours = Annotated[int, typer.Option("--k", min=1, max=1000, help="How many neighbours, the nearest.")]
ByMetric = Annotated[MetricName, typer.Option("--metric", help="By the angle between vectors, or by their distance.")]


@commands.command()
def neighbours(
    out: Result,
    run_id: RunArgument = "latest",
    k: Neighbours = 12,
    metric: ByMetric = MetricName.cosine,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
    as_json: AsJson = False,
) -> None:
    """Find the nearest images of each image of a run, all compared with all. Resumes where it stopped."""
    from fruitpipe.pipeline.neighbours import find, note
    from fruitpipe.pipeline.progress import reporter_for

    given = Given(config_file, assignments)
    store, config = given.store(out), given.config(["IMAGES", out])
    reporter = reporter_for(sys.stderr)
    try:
        found, before = find(store, run_id, k, metric.value, config.spark, reporter)
    finally:
        reporter.close()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from fruitpipe.storage import layout

    folder = store.location(layout.neighbours(found.run, found.metric, found.k)).removesuffix(".json")
    print(f"{note(found)}{', as before' if before else ''}.\nneighbours  {folder}")
    print(f"next: fruitpipe curate {given.on_result(out, found.run)}")


@commands.command()
def curate(
    out: Result,
    run_id: RunArgument = "latest",
    file: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.parquet", help="Write a table of all images here."),
    ] = None,
    representatives: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many images to choose that stand for all.")
    ] = 100,
    limit: Annotated[
        float | None,
        typer.Option(
            "--duplicates",
            min=0,
            metavar="DISTANCE",
            help="Up to which images count as duplicates; by default, the data decide.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="LABEL,LABEL...", help="Check labels: which of these, as texts, fits each image best."),
    ] = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Judge the images of a run by their neighbours: outliers, doubtful labels, duplicates, some that stand for all.

    Where neighbours were found more than once, those by cosine count, and of these the longest lists.
    """
    import pyarrow.parquet as pq

    from fruitpipe.cli import present
    from fruitpipe.findings.curation import curate as curated
    from fruitpipe.findings.neighbours import require_neighbours
    from fruitpipe.model.transform import whole_file
    from fruitpipe.result.runs import open_run

    given = Given(config_file, assignments)
    run = open_run(given.store(out), run_id)
    texts = [each.strip() for each in labels.split(",")] if labels is not None else []
    table = whole_file(file, given.config(["IMAGES", out]).s3) if file is not None else nullcontext()
    with table as temporary:
        found = curated(run, require_neighbours(run.store, run.manifest), representatives, limit, texts)
        if temporary:
            pq.write_table(found.table, temporary, compression="zstd")
    if as_json:
        print_json(found.facts() | {"table": file})
        return
    present.print_rows(found.in_rows())
    if file is not None:
        print(f"table       {file}")


@commands.command()
def similar(
    out: Result,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Images of the run by their paths, or other images.")
    ] = None,
    texts: Annotated[list[str], typer.Option("--text", metavar="TEXT", help="A description; repeatable.")] = [],  # noqa: B006
    run_id: Annotated[str, typer.Option("--run", metavar="RUN", help="Run id.")] = "latest",
    k: Neighbours = 12,
    metric: ByMetric = MetricName.cosine,
    html: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a page with pictures, too.")] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="CLASS", help="The class that the run's model names, if it may run here.")
    ] = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show which images of a run are most like some images or texts: without Spark, in a second or two."""
    from fruitpipe.cli import present
    from fruitpipe.errors import UserError
    from fruitpipe.findings.similar import Described, Similar, find_similar, page
    from fruitpipe.findings.texts import find_described
    from fruitpipe.model.transform import whole_file
    from fruitpipe.result.runs import open_run

    given = Given(config_file, assignments)
    s3 = given.config(["IMAGES", out]).s3
    run = open_run(given.store(out), run_id)
    if not images and not texts:
        raise UserError("nothing to compare with: name an image, or describe one by --text.")
    with whole_file(html, s3, "similar.html") if html is not None else nullcontext() as temporary:
        found: list[Similar | Described] = [*find_similar(run, images, k, metric.value, s3, backbone)] if images else []
        if texts:
            found += find_described(run, texts, k, metric.value)
        if temporary:
            temporary.write_text(page(run, found, metric.value, s3), encoding="utf-8")
    if as_json:
        print_json([asdict(each) for each in found])
        return
    present.print_similar(found)
    if html is not None:
        print(f"page        {html}")
