"""Verbs that print what there is: presets, version, schema."""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import typer

from fruitpipe import config as configs
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson
from fruitpipe.errors import UserError
from fruitpipe.streams import unfiltered

commands = typer.Typer()


@commands.command()
def presets(as_json: AsJson = False) -> None:
    """List the presets that a config may begin with."""
    from fruitpipe.cli import present

    if as_json:
        names = configs.PRESETS
        print_json([{"name": name, "about": configs.about(name), "config": configs.keys_of(name)} for name in names])
        return
    present.print_rows((name, configs.about(name)) for name in configs.PRESETS)


@commands.command("version")
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


@commands.command()
def schema() -> None:
    """Print the JSON Schema of the config."""
    print(json.dumps(configs.Config.model_json_schema(), indent=2), file=unfiltered(sys.stdout))
