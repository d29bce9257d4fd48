"""The command line: a verb each for what the Python API does, and errors as one line."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections import Counter
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import starmap
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from fruitpipe import config as configs
from fruitpipe import streams
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.findings import MetricName
from fruitpipe.cli.findings import commands as of_findings
from fruitpipe.cli.options import (
    AsJson,
    Backbone,
    Components,
    ConfigFile,
    Formats,
    Given,
    Labels,
    Limit,
    Log,
    Places,
    Preset,
    Result,
    Set,
    Variance,
    Verify,
    direct_options,
    settings_of,
)
from fruitpipe.cli.releases import commands as of_releases
from fruitpipe.errors import FruitpipeError, Interrupted, NotLearnt, UserError, in_words
from fruitpipe.streams import unfiltered
from fruitpipe.units import size

app = typer.Typer(
    name="fruitpipe",
    help="A folder of images to deep features reduced by PCA: one Parquet row per image, and a model to apply again.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(of_findings)
app.add_typer(of_releases)
VERBOSE = ("--verbose", "-v")
CodeOfModel = Annotated[
    str | None,
    typer.Option("--backbone", metavar="CLASS", help="The class that the model names, where it may run here."),
]


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 a user's mistake, 3 too many bad images, 130 interrupted."""
    streams.fill()
    signal.signal(signal.SIGTERM, on_sigterm)
    streams.filter_output()
    try:
        code = app(standalone_mode=False, prog_name="fruitpipe")
    except KeyboardInterrupt:
        give_up("stopped.", Interrupted.exit_code)
    except typer.TyperException as error:  # options and arguments that are none
        command = getattr(getattr(error, "ctx", None), "command_path", "fruitpipe")
        said = " ".join(error.format_message().split()).rstrip(".")
        joint = " " if said.endswith("?") else ": "
        give_up(f"{said}{joint}`{command} --help` shows what there is.", UserError.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever ends a command leaves one line
        failure = error if isinstance(error, FruitpipeError) else FruitpipeError(in_words(error))
        if failure.exit_code == FruitpipeError.exit_code and any(option in sys.argv for option in VERBOSE):
            traceback.print_exception(error)
        give_up(str(failure), failure.exit_code)
    if code == Interrupted.exit_code:  # what typer makes of Ctrl-C
        give_up("stopped.", code)
    sys.exit(code or 0)


def give_up(reason: str, code: int) -> NoReturn:
    """Say why on standard error and, in a pod, to Kubernetes."""
    for line in reason.splitlines():
        streams.say(f"error: {line}", sys.stderr)
    leave_word(reason)
    sys.exit(code)


def leave_word(text: str) -> None:
    """In a pod, say how it ended where Kubernetes looks for that, which takes 4 KiB."""
    if log := configs.Environment.read().termination_log:
        with suppress(OSError):  # it ended so, whether it can be said there or not
            log.write_bytes(text.encode()[:4096])


def on_sigterm(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"fruitpipe {version('fruitpipe')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option(*VERBOSE, help="Show the traceback of a failure.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
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
            help="Serve metrics to Prometheus meanwhile: to this machine, in a pod or at 0.0.0.0:PORT to all.",
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


@app.command()
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


@app.command()
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
    from fruitpipe.pipeline import run as pipeline
    from fruitpipe.pipeline.several import plan_several

    let_pandas_wait()
    direct = direct_options(backbone, variance, components, formats, limit, verify_content)
    given = Given(config_file, assignments, preset, direct)
    config = given.config(places or [])
    found = plan_several(config) if config.backbones else {"": pipeline.plan(config)}
    if as_json:
        facts = {name: planned.model_dump() | {"todo": planned.todo} for name, planned in found.items()}
        print_json(facts.get("", facts))
        return
    for name, planned in found.items():
        present.print_plan(planned, config.parts[name], name)
    if not all(planned.is_latest for planned in found.values()):
        print(f"next: fruitpipe run {given.again(*config.inputs, config.output)}")


@app.command()
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


@app.command()
def transform(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as OUT/runs/RUN/model.")],
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder, a glob in quotes, a list of images or a prefix.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT.parquet", help="File to write, on disk or in a bucket.")],
    labels: Labels = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    backbone: CodeOfModel = None,
    as_json: AsJson = False,
) -> None:
    """Apply a saved model to other images, on this machine and without Spark. Rows are not sorted by path."""
    from fruitpipe.model.transform import transform_folder
    from fruitpipe.source import passed_over

    direct = {"--labels": labels, "--backbone": backbone}
    config = Given(config_file, assignments, direct=direct).config([images, "OUT"])
    others: Counter[str] = Counter()
    allow = config.lists.allow
    counts = transform_folder(model, images, out, config.labels, config.s3, config.backbone, others, allow)
    if others:
        streams.say(passed_over(others), sys.stderr)
    if as_json:
        print_json(counts)
        return
    print(f"{out}: {', '.join(f'{count} {status}' for status, count in counts.items())}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as OUT/runs/RUN/model.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="File to write, on disk or in a bucket.")
    ] = "model.onnx",
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Write a saved model as one ONNX file: pixels in, vectors out, with backbone, scaler and PCA."""
    from fruitpipe.model.export import PIXELS, exported
    from fruitpipe.model.model import load_model
    from fruitpipe.model.transform import whole_file

    s3 = Given(config_file, assignments).config(["IMAGES", "OUT"]).s3
    loaded = load_model(model, s3)
    with whole_file(output, s3, "model.onnx") as file:
        file.write_bytes(data := exported(loaded))
    if as_json:
        print_json({"path": output, "bytes": len(data), "components": loaded.pca.length, "input": PIXELS})
        return
    print(f"{output}: {size(len(data))}, vectors of {loaded.pca.length} components\ninput: {PIXELS}")


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as OUT/runs/RUN/model.")],
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own open it to all.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8000,
    out: Annotated[
        str | None, typer.Option("--result", metavar="OUT", help="Answer the most similar images of a run in it, too.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Run id, with --result; defaults to the latest.")
    ] = None,
    metric: Annotated[
        MetricName | None,
        typer.Option("--metric", help="By the angle between vectors, with --result, or by their distance."),
    ] = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    backbone: CodeOfModel = None,
) -> None:
    """Answer HTTP requests: POST an image's bytes to /vectors, and get its vector and its neighbours as JSON."""
    from fruitpipe.cli.metrics import Address
    from fruitpipe.findings.similar import Gallery
    from fruitpipe.model import service
    from fruitpipe.model.model import load_model
    from fruitpipe.result.runs import open_run

    if out is None and (run_id or metric):
        raise UserError("--run and --metric are of a result that is searched: name it by --result, or leave them out.")
    given = Given(config_file, assignments, direct={"--backbone": backbone})
    config = given.config(["IMAGES", "OUT"])
    loaded = load_model(model, config.s3, config.backbone)
    gallery = None
    if out is not None:
        gallery = Gallery(open_run(given.store(out), run_id or "latest"), (metric or MetricName.cosine).value)
        gallery.require_of(loaded)
    with service.listening(host, port) as listener:
        print(f"http://{Address(host, listener.getsockname()[1])}/vectors", flush=True)
        try:
            service.serve(loaded, listener, gallery)
        except KeyboardInterrupt:  # its usual end
            sys.exit(Interrupted.exit_code)


@app.command()
def runs(
    out: Result,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
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


@app.command()
def show(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")] = "latest",
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


@app.command()
def explore(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")] = "latest",
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
    if file:
        with whole_file(file, given.config(["IMAGES", out]).s3, "page.html") as temporary:
            written = temporary.write_bytes(page_of(shown, compared))
        place = file
    else:
        place, written = add_page(shown, compared)
    if as_json:
        print_json({"run": shown.id, "page": place, "bytes": written})
        return
    print(f"{place}: {shown.manifest.counts.ok} images, {size(written)}")
    if not file:
        print(f"next: fruitpipe open {given.on_result(out, shown.id)}")


@app.command("open")
def open_page(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")] = "latest",
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


@app.command()
def publish(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")],
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Point latest.json, and the tables that the config publishes to, at another run: roll back, or forward again."""
    from fruitpipe.catalogs import check_tables, register
    from fruitpipe.result import runs

    given = Given(config_file, assignments)
    store, tables = given.store(out), given.config(["IMAGES", out]).publish
    check_tables(tables, store)
    published = runs.publish(store, run_id, partial(register, tables))
    if as_json:
        print_json({"run": published.id})
        return
    print(f"latest is now {published.id}")


@app.command()
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


@app.command()
def backbones(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One network: all that is known of it, and how to use it.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Today's image networks, too, which a config takes as a preset or a file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the backbones that a config may name, and which of them are converted on this machine."""
    from fruitpipe.backbones.catalogue import catalogue, entry_of
    from fruitpipe.backbones.family import all_families
    from fruitpipe.cli import present

    environment = configs.Environment.read()
    if name or everything:
        entries = [entry_of(name, environment)] if name else catalogue(environment)
        documents = [entry.model_dump() | {"backbones": entry.backbones} for entry in entries]
        if as_json:
            print_json(documents[0] if name else documents)
        elif name:
            present.print_entry(entries[0])
        else:
            present.print_catalogue(entries)
        return
    rows = [family.listed(name, environment) for family in all_families() for name in family.names]
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    present.print_backbones(rows)


@app.command()
def presets(as_json: AsJson = False) -> None:
    """List the presets that a config may begin with."""
    from fruitpipe.cli import present

    if as_json:
        names = configs.PRESETS
        print_json([{"name": name, "about": configs.about(name), "config": configs.keys_of(name)} for name in names])
        return
    present.print_rows((name, configs.about(name)) for name in configs.PRESETS)


@app.command()
def convert(
    config_file: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    backbone: Backbone = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the network there too, FILE.onnx or FILE.tflite, and FILE.yaml.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a config's backbone now, so that later runs, or an image, need neither its weights nor TensorFlow."""
    from fruitpipe.backbones import resolve

    config = Given(config_file, assignments, preset, {"--backbone": backbone}).config(["IMAGES", "OUT"])
    if config.backbones:
        raise UserError("this config has several backbones: convert one at a time, such as by --backbone NAME alone.")
    if output:
        from fruitpipe.backbones.portable_copy import check_place

        check_place(config, output)
    # All engines take the same file, and this machine need not be the one that runs it.
    for_any = config.model_copy(update={"engine": "litert", "precision": "float32"})
    nothing = UserError(f"{config.backbone} is used as it is: there is nothing to convert.")
    try:
        network, engine, *_ = resolve(for_any, configs.Environment.read())
    except NotLearnt:
        raise nothing from None
    if not isinstance(path := engine.source, Path):
        raise nothing
    if output:
        from fruitpipe.backbones.portable_copy import portable_copy
        from fruitpipe.engines.package import beside
        from fruitpipe.model.transform import whole_file

        for name, data in portable_copy(config, network, engine, output).items():
            with whole_file(name, config.s3, Path(name).name) as file:
                file.write_bytes(data)
    if as_json:
        print_json(network.model_dump() | {"path": str(path), "output": output})
        return
    print(f"{network.name}, layer {network.layer}: {network.dimension} features of {network.input_size} x "
          f"{network.input_size} pixels, {size(path.stat().st_size)} in {path}")  # fmt: skip
    if output:
        print(f"{output} and {beside(output)}: what `--backbone {output}` takes")


@app.command("version")
def show_versions(as_json: AsJson = False) -> None:
    """Print the versions of fruitpipe and of what results depend on, and the commit of the image."""
    from fruitpipe.cli import present
    from fruitpipe.result.manifest import versions
    from fruitpipe.spark.java import find_java, java_version

    environment = configs.Environment.read()
    found: dict[str, str | None] = {**versions(), "java": None, "revision": environment.revision}
    with suppress(UserError):  # only runs need Java
        found["java"] = java_version(find_java(environment))
    if as_json:
        print_json(found)
        return
    present.print_rows((name, value or "none") for name, value in found.items())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config."""
    print(json.dumps(configs.Config.model_json_schema(), indent=2), file=unfiltered(sys.stdout))
