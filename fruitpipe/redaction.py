"""Messages without secrets: what libraries say of a failure may repeat a key, a token or a URL with a password.

Known are the secrets of this process, as they are when a message is made: in environment variables, in files that those
name or that a chain of credentials reads, and what was handed over by `remember`. They are found in whatever spelling
messages have them. Others are told by how they look.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product, takewhile
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 8
"""Characters of a secret that is looked for: shorter ones are part of other words."""
HEAD = 16
"""Characters by which a secret is known that was cut short."""
MOST = 1 << 20
"""Bytes that are read of a file."""

SECRET_VARIABLE = re.compile(
    r"(secret|password|passwd|passphrase|(^|_)pass|token|connection_string|identity_header"
    r"|(access|account|api|customer|master|private|sas|secret|storage)_?key(_base64)?)$",
    re.IGNORECASE,
)
"""Names of variables that hold a secret. An access key's id is none."""
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

# To look ahead for first letters makes a search seven times as fast.
NAME = (
    r"(?=[acpst])(?:secret|passw(?:or)?d|passphrase|(?<!continuation)(?<!continuation-)token(?:-\d)?|signature"
    r"|(?<![a-z])sig|credential|assertion|(?:access|account|api|customer|private|storage)[_-]?key)"
)
HEADER = r"(?=[ax])(?:\bx-[\w-]*(?:token|secret|customer-key)|authorization)"
VALUE = r"""((?:[^\s"'&<>;,\\]|\\[^"'])+)"""
LOOKS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # A password in a URL, also one that should have been quoted; a port is none.
        r"""://[^\s/@:"'<>]*:(?!\d{1,5}(?:[/?#]|$))([^\s"'<>/]+|[^\s"'<>@]+)@""",
        # A value in queries, settings, JSON and XML, and in what Python and JSON make of those.
        NAME + r"""(?:\s*=\s*(?:b?\\?["'])?|\\?["']\s*:\s*b?\\?["']|>|%3D)""" + VALUE,
        HEADER + r"""\\?["']?\s*[:=]\s*(?:b?\\?["'])?(?:(?:bearer|basic|sharedkey)\s+)?""" + VALUE,
        r"""\b(?:bearer|basic)\s+([\w.~+/-]{16,}=*)""",
        r"""\b(eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)""",
        r"""(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|\Z))""",
    )
]
"""How credentials look; the group is what is secret."""

told: list[str] = []
"""What `remember` was given."""


class Version(NamedTuple):
    """A file as it was at one moment."""

    path: str
    whole: bool
    """whether all of it is a secret"""
    changed: int
    size: int


class Redacted:
    """A stream for text that takes secrets out of what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def without_secrets(text: str) -> str:
    """A message with `***` for each secret in it."""
    spans = [span for secret in secrets() for span in occurrences(secret, text)]
    spans += [match.span(1) for look in LOOKS for match in look.finditer(text)]
    pieces: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if not pieces or first > end:
            pieces += [text[end:first], HIDDEN]
        end = max(end, last)
    return "".join([*pieces, text[end:]])


def remember(*secrets: str | None) -> None:
    """Take out of all further messages what this process was given by a service, such as the keys of a role."""
    told.extend({secret for secret in secrets if secret} - {*told})


def redact_output() -> None:
    """From now on, take secrets out of all that Python writes to standard output and standard error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Redacted):
            setattr(sys, name, Redacted(stream))


@contextmanager
def redacted_tracebacks() -> Iterator[None]:
    """For a block whose exceptions somebody else prints: one that would show a secret becomes the text without it."""
    try:
        yield
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if (clean := without_secrets(text)) == text:
            raise
        raise RuntimeError(f"\n{clean}") from None


def occurrences(secret: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a secret is in a text, or the beginning of one that was cut short."""
    start = text.find(secret[:HEAD])
    while start >= 0:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(secret, text[start : start + len(secret)], strict=False))
        end = start + sum(1 for _ in same)
        yield start, end
        start = text.find(secret[:HEAD], end)


def secrets() -> tuple[str, ...]:
    """What is a secret now, in all its spellings."""
    variables = tuple(os.environ.items())
    return _secrets(variables, tuple(versions(dict(variables))), tuple(told))


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
    found = {value for name, value in variables if SECRET_VARIABLE.search(name)}
    found |= {text for whole, text in contents if whole}
    found |= {match[1] for text in texts for look in LOOKS for match in look.finditer(text)}
    spelled = {each for value in (*found, *told) for each in spellings(value)}
    return tuple(each for each in spelled if len(each) >= SHORTEST)


def content(path: str) -> str:
    """The beginning of a file; empty where it cannot be read."""
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:  # noqa: PTH111
            return file.read(MOST).decode(errors="replace")
    except OSError:
        return ""


def spellings(secret: str) -> set[str]:
    """How messages may have a secret: whole, on one line, a line of it; quoted up to twice by Python, JSON or URLs."""
    lines = re.split(r"(?:[\r\n]|\\[rn])+", secret)
    found = {secret, *(each.strip() for each in (secret, unquote(secret), *lines)), " ".join(secret.split())}
    for _ in range(2):
        found |= {spelling for each in found for spelling in quoted(each)}
    return found


def quoted(text: str) -> Iterator[str]:
    raw = text.encode(errors="surrogatepass")
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield repr(raw)[2:-1]
    yield json.dumps(text)[1:-1]
    yield quote(raw)
    yield quote(raw, safe="")
