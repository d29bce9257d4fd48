"""Verbs about what can give the features: backbones, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fruitpipe import config as configs
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson, Backbone, ConfigFile, Given, Preset, Set
from fruitpipe.errors import NotLearnt, UserError
from fruitpipe.units import size

commands = typer.Typer()


@commands.command()
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


@commands.command()
def convert(
    config_file: ConfigFile = None,
    preset: Preset = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
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
    if output is not None:
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
    if output is not None:
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
    if output is not None:
        print(f"{output} and {beside(output)}: what `--backbone {output}` takes")
