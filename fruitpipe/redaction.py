"""Messages without secrets: what libraries say of a failure may repeat a key, a token or a URL with a password.

Known are the secrets of this process, as they are when a message is made: in environment variables whose names say so,
in files that those name or that a chain of credentials reads, and what was handed over by `remember`. They are found
in whatever spelling messages have them. Others are told by how they look.
"""

from __future__ import annotations

import html
import os
import re
import stat
import traceback
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from fruitpipe.escapes import visible
from fruitpipe.secret_patterns import WORDS, says_secret

HIDDEN = "***"
SHORTEST = 8
"""Characters of a secret that is looked for: shorter ones are part of other words."""
HEAD = 16
"""Characters by which a secret is known that was cut short, or is told in another way from there on."""
MOST = 1 << 20
"""Bytes that are read of a file."""

TOKEN_FILE = re.compile(r"token_file$", re.IGNORECASE)
"""Names of variables that name a file which is a secret from beginning to end."""
ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
    "GOOGLE_APPLICATION_CREDENTIALS": "~/.config/gcloud/application_default_credentials.json",
    "GOOGLE_SERVICE_ACCOUNT": "",
    "GOOGLE_SERVICE_ACCOUNT_PATH": "",
}
"""Files with secrets among other things: the variables that name them, and where they are without."""

# To look ahead for first letters makes a search seven times as fast. After a slash it is the name of a folder.
NAME = (
    rf"(?=[acimpst])(?<!/)(?<!continuation)(?<!continuation-)(?:(?:{WORDS})(?:-\d)?"
    r"|(?<=[?&;-])signature|(?<![a-z])sig|credential)"
)
IS = r"""\\*["']?[^\S\n]*[:=][^\S\n]*"""
QUOTED = r"""b?(\\*["'])(.*?)(?:(?<!\\)\1|$)"""
BARE = r"""(?!-----BEGIN)((?:[^\s"'&<>;,\\]|\\[^"']|,(?!\s|\w+=|$))+)"""
NO_WORD = r"""(?=[^\s"']{6})(?=[^\s"']{0,99}\d)(?![\w.]*[(\[])"""
LOOKS = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # A password in a URL, also one that should have been quoted; a port is none.
        r"""://[^\s/@:"'<>[]*:(?!\d{1,5}(?:[/?#]|$))([^\s"'<>/]+|(?:(?!://)[^\s"'<>@])+)@""",
        # A user alone is a token.
        r"""https?://([^\s/@:"'<>?#[]+)@""",
        # A value in settings, JSON, queries and XML. What follows a space or a colon may be prose or Python.
        f"{NAME}(?:{IS}{QUOTED}|(?:=|>|%3D){BARE}|{IS}{NO_WORD}{BARE})",
        rf"\bx-[\w-]{{0,50}}(?:token|secret|key){IS}(?:{QUOTED}|{BARE})",
        rf"""authorization{IS}(?:{QUOTED}|([^\n"'\\]+))""",
        r"""\b(?:bearer|basic)\s+(?=\S*(?:[\d=]|(?-i:[a-z][A-Z])))([\w.~+/-]{16,}=*)""",
        r"""(?<![\w-])(eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)""",
        r"""-----BEGIN [A-Z ]*PRIVATE KEY-----((?s:.*?))(?:-----END|\Z)""",
    )
]
"""How credentials look; the last group is what is secret."""
QUOTING = (
    r"(?P<slashes>(?:\\|%(?:25)*5c)+)(?:x(?P<escaped>[0-9a-f]{2})|u(?P<code>[0-9a-f]{4})|(?P<control>[abfnrtv]))?"
    r"|%(?:25)*(?P<percent>[0-9a-f]{2})"
    r"|&(?:amp;)*(?P<entity>\#?\w{1,8};)"
)
QUOTED_CHARACTER = re.compile(QUOTING, re.IGNORECASE | re.ASCII)
"""As Python, JSON, URLs or HTML have it, quoted any number of times."""
CHARACTER = re.compile(f"{QUOTING}|.", re.IGNORECASE | re.ASCII | re.DOTALL)
SPACE = dict.fromkeys([*range(0x21), 0x7F])
"""What comes in between where lines end."""

told: list[str] = []
"""What `remember` was given."""


class Version(NamedTuple):
    """A file as it was at one moment."""

    path: str
    whole: bool
    """whether all of it is a secret"""
    changed: int
    size: int


def without_secrets(text: str, known: tuple[str, ...] | None = None) -> str:
    """A message with `***` for each secret in it. known: what `secrets` says, which for many texts takes long."""
    spans = [match.span(match.lastindex or 0) for look in LOOKS for match in look.finditer(text)]
    said = plain(text)
    if found := [secret for secret in (secrets() if known is None else known) if secret[:HEAD] in said]:
        places = [match.span() for match in CHARACTER.finditer(text) for _ in plain(match[0])]
        spans += [span for secret in found for span in occurrences(secret, text, said, places)]
    pieces: list[str] = []
    end = 0
    for first, last in sorted(span for span in spans if span[0] < span[1]):
        if not pieces or first > end:
            pieces += [text[end:first], HIDDEN]
        end = max(end, last)
    return "".join([*pieces, text[end:]])


