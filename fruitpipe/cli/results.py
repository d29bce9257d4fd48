"""Verbs on a result and its runs: runs, show, explore, open, publish, gc."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson, ConfigFile, Given, Result, RunArgument, Set
from fruitpipe.config import PublishConfig
from fruitpipe.errors import UserError
from fruitpipe.units import size

commands = typer.Typer()


@commands.command()
def runs(
    out: Result,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
    as_json: AsJson = False,
) -> None:
    """List the runs of a result."""
    from fruitpipe.cli import present
    from fruitpipe.result.runs import list_runs

    rows = list_runs(Given(config_file, assignments).store(out))
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    present.print_runs(rows)


@commands.command()
def show(
    out: Result,
    run_id: RunArgument = "latest",
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show one run: counts, model, times, files."""
    from fruitpipe.cli import present
    from fruitpipe.result.runs import open_run

    shown = open_run(Given(config_file, assignments).store(out), run_id)
    if as_json:
        print_json(shown.manifest.model_dump(mode="json"))
        return
    present.print_run(shown)


@commands.command()
def explore(
    out: Result,
    run_id: RunArgument = "latest",
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another run of OUT: what moved, came and went since.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="Write it there, instead of beside the run's report."),
    ] = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Make a page that shows all images of a run on a map: one file, which needs no network."""
    from fruitpipe.explore.page import add_page, page_of
    from fruitpipe.model.transform import whole_file
    from fruitpipe.result.runs import open_run

    given = Given(config_file, assignments)
    store = given.store(out)
    shown = open_run(store, run_id)
    compared = open_run(store, other) if other else None
    if file is not None:
        with whole_file(file, given.config(["IMAGES", out]).s3, "page.html") as temporary:
            written = temporary.write_bytes(page_of(shown, compared))
        place = file
    else:
        place, written = add_page(shown, compared)
    if as_json:
        print_json({"run": shown.id, "page": place, "bytes": written})
        return
    print(f"{place}: {shown.manifest.counts.ok} images, {size(written)}")
    if file is None:
        print(f"next: fruitpipe open {given.on_result(out, shown.id)}")


@commands.command("open")
def open_page(
    out: Result,
    run_id: RunArgument = "latest",
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Open a run's page of all images in the browser, or its report where there is none."""
    import webbrowser

    from fruitpipe.result.page_on_disk import page_on_disk
    from fruitpipe.result.runs import open_run

    page = page_on_disk(open_run(Given(config_file, assignments).store(out), run_id))
    opened = webbrowser.open(page.as_uri())
    if as_json:
        print_json({"page": str(page), "opened": opened})
        return
    print(page if opened else f"{page}: there is no browser here to open it")


@commands.command()
def publish(
    out: Result,
    run_id: RunArgument,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Point latest.json, and the tables that the config publishes to, at another run: roll back, or forward again."""
    from fruitpipe.catalogs import check_tables, register
    from fruitpipe.result import runs

    given = Given(config_file, assignments)
    store, tables = given.store(out), given.config(["IMAGES", out]).publish
    if tables == PublishConfig():  # those that hold what is published now
        with suppress(UserError):  # there may be none that can be read: this is to mend that
            tables = runs.open_run(store).manifest.config.publish
    check_tables(tables, store)
    published = runs.publish(store, run_id, partial(register, tables))
    if as_json:
        print_json({"run": published.id})
        return
    print(f"latest is now {published.id}")


@commands.command()
def gc(
    out: Result,
    delete: Annotated[
        bool, typer.Option("--delete", help="Really delete; without it, only say what would go.")
    ] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Merge small feature parts, too. Implies --delete.")
    ] = False,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Clear away unpublished leftovers and features that no published run uses; merge small feature parts."""
    from fruitpipe.cli import present
    from fruitpipe.result import compaction
    from fruitpipe.result.garbage import collect, find_garbage

    given = Given(config_file, assignments)
    store = given.store(out)
    delete = delete or compact
    found = collect(store) if delete else find_garbage(store)
    merged = compaction.compact(store) if compact else []
    if as_json:
        document = present.facts_of_garbage(found) | {"deleted": delete}
        print_json(document | {"merged": [each.model_dump() for each in merged]})
        return
    present.print_garbage(found, delete)
    if compact:
        old, new = (sum(len(getattr(each, name)) for each in merged) for name in ("replaced", "parts"))
        print(f"merged {old} feature parts into {new}" if merged else "merged nothing: no two feature parts are small")
    if (found.objects or found.uploads) and not delete:
        print(f"next: fruitpipe gc {given.on_result(out)} --delete")
