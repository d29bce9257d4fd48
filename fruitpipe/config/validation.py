"""Validation of a config: every mistake, with its line and the key that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from fruitpipe.config.secrets import Key, find_secrets
from fruitpipe.config.sections import TAGS, Config, Section
from fruitpipe.errors import UserError

Lines = dict[Key, int]
"""Line of a file, from 1, for each key in it."""
EXPECTED = {
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("list_type", "tuple_type"), "a list, such as [{item}]"),
    **dict.fromkeys(("model_type", "dict_type"), "a mapping, such as {{{entry}}}"),
    "invalid_key": "text as the name of a key",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_long": "at most {max_length} items",
    "string_too_long": "at most {max_length} characters",
}
"""What to say instead of pydantic's own text, by its type of a mistake."""


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


def config_of(tree: Mapping[str, Any], lines: Lines, source: str | None, mistakes: Sequence[Mistake] = ()) -> Config:
    """Validate a merged tree.

    Raises ConfigError with all mistakes, those found before included, their lines and the keys probably meant.
    """
    secrets = dict(find_secrets(tree))
    found = [*mistakes, *(Mistake(".".join(key), advice, lines.get(key)) for key, advice in secrets.items())]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        found += [mistake_in(detail, lines) for detail in details if key_of(detail) not in secrets]
    if found:
        raise ConfigError(sorted(found, key=lambda mistake: mistake.line or 0), source)
    return config


def key_of(detail: Any) -> Key:
    return tuple(str(part) for part in detail["loc"] if part not in TAGS)


def mistake_in(detail: Any, lines: Lines, root: type[Section] = Config) -> Mistake:
    """What pydantic found wrong with a document of `root`."""
    location = key_of(detail)
    key, line = ".".join(location), lines.get(location)
    match detail["type"]:
        case "extra_forbidden":
            section = section_at(location[:-1], root)
            fields = section.model_fields if section else ()
            close = difflib.get_close_matches(location[-1], fields, 1)
            suggestion = home_of(location[-1], 1.0, root) or (close[0] if close else home_of(location[-1], 0.8, root))
            return Mistake(key, "no such key.", line, suggestion)
        case "missing":
            is_option = root is Config and len(location) == 1
            where = "give it on the command line, or as" if is_option else "add"
            said = f"missing: {where} `{key}:` in {'a config file' if is_option else 'the file'}."
            return Mistake(key, said, lines.get(location[:-1]))
        case "literal_error":
            given = str(quoted(detail["input"]))
            allowed = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
            close = difflib.get_close_matches(given, allowed, 1)
            return Mistake(key, f"{given!r} is not one of {', '.join(allowed)}.", line, close[0] if close else None)
        case "unknown_name" | "form":
            meant = detail["ctx"].get("meant") or None
            return Mistake(key, f"{quoted(detail['input'])!r} {detail['msg']}", line, meant)
        case "value_error":  # ours: says what to do, and may be about what must not be repeated
            return Mistake(key, f"{str(detail['ctx']['error']).rstrip('.')}.", line)
        case _:
            return Mistake(key, in_general(detail, root), line)


def in_general(detail: Any, root: type[Section]) -> str:
    given = quoted(detail["input"])
    match detail["type"]:
        case "string_unicode":
            name = os.fsencode(detail["input"]).decode("utf-8", "backslashreplace")
            return f"{quoted(name)} is not UTF-8: rename it."
        case "too_short" | "string_too_short" if not detail["input"]:
            return "is empty: fill it, or leave it out."
        case kind if kind in EXPECTED:
            bounds = {name: str(bound).removesuffix(".0") for name, bound in detail.get("ctx", {}).items()}
            item = given if isinstance(given, str) and given == detail["input"] != "" else "a, b"
            expected = EXPECTED[kind].format(item=item, entry=example_of(key_of(detail), root), **bounds)
            got = given if isinstance(detail["input"], Mapping | list) else "nothing" if given is None else repr(given)
            return f"expected {expected}, got {got}."
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {given!r}."


def example_of(location: Key, root: type[Section]) -> str:
    """A key of the section at a place, with its default."""
    if (section := section_at(location, root)) is None:
        return "name: value"
    name, field = next(iter(section.model_fields.items()))
    return f"{name}: {field.default if isinstance(field.default, str | int | float) else '…'}"


def quoted(value: Any) -> Any:
    """A wrong value as an error may show it; mappings, lists and possible credentials are only named."""
    if isinstance(value, Mapping | list):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return re.sub(r"[\w/+=-]{30,}", "…", value) if isinstance(value, str) else value


def section_at(location: Key, root: type[Section]) -> type[Section] | None:
    section: type[Section] | None = root
    for name in location:
        if section and not name.isdecimal():  # the number of an item
            section = section_in(section.model_fields[name].annotation) if name in section.model_fields else None
    return section


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a key may hold, alone or beside other forms."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def home_of(name: str, likeness: float, root: type[Section]) -> str | None:
    """The dotted key whose last name is this similar, for a key written at the wrong level."""
    for key, field in root.model_fields.items():
        if section := section_in(field.annotation):
            close = difflib.get_close_matches(name, section.model_fields, 1, likeness)
            if close:
                return f"{key}.{close[0]}"
    close = difflib.get_close_matches(name, root.model_fields, 1, likeness)
    return close[0] if close else None
