"""The one config object, shared by the CLI, YAML files, the Python API and the JSON Schema.

This is the only module that reads environment variables.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from fruitpipe.errors import UserError

BackboneName = Literal["mobilenet_v2", "efficientnet_lite0"]
Text = Annotated[str, StringConstraints(min_length=1)]
SCHEMES = ("s3", "gs", "az", "file")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
NO_KEYS = (
    "keys do not belong here: fruitpipe takes credentials from where AWS tools do (environment, profile, role), "
    "so remove this and see `fruitpipe doctor`."
)
SECRET_NAME = re.compile(
    r"secret|passw|credential|access.?key|session.?token|(^|_)(token|key_id|api_key)$", re.IGNORECASE
)
SECRET_VALUE = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|://[^/\s]*:[^/\s]*@|X-Amz-(Signature|Credential|Security-Token)=|[?&]sig=",
    re.IGNORECASE,
)
SECRET_SETTING = re.compile(r"(access|secret|session|account|sas)[._-]?(key|token)\b|password", re.IGNORECASE)
"""In Spark's own settings, `secret` may name one of Kubernetes, which is the right way."""


def location(url: str) -> str:
    """Check a path or URL of a place. Raises ValueError, never quoting a key."""
    if (scheme := SCHEME.match(url)) is None:
        return url
    secret_free(url)
    if scheme[1] in {"s3a", "s3n", "S3"}:
        raise ValueError("write s3:// here")
    if scheme[1] in {"http", "https"}:
        raise ValueError("write s3://bucket/folder here, and the server as s3.endpoint where it is not AWS")
    if scheme[1] not in SCHEMES:
        raise ValueError(f"no such scheme: a path, or {', '.join(f'{name}://' for name in SCHEMES)}")
    if scheme[1] != "file" and not re.match(r"[a-z0-9]+://[A-Za-z0-9]", url):
        raise ValueError(f"expected {scheme[1]}://bucket/folder")
    return url


def is_remote(url: str) -> bool:
    """Whether a place is in an object store."""
    scheme = SCHEME.match(url)
    return scheme is not None and scheme[1] != "file"


def local_path(url: str) -> str:
    """The path of a place on disk, which may be given as file://…"""
    return url.removeprefix("file://") if url.startswith("file:///") else url


def secret_free(value: str) -> str:
    """Check that a value holds no key. Raises ValueError, not quoting it."""
    if SECRET_VALUE.search(value):
        raise ValueError(NO_KEYS)
    return value


Location = Annotated[Text, AfterValidator(location)]
ONE, SEVERAL = "(one)", "(several)"
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


