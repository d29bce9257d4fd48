"""One config out of defaults, a YAML file and assignments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fruitpipe.config.places import SCHEME
from fruitpipe.config.secrets import Key
from fruitpipe.config.sections import Config
from fruitpipe.config.validation import ConfigError, Lines, Mistake, config_of

NOT_YAML = (yaml.YAMLError, RecursionError, ValueError)
"""What reading YAML raises: the last of dates and numbers that are none."""


def load_config(
    path: str | os.PathLike[str] | None = None,
    assignments: str | Iterable[str] = (),
    **values: Any,
) -> Config:
    """Merge defaults, a YAML file, `key=value` assignments and keyword values, later ones winning.

    Parameters
    ----------
    path: YAML file, or None.
    assignments: dotted keys with YAML values, such as `pca.variance=0.9`.
    values: keys, with dots where they are in a section; those that are None are left out.

    Raises
    ------
    ConfigError: with every mistake that was found.
    """
    return config_on(read_file(path), assignments, values)


class Read(NamedTuple):
    """A YAML file that has been read; nothing where there is none."""

    tree: dict[str, Any]
    lines: Lines
    source: str | None
    """what errors call it"""


def read_file(path: str | os.PathLike[str] | None) -> Read:
    """What `config_on` builds on. Raises as `read_yaml`."""
    return Read(*read_yaml(Path(path)), str(path)) if path else Read({}, {}, None)


def config_on(file: Read, assignments: str | Iterable[str], values: Mapping[str, Any]) -> Config:
    """As `load_config`, of a file that has been read: a pipe is empty the next time, and a file may be another one."""
    tree, lines = deepcopy(file.tree), file.lines
    mistakes: list[Mistake] = []
    for assignment in [assignments] if isinstance(assignments, str) else assignments:
        try:
            key, value = parse_assignment(assignment)
        except ValueError as error:
            mistakes.append(Mistake("", str(error)))
            continue
        put(tree, key, value)
        lines = without(lines, key)
    for name, value in values.items():
        if value is not None:
            key = names_in(name)
            put(tree, key, value)
            lines = without(lines, key)
    return config_of(tree, lines, file.source, mistakes)


def without(lines: Lines, key: Key) -> Lines:
    """The lines of a file without those that something after the file overrides."""
    return {name: line for name, line in lines.items() if name[: len(key)] != key}


def validate(path: str | os.PathLike[str]) -> None:
    """Check a YAML file on its own; `input` and `output` may still come from the command line.

    Raises ConfigError with every mistake.
    """
    tree, lines = read_yaml(Path(path))
    config_of({"input": "IMAGES", "output": "OUT"} | tree, lines, source=str(path))


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file and the line (from 1) of each of its keys.

    Raises ConfigError where the file is missing, is not YAML, names a key twice or holds no mapping.
    """
    try:
        return mapping_in(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        url = SCHEME.match(str(path))  # a path has one slash where the URL had two
        if url and url[1] != "file":
            said = f"{url[1]}://{str(path)[url.end() :]} is no file of this machine: download it first."
        else:
            said = f"no config file {path}: check the path."
        raise ConfigError([Mistake("", said)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Mistake("", f"{path} is not UTF-8: save it so.")]) from error
    except OSError as error:
        raise ConfigError([Mistake("", f"cannot read {path}: {error.strerror or error}.")]) from error


class NotTaken(yaml.MarkedYAMLError):
    """Raised for YAML that is none of ours; its problem says what to do."""


class Loader(yaml.SafeLoader):
    """PyYAML's, for documents without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = "YAML aliases (*name) are not supported: write out what they stand for."
            raise NotTaken(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date or a number that there is not
            problem = f"cannot read {node.value!r} ({error}): put it in quotes if it is text."
            raise NotTaken(problem=problem, problem_mark=node.start_mark) from error


def mapping_in(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    """As `read_yaml`, of a file's text.

    source: what errors call the file.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        tree = loader.construct_document(node) if node else None
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or "not YAML"
        if not isinstance(error, NotTaken):
            said += ": check the indentation, quotes and brackets here and on the line before."
        raise ConfigError([Mistake("", said, mark.line + 1 if mark else 1)], source) from error
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError([Mistake("", "expected `key: value` lines at the top.", 1)], source)
    lines: Lines = {}
    twice = []
    for key, line in walk(node):
        if key in lines:
            twice.append(Mistake(".".join(key), f"named twice, first on line {lines[key]}.", line))
        lines[key] = line
    if twice:
        raise ConfigError(twice, source)
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


def parse_assignment(text: str) -> tuple[Key, Any]:
    """`a.b=1` as (("a", "b"), 1). Raises ValueError where it has no key or no value, or one that is not YAML."""
    key, equals, value = text.partition("=")
    shown = re.split(r"[\s:=]", text)[0]  # not the rest, which may be a key
    if not equals or not key:
        raise ValueError(f"--set {shown}: expected key=value, such as pca.variance=0.95.")
    names = names_in(key)
    try:
        parsed = yaml.safe_load(value)
    except NOT_YAML as error:
        raise ValueError(f"--set {shown}: the value is not YAML: check its quotes and brackets.") from error
    return names, str(value) if names[:2] == ("spark", "conf") else parsed


def names_in(key: str) -> Key:
    """A dotted key as its names. What follows `spark.conf.` is one, as Spark's own keys have dots."""
    return tuple(key.split(".", 2 if key.startswith("spark.conf.") else -1))


def put(tree: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[key[-1]] = value
