"""Verbs that apply a saved model: transform, export, serve."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer

from fruitpipe import streams
from fruitpipe.cli.documents import print_json
from fruitpipe.cli.options import AsJson, ConfigFile, Given, Labels, MetricName, Set
from fruitpipe.errors import Interrupted, UserError
from fruitpipe.units import size

commands = typer.Typer()

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as OUT/runs/RUN/model.")]
CodeOfModel = Annotated[
    str | None,
    typer.Option("--backbone", metavar="CLASS", help="The class that the model names, where it may run here."),
]


@commands.command()
def transform(
    model: ModelFolder,
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder, a glob in quotes, a list of images or a prefix.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT.parquet", help="File to write, on disk or in a bucket.")],
    labels: Labels = None,
    config_file: ConfigFile = None,
    assignments: Set = [],  # noqa: B006 - typer's way to say "none"
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


@commands.command()
def export(
    model: ModelFolder,
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


@commands.command()
def serve(
    model: ModelFolder,
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