class S3Config(Section):
    """How to reach s3:// buckets. Never credentials: those come from the environment, a profile or a role."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^/?#]+/?$"), AfterValidator(secret_free)] | None = (
        None
    )
    """URL of an S3 server other than AWS."""
    region: Text | None = None
    """Region that buckets must be in; refused where they are elsewhere. Found out where it is not given."""
    path_style: bool | None = None
    """Bucket in the path of a URL instead of its host name. By default for every endpoint but AWS."""
    allow_http: bool = False
    """Accept an endpoint without TLS."""
    ca_file: Text | None = None
    """PEM file of the authority that signed the endpoint's certificate."""
    requester_pays: bool = False
    """Pay for requests to others' buckets."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """Server-side encryption of what is written, where the bucket's default will not do."""
    kms_key: Text | None = None
    """Id or ARN of the key, with `encryption: aws:kms`."""
    checksum: Literal["sha256"] | None = None
    """Checksum sent with what is written, for the server to check."""
    tags: dict[str, str] = Field(default_factory=dict, max_length=10)
    """Tags of the objects that are written."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        if self.endpoint and self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError("the endpoint has no TLS: use https://, or say allow_http: true")
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption: aws:kms")
        return self


class Config(Section):
    """Everything that a run depends on."""

    input: Annotated[
        Annotated[Location, Tag(ONE)] | Annotated[list[Location], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
    ]
    """Images: a folder, searched recursively, a glob, or a manifest (Parquet, CSV, JSON lines, text, S3 Inventory);
    on disk or as s3://bucket/folder. Several as a list."""
    output: Location
    """Folder of results, on disk or as s3://bucket/folder; made if it does not exist."""
    labels: Literal["parent", "none"] = "parent"
    """Label of an image: the name of its folder, or none."""
    backbone: BackboneName = "mobilenet_v2"
    """Network whose penultimate layer gives the features."""
    verify_content: bool = False
    """Tell changed images by a hash of their bytes instead of size and modification time; reads every image."""
    model: Literal["fit", "reuse"] = "fit"
    """Fit scaler and PCA on these images, or reuse those of an earlier run, so that vectors stay comparable."""
    reuse: Location = "latest"
    """With `model: reuse`: a run id of the same output, `latest`, or the path of a model folder."""
    formats: list[Literal["json", "csv"]] = Field(default_factory=list)
    """Further formats of the vectors, beside Parquet."""
    image: ImageConfig = Field(default_factory=ImageConfig)
    pca: PcaConfig = Field(default_factory=PcaConfig)
    failures: FailuresConfig = Field(default_factory=FailuresConfig)
    s3: S3Config = Field(default_factory=S3Config)
    spark: SparkConfig = Field(default_factory=SparkConfig)

    @property
    def inputs(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


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
    worker: bool
    """Whether Spark started this process to run tasks."""
    aws_region: str | None
    """Where to look for buckets of a server that does not say where they are."""
    aws_ca_file: str | None
    gcs_emulator: str | None
    """URL of a local stand-in for Google Cloud Storage."""
    revision: str | None
    """Commit that the container image was built of."""

    @classmethod
    def read(cls) -> Environment:
        home = os.environ
        cache = home.get("FRUITPIPE_CACHE") or Path(home.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruitpipe"
        return cls(
            cache=Path(cache),
            keras_home=Path(home.get("KERAS_HOME") or Path.home() / ".keras"),
            java_home=Path(home["JAVA_HOME"]) if home.get("JAVA_HOME") else None,
            submitted="PYSPARK_GATEWAY_PORT" in home,
            worker="SPARK_REUSE_WORKER" in home,
            aws_region=home.get("AWS_REGION") or home.get("AWS_DEFAULT_REGION"),
            aws_ca_file=home.get("AWS_CA_BUNDLE"),
            gcs_emulator=home.get("STORAGE_EMULATOR_HOST"),
            revision=home.get("FRUITPIPE_REVISION") or None,
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
    shown = re.split(r"[\s:=]", text)[0]  # not the rest, which may be a key
    if not equals or not key:
        raise ValueError(f"--set {shown}: expected key=value, such as pca.variance=0.95.")
    names = tuple(key.split(".", 2)) if key.startswith("spark.conf.") else tuple(key.split("."))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {shown}: the value is not YAML.") from error
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
    secrets = list(find_secrets(tree))
    found = [*mistakes, *(Mistake(".".join(key), NO_KEYS, lines.get(key)) for key in secrets)]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        found += [explain(detail, lines) for detail in details if key_of(detail) not in secrets]
    if found:
        raise ConfigError(sorted(found, key=lambda mistake: mistake.line or 0), source)
    return config


def find_secrets(tree: Any, parents: Key = ()) -> Iterator[Key]:
    """Keys of a tree that hold credentials, by their name or by their value."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        key = (*parents, str(name))
        named = SECRET_SETTING if parents == ("spark", "conf") else SECRET_NAME
        free = parents == ("s3", "tags")
        if (not free and named.search(str(name))) or (isinstance(value, str) and SECRET_VALUE.search(value)):
            yield key
        else:
            yield from find_secrets(value, key)


def key_of(detail: Any) -> Key:
    return tuple(str(part) for part in detail["loc"] if part not in {ONE, SEVERAL})


def explain(detail: Any, lines: Lines) -> Mistake:
    location = key_of(detail)
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
            given = str(quoted(detail["input"]))
            allowed = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
            close = difflib.get_close_matches(given, allowed, 1)
            return Mistake(key, f"{given!r} is not one of {', '.join(allowed)}.", line, close[0] if close else None)
        case "value_error":  # ours: says what to do, and may be about what must not be repeated
            return Mistake(key, f"{str(detail['ctx']['error']).rstrip('.')}.", line)
        case _:
            return Mistake(
                key, f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {quoted(detail['input'])!r}.", line
            )


def quoted(value: Any) -> Any:
    """A wrong value as an error may show it: of mappings, lists and what may be a key, only what they are."""
    if isinstance(value, Mapping | list):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return re.sub(r"[\w/+=-]{30,}", "…", value) if isinstance(value, str) else value


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