def values_without_secrets(value: Any) -> Any:
    """What JSON can say, with `***` for each secret in its texts; numbers and keys stay as they are."""
    known = secrets()

    def cleaned(value: Any) -> Any:
        match value:
            case str():
                return without_secrets(value, known)
            case dict():
                return {key: cleaned(each) for key, each in value.items()}
            case list() | tuple():
                return [cleaned(each) for each in value]
        return value

    return cleaned(value)


def remember(*secrets: str | None) -> None:
    """Take out of all further messages what this process was given by a service, such as the keys of a role."""
    told.extend({secret for secret in secrets if secret} - {*told})


@contextmanager
def redacted_tracebacks() -> Iterator[None]:
    """For a block whose exceptions somebody else prints: one that would show a secret, or steer a terminal, becomes the
    text that does not."""
    try:
        yield
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if (clean := visible(without_secrets(text))) == text:
            raise
        raise RuntimeError(f"\n{clean}") from None


def occurrences(secret: str, text: str, said: str, places: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where a secret is in a text, or the beginning of one that was cut short.

    said: the text plainly; places: where the text has each character of that.
    """
    start = said.find(secret[:HEAD])
    while start >= 0:
        there = said[start : start + len(secret)]
        end = start + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(secret, there, strict=False)))
        first, last = places[start][0], places[end - 1][1]
        if end - start < len(secret):  # what follows may be the rest, changed by nobody knows what
            last += len(re.split(r"""[\s"'<>]""", text[last:], maxsplit=1)[0])
        if not (secret.isdigit() and is_within_a_number(text, first, last)):
            yield first, last
        start = said.find(secret[:HEAD], end)


def is_within_a_number(text: str, first: int, last: int) -> bool:
    """Whether a longer number is where digits are."""
    before, after = text[max(first - 3, 0) : first], text[last : last + 2]
    return bool(re.search(r"(?<!%)(?<!%\d)\d\.?$", before) or re.match(r"\.?\d", after))


def plain(text: str) -> str:
    """What a text says, without space and quoting; a character for each byte of UTF-8."""
    return QUOTED_CHARACTER.sub(unquoted, as_bytes(text)).translate(SPACE)


def as_bytes(text: str) -> str:
    return text.encode(errors="surrogatepass").decode("latin-1")


def unquoted(match: re.Match[str]) -> str:
    """The character that was quoted; slashes alone only quote."""
    match match.lastgroup:
        case "escaped" | "percent" as group:
            character = chr(int(match[group], 16))
        case "code":
            character = as_bytes(chr(int(match["code"], 16)))
        case "entity":
            character = as_bytes(html.unescape(f"&{match['entity']}"))
        case _:
            character = ""
    return character.replace("\\", "")


def secrets() -> tuple[str, ...]:
    """What is a secret now, plainly."""
    found = variables()
    return _secrets(found, tuple(versions(dict(found))), tuple(told))


def variables() -> tuple[tuple[str, str], ...]:
    """Those of this process, which other threads may take away meanwhile."""
    return tuple((name, value) for name in list(os.environ) if (value := os.environ.get(name)) is not None)


def versions(variables: dict[str, str]) -> Iterator[Version]:
    """The files that hold secrets, those that are there."""
    whole = [ACCOUNT_TOKEN, *(value for name, value in variables.items() if TOKEN_FILE.search(name))]
    parts = [variables.get(name) or usual for name, usual in FILES.items()]
    for path, is_whole in [*product(whole, [True]), *product(parts, [False])]:
        try:
            found = os.stat(os.path.expanduser(path))  # noqa: PTH111, PTH116 - Path raises where there is no home
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(found.st_mode):
            yield Version(path, is_whole, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _secrets(
    variables: tuple[tuple[str, str], ...], files: tuple[Version, ...], told: tuple[str, ...]
) -> tuple[str, ...]:
    contents = [(file.whole, content(file.path)) for file in files]
    texts = [*(value for _, value in variables), *(text for _, text in contents)]
    found = {value for name, value in variables if says_secret(name) and not is_a_file(value)}
    found |= {text for whole, text in contents if whole}
    found |= {match[match.lastindex or 0] for text in texts for look in LOOKS for match in look.finditer(text)}
    whole = {re.sub(r"-----[A-Z ]+-----", "", each).strip() for each in (*found, *told)}
    lines = {line for each in whole for line in re.split(r"(?:[\r\n]|\\[rn])+", each)}
    coded = {b64encode(each.encode(errors="surrogatepass")).decode() for each in whole}
    in_forms = {each.replace(" ", "+") for each in whole}
    return tuple(each for each in map(plain, whole | lines | coded | in_forms) if len(each) >= SHORTEST)


def is_a_file(value: str) -> bool:
    """Whether a value is where a secret is, as that of SSH_KEY may be."""
    return value.startswith("/") and os.path.exists(value)  # noqa: PTH110 - Path raises where it is too long


def content(path: str) -> str:
    """The beginning of a file; empty where it cannot be read."""
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:  # noqa: PTH111
            return file.read(MOST).decode(errors="replace")
    except OSError:
        return ""
