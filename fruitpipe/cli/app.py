"""The command line: a verb each for what the Python API does, and errors as one line."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from shlex import join
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from fruitpipe import config as configs
from fruitpipe.errors import FruitpipeError, Interrupted, UserError
from fruitpipe.pipeline.progress import reporter_for
from fruitpipe.storage.store import Store, open_store
from fruitpipe.units import duration, size

if TYPE_CHECKING:
    from fruitpipe.result.manifest import ModelFacts

app = typer.Typer(
    name="fruitpipe",
    help="A folder of images to deep features reduced by PCA: one Parquet row per image, and a model to apply again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Log(StrEnum):
    auto = "auto"
    json = "json"


class Labels(StrEnum):
    parent = "parent"
    none = "none"


Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES... OUT",
        help="Images: folders, globs, manifests, s3:// or gs:// prefixes. Last, the folder or prefix of results. "
        "[config: input, output]",
        show_default=False,
    ),
]
Result = Annotated[str, typer.Argument(metavar="OUT", help="Folder or prefix of results of earlier runs.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; `fruitpipe schema` says what it may hold.")
]
Set = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one key, such as pca.variance=0.9.")
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", "-p", metavar="NAME", help="Settings to begin with, one of `fruitpipe presets`."),
]
Verify = Annotated[
    bool, typer.Option("--verify-content", help="Tell changed images by their bytes. [config: verify_content]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 a user's mistake, 3 too many bad images, 130 interrupted."""
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        app(standalone_mode=True)
    except FruitpipeError as error:
        give_up(str(error), error.exit_code)
    except KeyboardInterrupt:
        give_up("stopped.", Interrupted.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        what = f"{error.strerror}: {error.filename or 'while writing'}"
        give_up(f"{what}. Computed features are kept.", FruitpipeError.exit_code)
    sys.exit(0)


def give_up(reason: str, code: int) -> NoReturn:
    """Say why on standard error and, in a pod, where Kubernetes looks for it, which takes 4 KiB."""
    for line in reason.splitlines():
        print(f"error: {line}", file=sys.stderr)
    if log := configs.Environment.read().termination_log:
        log.write_bytes(reason.encode()[:4096])
    sys.exit(code)


def on_sigterm(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"fruitpipe {version('fruitpipe')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    places: Places = None,
    config: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
    verify_content: Verify = False,
    log: Annotated[
        Log, typer.Option(help="auto: a bar on a terminal, lines elsewhere. json: one object per stage.")
    ] = Log.auto,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Spark's own messages.")] = False,
    metrics: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Serve metrics to Prometheus meanwhile.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn images into published vectors. Continues where an earlier run stopped."""
    from fruitpipe.cli.metrics import serving
    from fruitpipe.pipeline import run as pipeline

    settings = load(config, assignments, places or [], verify_content, preset)
    reporter = reporter_for(sys.stderr, log)
    try:
        with serving(reporter, metrics):
            done = pipeline.run(settings, reporter, verbose)
    finally:
        reporter.close()
    manifest = done.manifest
    facts = {
        "run": done.id,
        "vectors": done.vectors,
        "model": done.path("model"),
        "report": done.path("report.html"),
        "images": manifest.counts.images,
        "failed": manifest.counts.failed,
        "components": manifest.model.components,
        "explained": manifest.model.explained,
    }
    if as_json:
        print(json.dumps(facts))
        return
    for warning in manifest.warnings:
        print(f"note: {warning}.")
    counts, model = manifest.counts, manifest.model
    failed = f", {counts.failed} failed (failures.parquet says why)" if counts.failed else ""
    kept = f"components, {model.explained:.1%} of the variance" if model.explained is not None else "features"
    print(f"\n{counts.ok} images to vectors of {model.components} {kept}{failed}.")
    if manifest.drift:
        drift = manifest.drift
        print(
            f"drift: {drift.beyond_p99:.1%} of the images lie beyond the fit's 99th percentile (1 % expected); "
            f"reconstruction error {drift.reconstruction_error:.3g}, {drift.fit_reconstruction_error:.3g} at the fit."
        )
    for record in manifest.records.values():
        if not record.rows:
            print(f"{record.label}: {record.note}.")
    print(f"vectors  {done.vectors}\nmodel    {facts['model']}\nreport   {facts['report']}\n")
    print(f"next: fruitpipe show {again([settings.output], config, assignments)}")


@app.command()
def validate(config: Annotated[Path, typer.Argument(help="YAML file.")], as_json: AsJson = False) -> None:
    """Check a config file: every mistake at once, with its line and the key that was probably meant."""
    try:
        configs.validate(config)
    except configs.ConfigError as error:
        if not as_json:
            raise
        print(json.dumps([vars(mistake) for mistake in error.mistakes]))
        raise typer.Exit(error.exit_code) from None
    print("[]" if as_json else f"{config}: ok")


@app.command()
def plan(
    places: Places = None,
    config: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    verify_content: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do, without doing it."""
    from fruitpipe.pipeline import run as pipeline

    settings = load(config, assignments, places or [], verify_content, preset)
    summary = pipeline.plan(settings)
    if as_json:
        print(json.dumps(summary.model_dump() | {"todo": summary.todo}))
        return
    labels = ", ".join(f"{name} {count}" for name, count in list(summary.labels.items())[:5])
    more = f", … {len(summary.labels)} in all" if len(summary.labels) > 5 else ""
    rows = {
        "images": f"{summary.images}, {size(summary.bytes)}",
        "labels": f"{labels}{more}" if labels else "none",
        "new": summary.new,
        "changed": summary.changed,
        "to retry": summary.retried,
        "known": summary.known,
        "known bad": summary.known_failed,
        "gone": summary.gone,
    }
    show_rows(rows.items())
    fits = settings.model == "fit" and settings.pca != "none"
    print(f"\na run would featurize {summary.todo} images with {settings.backbone}, then "
          f"{'fit and ' if fits else ''}project {summary.known + summary.todo}.")  # fmt: skip
    if summary.todo or summary.gone:
        verified = " --verify-content" if verify_content else ""
        places = [*settings.inputs, settings.output]
        print(f"next: fruitpipe run {again(places, config, assignments, preset)}{verified}")


@app.command()
def doctor(
    places: Places = None,
    config: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Check this machine and the places of a run, and say what to do where something is not well."""
    from fruitpipe.cli.doctor import examine

    given = places or ([] if config else ["IMAGES", "OUT"])
    found = []
    for finding in examine(load(config, assignments, given, preset=preset), places=bool(places or config)):
        found.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject}: {finding.message}", flush=True)
    if as_json:
        print(json.dumps([finding._asdict() for finding in found]))
    if not all(finding.ok for finding in found):
        raise typer.Exit(UserError.exit_code)


@app.command()
def transform(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as OUT/runs/RUN/model.")],
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Images, as for `run`.")],
    out: Annotated[str, typer.Argument(metavar="OUT.parquet", help="File to write, on disk or in a bucket.")],
    labels: Annotated[Labels, typer.Option(help="Label of an image: the name of its folder, or none.")] = Labels.parent,
    config: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Apply a saved model to other images, on this machine and without Spark."""
    from fruitpipe.model.transform import transform_folder

    settings = load(config, [*assignments, f"labels={labels}"], [images, "OUT"])
    counts = transform_folder(model, images, out, settings.labels, settings.s3, settings.backbone)
    if as_json:
        print(json.dumps(counts))
        return
    reasons = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{out}: {reasons}")


@app.command()
def runs(out: Result, config: ConfigFile = None, assignments: Set = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the runs of a result."""
    from fruitpipe.result.runs import list_runs

    rows = list_runs(result(out, config, assignments))
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows]))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "status", "images", "new", "failed"):
        table.add_column(column, justify="left" if column in {"run", "status"} else "right", no_wrap=True)
    for column in ("k", "explained", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in rows:
        counts = (row.images, row.new, row.failed, row.components)
        images, new, failed, k = ("" if value is None else str(value) for value in counts)
        explained = f"{row.explained:.1%}" if row.explained is not None else ""
        time = duration(row.seconds) if row.seconds is not None else ""
        table.add_row(row.run, row.status, images, new, failed, k, explained, time, row.reason or "")
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


@app.command()
def show(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="Run id.")] = "latest",
    config: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show one run: counts, model, times, files."""
    from fruitpipe.result.runs import open_run

    shown = open_run(result(out, config, assignments), run_id)
    manifest = shown.manifest
    if as_json:
        print(manifest.model_dump_json())
        return
    counts, plan = manifest.counts, manifest.plan
    rows: dict[str, Any] = {
        "run": manifest.run,
        "started": f"{manifest.started:%Y-%m-%d %H:%M:%S} UTC",
        "input": ", ".join(manifest.config.inputs),
        "images": f"{counts.images} ({', '.join(f'{n} {status}' for status, n in counts.by_status.items())})",
        "work": f"{plan.new} new, {plan.changed} changed, {plan.retried} retried, {plan.known} known, {plan.gone} gone",
        "labels": len(counts.by_label),
        "backbone": f"{manifest.backbone.name}, {manifest.backbone.dimension} features ({manifest.backbone.layer}), "
        f"run by {manifest.backbone.engine}",
        **reduction(manifest.model),
    }
    if manifest.drift:
        rows["drift"] = (
            f"{manifest.drift.beyond_p99:.1%} beyond the fit's 99th percentile, reconstruction error "
            f"{manifest.drift.reconstruction_error:.3g} ({manifest.drift.fit_reconstruction_error:.3g} at the fit)"
        )
    for record in manifest.records.values():
        rows[record.label] = record.note
        for name, *values in record.rows:
            rows[f"  {name}"] = ", ".join(values)
    rows["times"] = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in manifest.timings.items())
    if manifest.images_per_second:
        rows["speed"] = f"{manifest.images_per_second:.0f} img/s"
    rows["vectors"] = shown.vectors
    rows["model at"] = shown.path("model")
    rows["report"] = shown.path("report.html")
    show_rows(rows.items())
    for warning in manifest.warnings:
        print(f"note: {warning}.")


def reduction(model: ModelFacts) -> dict[str, str]:
    """How features became vectors, for people."""
    if model.explained is None:
        return {"model": f"no PCA: vectors are the {model.components} features"}
    cumulative = list(accumulate(model.explained_variance_ratio))
    needed = {
        f"{share:.0%}": next((k for k, total in enumerate(cumulative, 1) if total >= share - 1e-12), len(cumulative))
        for share in (0.90, 0.95, 0.99)
    }
    return {
        "model": f"fitted by {model.fitted_by} on {model.images} images",
        "components": f"{model.components}, {model.explained:.2%} of the variance",
        "k for": ", ".join(f"{share}: {k}" for share, k in needed.items()),
    }


@app.command()
def publish(
    out: Result,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")],
    config: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Point latest.json at another run: roll back, or forward again."""
    from fruitpipe.result import runs

    published = runs.publish(result(out, config, assignments), run_id)
    print(json.dumps({"run": published.id}) if as_json else f"latest is now {published.id}")


@app.command()
def gc(
    out: Result,
    delete: Annotated[
        bool, typer.Option("--delete", help="Really delete; without it, only say what would go.")
    ] = False,
    config: ConfigFile = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Clear away unpublished leftovers and features that no published run uses."""
    from fruitpipe.result import runs

    store = result(out, config, assignments)
    found = runs.collect(store) if delete else runs.garbage(store)
    total = sum(each.bytes for each in found)
    if as_json:
        print(json.dumps({"deleted": delete, "bytes": total, "objects": [each.name for each in found]}))
        return
    for each in found:
        print(f"{size(each.bytes):>10}  {each.name}")
    print(f"{'deleted' if delete else 'would delete'} {len(found)} objects, {size(total)}")
    if found and not delete:
        print(f"next: fruitpipe gc {again([out], config, assignments)} --delete")


@app.command()
def backbones(as_json: AsJson = False) -> None:
    """List the backbones that a config may name, and which of them are converted on this machine."""
    from fruitpipe.backbones import converted

    environment = configs.Environment.read()
    words = configs.WordsConfig()
    rows: list[dict[str, Any]] = [
        {"name": name, "dimension": words.size, "input_size": words.side, "parameters": None, "bytes": None}
        for name in configs.WORDS
    ]
    for name, known in configs.KNOWN.items():
        facts = {"name": name, "dimension": known.dimension, "input_size": known.side, "parameters": known.parameters}
        found = converted(configs.Choice(name), environment)
        rows.append({**facts, "bytes": found[1].stat().st_size if found else None})
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("backbone", "features", "input", "parameters", "on disk"):
        table.add_column(column, justify="left" if column == "backbone" else "right", no_wrap=True)
    for row in rows:
        pixels = f"{row['input_size']} x {row['input_size']}"
        parameters = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else ""
        table.add_row(
            row["name"], str(row["dimension"]), pixels, parameters, size(row["bytes"]) if row["bytes"] else ""
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


@app.command()
def presets(as_json: AsJson = False) -> None:
    """List the presets that a config may begin with."""
    if as_json:
        rows = [
            {"name": name, "about": configs.about(name), "config": configs.settings(name)} for name in configs.PRESETS
        ]
        print(json.dumps(rows))
        return
    show_rows((name, configs.about(name)) for name in configs.PRESETS)


@app.command()
def convert(
    config: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Convert a config's backbone now, so that later runs, or an image, need neither its weights nor TensorFlow."""
    from fruitpipe.backbones import flatbuffer

    settings = load(config, assignments, ["IMAGES", "OUT"], preset=preset)
    if settings.backbone not in configs.KNOWN:
        raise UserError(f"{settings.backbone} is no network: there is nothing to convert.")
    backbone, path = flatbuffer(settings.network, configs.Environment.read())
    if as_json:
        print(json.dumps(backbone.model_dump() | {"path": str(path)}))
        return
    print(f"{backbone.name}, layer {backbone.layer}: {backbone.dimension} features of {backbone.input_size} x "
          f"{backbone.input_size} pixels, {size(path.stat().st_size)} in {path}")  # fmt: skip


@app.command("version")
def show_versions(as_json: AsJson = False) -> None:
    """Print the versions of fruitpipe and of what results depend on, and the commit of the image."""
    from fruitpipe.result.manifest import versions
    from fruitpipe.spark.java import find_java, java_version

    environment = configs.Environment.read()
    found: dict[str, str | None] = {**versions(), "java": None, "revision": environment.revision}
    with suppress(UserError):  # only runs need Java
        found["java"] = java_version(find_java(environment))
    if as_json:
        print(json.dumps(found))
        return
    show_rows((name, value or "none") for name, value in found.items())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config."""
    print(json.dumps(configs.Config.model_json_schema(), indent=2))


def load(
    path: Path | None,
    assignments: list[str],
    places: list[str],
    verify_content: bool = False,
    preset: str | None = None,
) -> configs.Config:
    """The config, with the last of several places as output."""
    inputs, out = (places, None) if len(places) < 2 else (places[:-1], places[-1])
    images = inputs[0] if len(inputs) == 1 else inputs or None
    values = {"input": images, "output": out, "verify_content": verify_content or None, "preset": preset}
    return configs.load_config(path, assignments, **values)


def result(out: str, path: Path | None, assignments: list[str]) -> Store:
    """The store of a result; the config says how to reach it."""
    return open_store(out, load(path, assignments, ["IMAGES", out]).s3)


def again(places: list[str], path: Path | None, assignments: list[str], preset: str | None = None) -> str:
    """Arguments for another verb with the same config; a preset for those that take one."""
    options = [*(["--config", str(path)] if path else []), *(["--preset", preset] if preset else [])]
    for assignment in assignments:
        options += ["--set", assignment]
    return join([*places, *options])


def show_rows(rows: Iterable[tuple[str, object]]) -> None:
    found = list(rows)
    width = max(11, *(len(name) for name, _ in found))
    for name, value in found:
        print(f"{name:<{width}} {value}")
