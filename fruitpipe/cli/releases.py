"""The verbs for releases on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruitpipe import streams
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson, ConfigFile, Given, Set
from fruitpipe.errors import Interrupted, UserError
from fruitpipe.units import duration

if TYPE_CHECKING:
    from fruitpipe.releases.release import Release
    from fruitpipe.releases.status import Status

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the release.")]
Context = Annotated[
    str | None, typer.Option(metavar="NAME", help="Context of the kubeconfig; defaults to the current one.")
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace; defaults to the context's.")
]

commands = typer.Typer()


@commands.command()
def submit(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Config of the main job.")],
    name: Name,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Container image, with a tag or a digest. [chart: image]")
    ] = None,
    values: Annotated[
        list[Path], typer.Option("--values", "-f", metavar="FILE", help="YAML file of the chart's values; repeatable.")
    ] = [],  # noqa: B006
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the run; exit as it does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Run the main job on a cluster: install the chart that comes with this program, or upgrade a release of it."""
    from fruitpipe.releases.changes import changes
    from fruitpipe.releases.release import submit as submitted
    from fruitpipe.releases.release import values_of
    from fruitpipe.releases.status import status_of

    if dry_run:
        given = values_of(config, assignments, image)
        for line in changes(release_of(name, context, namespace).helm, name, values, given):
            print(line)
        return
    release = submitted(config, name, assignments, image=image, values=values, context=context, namespace=namespace)
    if wait:
        watch(release)
    if cause := status_of(release.connection, name, result=False).cause:
        streams.say(f"so far, it stands still: {cause}", sys.stderr)
    streams.say(f"submitted. next: fruitpipe status {again(name, context, namespace)}", sys.stdout)


@commands.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the release; defaults to all.")] = None,
    context: Context = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show a release's status and, in one line, what blocks it."""
    from fruitpipe.releases.connection import Connection
    from fruitpipe.releases.status import status_of

    if name is None:
        list_releases(False, context, namespace, as_json)
        return
    now = status_of(Connection(context, namespace), name)
    if as_json:
        print_json(facts_of(now))
        return
    print_status(now)


