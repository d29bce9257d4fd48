"""The one config object, shared by the CLI, YAML files, the Python API and the JSON Schema.

This is the only module that reads environment variables.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fruitpipe.errors import UserError

BackboneName = Literal["mobilenet_v2", "efficientnet_lite0"]
Text = Annotated[str, StringConstraints(min_length=1)]
Key = tuple[str, ...]
Lines = dict[Key, int]
MIB = 1 << 20


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImageConfig(Section):
    """How a file becomes pixels, and which files are refused. `resample` is part of the features' identity."""

    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter that resizes an image to the backbone's input."""
    max_bytes: int = Field(64 * MIB, ge=1)
    """Larger files are not read (status `too_large`)."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Images with more pixels are not decoded (status `too_large`)."""
    max_aspect: float = Field(100.0, ge=1, allow_inf_nan=False)
    """Images whose longer side is more than this many times the shorter are not decoded (status `too_large`)."""


class PcaConfig(Section):
    """How many components to keep. With both `components` and `variance` the smaller number wins;
    with neither, 95 % of the variance."""

    components: int | None = Field(None, ge=1)
    """Number of components, cut to the rank of the features."""
    variance: float | None = Field(None, gt=0, le=1)
    """Smallest number of components that explain this share of the variance."""
    scale: bool = True
    """Divide each feature by its standard deviation before the PCA."""


class FailuresConfig(Section):
    """What to do about images that cannot be turned into features."""

    max_rate: float = Field(0.05, ge=0, le=1)
    """Share of failed images beyond which nothing is published (exit code 3)."""
    retry: Literal["transient", "all", "none"] = "transient"
    """Which images that failed in an earlier run are tried again: those whose file could not be read, all, or none."""


class SparkConfig(Section):
    """The embedded Spark. Ignored where a SparkContext is running already, as under spark-submit."""

    master: Text = "local[*]"
    """Spark master URL."""
    memory: str = Field("1g", pattern=r"^[1-9][0-9]*[kmgt]$")
    """Heap of the driver's JVM."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Further Spark settings."""


class Config(Section):
    """Everything that a run depends on."""

    input: Text
    """Folder of images, searched recursively."""
    output: Text
    """Folder of results; made if it does not exist."""
    labels: Literal["parent", "none"] = "parent"
    """Label of an image: the name of its folder, or none."""
    backbone: BackboneName = "mobilenet_v2"
    """Network whose penultimate layer gives the features."""
    verify_content: bool = False
    """Tell changed images by a hash of their bytes instead of size and modification time; reads every image."""
    model: Literal["fit", "reuse"] = "fit"
    """Fit scaler and PCA on these images, or reuse those of an earlier run, so that vectors stay comparable."""
    reuse: Text = "latest"
    """With `model: reuse`: a run id of the same output, `latest`, or the path of a model folder."""
    formats: list[Literal["json", "csv"]] = Field(default_factory=list)
    """Further formats of the vectors, beside Parquet."""
    image: ImageConfig = Field(default_factory=ImageConfig)
    pca: PcaConfig = Field(default_factory=PcaConfig)
    failures: FailuresConfig = Field(default_factory=FailuresConfig)
    spark: SparkConfig = Field(default_factory=SparkConfig)


BACKBONES: tuple[str, ...] = get_args(BackboneName)


