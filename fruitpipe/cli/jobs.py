"""The verbs for a run and for what is asked before one: run, validate, plan, doctor."""

from __future__ import annotations

import sys
from itertools import starmap
from pathlib import Path
from typing import Annotated

import typer

from fruitpipe import config as configs
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.ending import leave_word
from fruitpipe.cli.options import (
    VERBOSE,
    AsJson,
    Backbone,
    Components,
    ConfigFile,
    Formats,
    Given,
    Limit,
    Log,
    Places,
    Preset,
    Set,
    Variance,
    Verify,
    direct_options,
    settings_of,
)
from fruitpipe.errors import UserError

commands = typer.Typer()


@commands.command()
def run(
    places: Places = None,
    config_file: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
    backbone: Backbone = None,
    variance: Variance = None,
    components: Components = None,
    formats: Formats = [],  # noqa: B006
    limit: Limit = None,
    verify_content: Verify = False,
    log: Annotated[
        Log, typer.Option(help="auto: a bar on a terminal, lines elsewhere. json: one object per stage.")
    ] = Log.auto,
    verbose: Annotated[
        bool, typer.Option(*VERBOSE, help="Show Spark's own messages, and the traceback of a failure.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS:]PORT",
            help="Serve metrics to Prometheus meanwhile: to this machine only; in a pod, or with 0.0.0.0:PORT, to all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn images into published vectors. Continues where an earlier run stopped."""
    from fruitpipe.cli import present
    from fruitpipe.cli.metrics import address_of, serving
    from fruitpipe.late_pandas import let_pandas_wait
    from fruitpipe.pipeline import run as pipeline
    from fruitpipe.pipeline.progress import reporter_for
    from fruitpipe.pipeline.several import SomeFailed, run_several

    let_pandas_wait()
    direct = direct_options(backbone, variance, components, formats, limit, verify_content)
    given = Given(config_file, assignments, preset, direct)
    config = given.config(places or [])
    listening = address_of(metrics, configs.Environment.read().in_pod) if metrics is not None else None
    reporter = reporter_for(sys.stderr, log)
    failure: SomeFailed | None = None
    try:
        with serving(reporter, listening):
            if config.backbones:
                done = run_several(config, reporter, verbose)
            else:
                done = {"": pipeline.run(config, reporter, verbose)}
    except SomeFailed as error:
        done, failure = error.runs, error
    finally:
        reporter.close()
    if as_json:
        facts = present.facts_of_several(done, failure.errors if failure else {})
        print_json(facts.get("", facts))
    else:
        if configs.Environment.read().in_pod:  # whose files are nobody else's
            given = Given(None, settings_of(config.s3))
        for name, each in done.items():
            present.print_outcome(each, name)
            verb = "open" if each.manifest.has_page else "show"
            print(f"next: fruitpipe {verb} {given.on_result(config.outputs[name])}")
    if failure:
        raise failure
    if not as_json:
        leave_word("\n".join(starmap(present.outcome_line, done.items())))


@commands.command()
def validate(config: Annotated[Path, typer.Argument(help="YAML file.")], as_json: AsJson = False) -> None:
    """Check a config file: every mistake at once, with its line and the key that was probably meant."""
    try:
        configs.validate(config)
    except configs.ConfigError as error:
        if not as_json:
            raise
        print_json([vars(mistake) for mistake in error.mistakes])
        raise typer.Exit(error.exit_code) from None
    print("[]" if as_json else f"{config}: ok")


@commands.command()
def plan(
    places: Places = None,
    config_file: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    backbone: Backbone = None,
    variance: Variance = None,
    components: Components = None,
    formats: Formats = [],  # noqa: B006
    limit: Limit = None,
    verify_content: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do, without doing it."""
    from fruitpipe.cli import present
    from fruitpipe.late_pandas import let_pandas_wait
    from fruitpipe.pipeline import preview

    let_pandas_wait()
    direct = direct_options(backbone, variance, components, formats, limit, verify_content)
    given = Given(config_file, assignments, preset, direct)
    config = given.config(places or [])
    found = preview.plan_several(config) if config.backbones else {"": preview.plan(config)}
    if as_json:
        facts = {name: planned.model_dump() | {"todo": planned.todo} for name, planned in found.items()}
        print_json(facts.get("", facts))
        return
    for name, planned in found.items():
        present.print_plan(planned, config.parts[name], name)
    if not all(planned.is_latest for planned in found.values()):
        print(f"next: fruitpipe run {given.again(*config.inputs, config.output)}")


@commands.command()
def doctor(
    places: Places = None,
    config_file: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    backbone: Backbone = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and the places of a run, and say what to do where something is not well."""
    from fruitpipe.cli.doctor import diagnose

    given = Given(config_file, assignments, preset, {"--backbone": backbone})
    config = given.config(places or ([] if config_file else ["IMAGES", "OUT"]))
    found = []
    for finding in diagnose(config, places=bool(places or config_file)):
        found.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject}: {finding.message}", flush=True)
    if as_json:
        print_json([finding._asdict() for finding in found])
    if not all(finding.ok for finding in found):
        raise typer.Exit(UserError.exit_code)
