"""The command line: a verb each for what the Python API does, and errors as one line."""

from __future__ import annotations

import signal
import sys
import traceback
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from fruitpipe import streams
from fruitpipe.cli import backbones, findings, jobs, models, reference, releases, results
from fruitpipe.cli.ending import give_up
from fruitpipe.cli.options import VERBOSE
from fruitpipe.errors import FruitpipeError, Interrupted, UserError, in_words

app = typer.Typer(
    name="fruitpipe",
    help="A folder of images to deep features reduced by PCA: one Parquet row per image, and a model to apply again.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (jobs, models, results, backbones, reference, findings, releases):
    app.add_typer(verbs.commands)


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 failed, 2 a user's mistake, 3 too many bad images, 130 interrupted."""
    streams.fill()
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that is closed; nohup has it ignored
        signal.signal(signal.SIGHUP, on_sigterm)
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