@dataclass(frozen=True)
class Environment:
    """What fruitpipe takes from the environment, read at once so that nothing else needs to."""

    cache: Path
    """Where converted backbones and Spark's class archive are kept."""
    keras_home: Path
    """Where Keras keeps downloaded weights."""
    java_home: Path | None
    submitted: bool
    """Whether spark-submit started this process, and with it Spark."""

    @classmethod
    def read(cls) -> Environment:
        home = os.environ
        cache = home.get("FRUITPIPE_CACHE") or Path(home.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruitpipe"
        return cls(
            cache=Path(cache),
            keras_home=Path(home.get("KERAS_HOME") or Path.home() / ".keras"),
            java_home=Path(home["JAVA_HOME"]) if home.get("JAVA_HOME") else None,
            submitted="PYSPARK_GATEWAY_PORT" in home,
        )


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a config: where, what, and the key that was probably meant."""

    key: str
    message: str
    line: int | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        hint = f" Did you mean {self.suggestion!r}?" if self.suggestion else ""
        return f"{where}{self.key}: {self.message}{hint}" if self.key else f"{where}{self.message}{hint}"


class ConfigError(UserError):
    """A config that cannot be used, with every mistake in it."""

    def __init__(self, mistakes: Sequence[Mistake], source: str | None = None) -> None:
        self.mistakes = list(mistakes)
        self.source = source
        # What has no line did not come from the file.
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix if mistake.line else ''}{mistake}" for mistake in self.mistakes))


def load_config(
    path: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    **values: Any,
) -> Config:
    """Merge defaults, a YAML file, `key=value` assignments and keyword values, later ones winning.

    Parameters
    ----------
    path: YAML file, or None.
    assignments: dotted keys with YAML values, such as `pca.variance=0.9`.
    values: top-level keys; those that are None are left out.

    Raises
    ------
    ConfigError: with every mistake that was found.
    """
    tree, lines = read_yaml(Path(path)) if path else ({}, {})
    mistakes: list[Mistake] = []
    for assignment in assignments:
        try:
            key, value = parse_assignment(assignment)
        except ValueError as error:
            mistakes.append(Mistake("", str(error)))
            continue
        put(tree, key, value)
        lines = without(lines, key)
    for name, value in values.items():
        if value is not None:
            tree[name] = value
            lines = without(lines, (name,))
    return check(tree, lines, source=str(path) if path else None, mistakes=mistakes)


def without(lines: Lines, key: Key) -> Lines:
    """The lines of a file without those that something after the file overrides."""
    return {name: line for name, line in lines.items() if name[: len(key)] != key}


def validate(path: str | os.PathLike[str]) -> None:
    """Check a YAML file on its own; `input` and `output` may still come from the command line.

    Raises ConfigError with every mistake.
    """
    tree, lines = read_yaml(Path(path))
    check({"input": "IMAGES", "output": "OUT"} | tree, lines, source=str(path))


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file and the line (from 1) of each of its keys.

    Raises ConfigError where the file is missing, is not YAML, names a key twice or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if aliases := [event for event in yaml.parse(text, yaml.SafeLoader) if isinstance(event, yaml.AliasEvent)]:
            mark = aliases[0].start_mark
            mistake = Mistake("", "YAML aliases (*name) are not supported.", mark.line + 1 if mark else None)
            raise ConfigError([mistake], str(path))
        node = yaml.compose(text, yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(f"no config file {path}: check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError([Mistake("", problem, mark.line + 1 if mark else None)], str(path)) from error
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError([Mistake("", "expected `key: value` lines at the top.", 1)], str(path))
    lines: Lines = {}
    twice = []
    for key, line in walk(node):
        if key in lines:
            twice.append(Mistake(".".join(key), f"named twice, first on line {lines[key]}.", line))
        lines[key] = line
    if twice:
        raise ConfigError(twice, str(path))
    return tree, lines


def walk(node: yaml.Node | None, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key of a YAML document, as a path of names, with its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*parents, str(key.value))
            yield path, key.start_mark.line + 1
            yield from walk(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            path = (*parents, str(index))
            yield path, item.start_mark.line + 1
            yield from walk(item, path)


def parse_assignment(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=1` as (("a", "b"), 1). Everything after `spark.conf.` is one key, as Spark's own keys have dots."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text}: expected key=value, such as pca.variance=0.95.")
    names = tuple(key.split(".", 2)) if key.startswith("spark.conf.") else tuple(key.split("."))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text}: the value is not YAML.") from error
    return names, str(value) if names[:2] == ("spark", "conf") else parsed


def put(tree: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for name in key[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[key[-1]] = value


def check(tree: Mapping[str, Any], lines: Lines, source: str | None, mistakes: Sequence[Mistake] = ()) -> Config:
    """Validate a merged tree.

    Raises ConfigError with all mistakes, those found before included, their lines and the keys probably meant.
    """
    found = list(mistakes)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        found += [explain(detail, lines) for detail in error.errors(include_url=False)]
    if found:
        raise ConfigError(sorted(found, key=lambda mistake: mistake.line or 0), source)
    return config


def explain(detail: Any, lines: Lines) -> Mistake:
    location = tuple(str(part) for part in detail["loc"])
    key, line = ".".join(location), lines.get(location)
    match detail["type"]:
        case "extra_forbidden":
            fields = fields_at(location[:-1])
            close = difflib.get_close_matches(location[-1], fields, 1)
            suggestion = home_of(location[-1], 1.0) or (close[0] if close else home_of(location[-1], 0.8))
            return Mistake(key, "no such key.", line, suggestion)
        case "missing":
            return Mistake(key, f"missing: give it on the command line, or as `{key}:` in a config file.")
        case "literal_error":
            given = str(detail["input"])
            allowed = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
            close = difflib.get_close_matches(given, allowed, 1)
            return Mistake(key, f"{given!r} is not one of {', '.join(allowed)}.", line, close[0] if close else None)
        case _:
            return Mistake(key, f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {detail['input']!r}.", line)


def fields_at(location: tuple[str, ...]) -> list[str]:
    section: Any = Config
    for name in location:
        section = section.model_fields[name].annotation
    return list(section.model_fields)


def home_of(name: str, likeness: float) -> str | None:
    """The dotted key that ends in a name as alike as this, for a key that was written one level off."""
    for key, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            close = difflib.get_close_matches(name, field.annotation.model_fields, 1, likeness)
            if close:
                return f"{key}.{close[0]}"
    close = difflib.get_close_matches(name, Config.model_fields, 1, likeness)
    return close[0] if close else None