@commands.command()
def logs(
    name: Annotated[
        str, typer.Argument(metavar="NAME|OUT", help="Name of a release, or a result, in which each run keeps its log.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    executor: Annotated[
        str | None, typer.Option(metavar="N|all", help="An executor's besides the driver's, by its number, or all.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="What a run has said that is over, from its result.")
    ] = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Print the logs of a release's driver and executors, with pod and time; of a run that is over, what was kept."""
    from fruitpipe.releases import logs as said
    from fruitpipe.releases.connection import Connection
    from fruitpipe.releases.status import status_of, stores_of
    from fruitpipe.storage import layout

    is_result = "/" in name or Path(name, layout.MARKER).exists()
    if (follow or executor) and (is_result or run_id is not None):
        raise UserError("of runs that are over, what the driver said is kept: leave --follow and --executor out.")
    if is_result:
        for kept in said.kept_lines([Given(config_file, assignments).store(name)], run_id):
            print(kept)
        return

    connection = Connection(context, namespace)

    def ended() -> bool:
        return status_of(connection, name, result=False).ended

    if run_id is not None or not said.pods_of(connection, name):
        lines: Iterator[object] = said.kept_lines(stores_of(connection, name), run_id)
    elif follow:
        lines = said.lines_as_they_come(connection, name, executor, ended)
    else:
        lines = said.lines_until_now(connection, name, executor)
    try:
        for line in lines:
            print(line, flush=follow)
    except KeyboardInterrupt:  # of what is followed, the usual end
        sys.exit(Interrupted.exit_code)


@commands.command()
def cancel(name: Name, context: Context = None, namespace: Namespace = None) -> None:
    """Stop a release's run, and start none until `rerun` or `submit`. What was computed is kept."""
    release_of(name, context, namespace).cancel()
    print(f"cancelled; what was computed is kept. next: fruitpipe rerun {again(name, context, namespace)}")


@commands.command()
def rerun(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the run; exit as it does.")] = False,
    context: Context = None,
    namespace: Namespace = None,
) -> None:
    """Have a release run again with the same config, such as for new images; with a schedule, when that says so."""
    release = release_of(name, context, namespace).rerun()
    begun = f"it runs again when its schedule says so: {release.schedule}" if release.schedule else "it runs again"
    if wait:
        streams.say(begun, sys.stderr)
        watch(release)
    print(f"{begun}. next: fruitpipe status {again(name, context, namespace)}")


@commands.command("list")
def list_releases(
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Those of all namespaces.")] = False,
    context: Context = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List releases."""
    from fruitpipe.cli import present
    from fruitpipe.releases.connection import Connection
    from fruitpipe.releases.status import list_releases as listed

    rows = listed(Connection(context, namespace), everywhere)
    if as_json:
        print_json([row._asdict() | {"started": row.started and row.started.isoformat()} for row in rows])
        return
    if not rows:
        print("no releases. next: fruitpipe submit RUN.yaml NAME")
        return
    present.print_table(
        ("release", "namespace", "phase", "started"),
        (),
        ((row.name, row.namespace, row.phase, f"{row.started:%Y-%m-%d %H:%M}" if row.started else "") for row in rows),
    )


@commands.command()
def delete(name: Name, context: Context = None, namespace: Namespace = None) -> None:
    """Remove a release from the cluster; its results stay."""
    release_of(name, context, namespace).delete()
    print(f"{name} is deleted; its results stay.")


def release_of(name: str, context: str | None, namespace: str | None) -> Release:
    from fruitpipe.releases.connection import Connection
    from fruitpipe.releases.release import Release

    return Release(name, Connection(context, namespace))


def watch(release: Release) -> None:
    """Wait for a release's run, tell how it goes, and exit as it does."""
    told = ""

    def tell(now: Status) -> None:
        nonlocal told
        if (line := summary(now)) != told:
            told = line
            streams.say(line, sys.stderr)

    try:
        ended = release.wait(tell)
    except KeyboardInterrupt:
        where = again(release.name, release.connection.context, release.connection.namespace)
        streams.say(f"stopped waiting; the run goes on. next: fruitpipe status {where}", sys.stderr)
        sys.exit(Interrupted.exit_code)
    print_status(ended)
    raise typer.Exit(ended.exit_code or 0)


def summary(now: Status) -> str:
    """A release's state in a line."""
    words = [now.phase]
    if now.progress and now.progress.stage:
        words.append(figures(now))
    if now.phase in {"starting", "running"} and now.executors.running < now.executors.wanted:
        words.append(f"{now.executors.running} of {now.executors.wanted} executors run")
    if now.cause:
        words.append(str(now.cause))
    return ", ".join(words)


def figures(now: Status) -> str:
    progress = now.progress
    assert progress is not None, "asked for a run that goes on"
    if not progress.total:
        return progress.stage
    left = f", {duration(progress.remaining)} left" if progress.remaining else ""
    return (
        f"{progress.stage}: {progress.done}/{progress.total} images, {progress.rate:.0f} img/s, "
        f"{progress.failed} failed{left}"
    )


def print_status(now: Status) -> None:
    from fruitpipe.cli import present

    executors = now.executors
    pending = f", {executors.pending} pending" if executors.pending else ""
    rows: list[tuple[str, object]] = [("release", f"{now.name} in namespace {now.namespace}"), ("phase", now.phase)]
    rows += [("cause", now.cause.what), ("next", now.cause.advice)] if now.cause else []
    rows += [("started", f"{now.started:%Y-%m-%d %H:%M:%S} UTC")] if now.started else []
    if not now.ended:
        rows.append(("executors", f"{executors.running} of {executors.wanted} run{pending}"))
    rows += [("progress", figures(now))] if now.progress and now.progress.stage else []
    rows += [("said", now.said)] if now.said and not now.cause else []
    rows += [("output", now.output)] if now.output else []
    rows += [("published", now.published)] if now.published else []
    rows += [("published", f"not to be seen from here: {now.unseen}")] if now.unseen else []
    present.print_rows(rows)


def facts_of(now: Status) -> dict[str, Any]:
    """A status for scripts."""
    facts = asdict(now)
    return facts | {
        "cause": now.cause and now.cause._asdict(),
        "progress": now.progress and now.progress._asdict() | {"remaining": now.progress.remaining},
        "started": now.started and now.started.isoformat(),
    }


def again(name: str, context: str | None, namespace: str | None) -> str:
    """Arguments that name the same release."""
    options = [*(["--context", context] if context else []), *(["--namespace", namespace] if namespace else [])]
    return join([name, *options])
