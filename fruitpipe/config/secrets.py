"""Detection of credentials in configs, where they are not allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Key = tuple[str, ...]
"""A place in a config: names from the top down."""
NO_CREDENTIALS = (
    "credentials are not allowed in a config: fruitpipe finds them where AWS tools do (environment, profile, role), "
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


def secret_free(value: str) -> str:
    """Return a value that holds no credential. Raises ValueError, which does not quote it, where it does."""
    if SECRET_VALUE.search(value):
        raise ValueError(NO_CREDENTIALS)
    return value


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
