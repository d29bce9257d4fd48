"""What the verbs take: arguments and options, and the config that they make."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fruitpipe.config import Config, S3Config
from fruitpipe.config.loading import Read, config_on, read_file

if TYPE_CHECKING:  # with Arrow it would take `--help` as long again
    from fruitpipe.storage.store import Store


class Log(StrEnum):
    auto = "auto"
    json = "json"


class MetricName(StrEnum):
    cosine = "cosine"
    euclidean = "euclidean"


Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES... OUT",
        help="Images: folders, globs, lists of images, s3://, gs:// or az:// prefixes. Last, the folder or prefix of "
        "results. [config: input, output]",
        show_default=False,
    ),
]
Result = Annotated[str, typer.Argument(metavar="OUT", help="Folder or prefix of results of earlier runs.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; `fruitpipe schema` says what it may hold.")
]
Set = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one key, such as image.grey=true.")
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", "-p", metavar="NAME", help="Settings to begin with, one of `fruitpipe presets`."),
]
Backbone = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What gives the features, one of `fruitpipe backbones`, or a class of your own."),
]
Variance = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of the variance to keep. [config: pca.variance]")
]
Components = Annotated[
    int | None, typer.Option(metavar="K", help="Number of components to keep. [config: pca.components]")
]
Formats = Annotated[
    list[str],
    typer.Option("--format", metavar="json|csv|csv-raw", help="A further format of the vectors; repeatable."),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Take the first N images by path, to try a config.")]
Verify = Annotated[
    bool, typer.Option("--verify-content", help="Detect changed images by their content. [config: verify_content]")
]
Labels = Annotated[
    str | None, typer.Option(metavar="parent|none", help="Label of an image: the name of its folder, or none.")
]
VERBOSE = ("--verbose", "-v")
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

KEYS = {
    "--backbone": "backbone",
    "--variance": "pca.variance",
    "--components": "pca.components",
    "--format": "formats",
    "--limit": "limit",
    "--labels": "labels",
    "--verify-content": "verify_content",
}
"""Keys of the config by the option that says them directly."""


@dataclass(frozen=True)
class Given:
    """The options that a command was given, and what they make of places."""

    file: Path | None
    assignments: list[str]
    preset: str | None = None
    direct: Mapping[str, Any] = field(default_factory=dict)
    """values of KEYS' options; nothing was said by those that are None, empty or False"""

    def config(self, places: list[str]) -> Config:
        """The config, with the last of several places as output. Raises ConfigError."""
        inputs, out = (places, None) if len(places) < 2 else (places[:-1], places[-1])
        images = inputs[0] if len(inputs) == 1 else inputs or None
        direct = {KEYS[option]: value for option, value in self.said()}
        places_and_preset = {"input": images, "output": out, "preset": self.preset}
        return config_on(self._read, self.assignments, places_and_preset | direct)

    @cached_property
    def _read(self) -> Read:
        return read_file(self.file)

    def store(self, out: str) -> Store:
        """The store of a result; the config says how to reach it."""
        from fruitpipe.storage.store import open_store

        return open_store(out, self.config(["IMAGES", out]).s3)

    def said(self) -> list[tuple[str, Any]]:
        return [
            (option, value) for option, value in self.direct.items() if value not in (None, []) and value is not False
        ]

    def on_result(self, *places: str) -> str:
        """Arguments of a command on a result, the first of places: of the options, those that say how to reach it."""
        if self.config(["IMAGES", places[0]]).s3 == S3Config():
            return arguments(places)
        return Given(self.file, [each for each in self.assignments if re.match(r"s3\b", each)]).again(*places)

    def again(self, *places: str) -> str:
        """Arguments of a command for other places with the same options."""
        options = [*(["--config", str(self.file)] if self.file else [])]
        options += ["--preset", self.preset] if self.preset else []
        for assignment in self.assignments:
            options += ["--set", assignment]
        for option, value in self.said():
            for each in value if isinstance(value, list) else [value]:
                options += [option] if each is True else [option, str(each)]
        return arguments(places, options)


def arguments(places: Sequence[str], options: Sequence[str] = ()) -> str:
    """Arguments of a command, for people to copy."""
    return join([*options, "--", *places] if any(place.startswith("-") for place in places) else [*places, *options])


def direct_options(
    backbone: str | None,
    variance: float | None,
    components: int | None,
    formats: list[str],
    limit: int | None,
    verify_content: bool,
) -> dict[str, Any]:
    """The direct options of `run` and `plan`, in the form that Given takes."""
    return {
        "--backbone": backbone,
        "--variance": variance,
        "--components": components,
        "--format": formats,
        "--limit": limit,
        "--verify-content": verify_content,
    }


def settings_of(s3: S3Config) -> list[str]:
    """Assignments that reach the same store."""
    said = s3.model_dump(mode="json", exclude_defaults=True)
    return [f"s3.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in said.items()]
