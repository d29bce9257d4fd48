"""Detection of credentials in configs, where they are not allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from fruitpipe.config.names import RECORDED
from fruitpipe.secret_patterns import SECRET_NAME, SECRET_REFERENCE, SECRET_VALUE, says_secret

Key = tuple[str, ...]
"""A place in a config: names from the top down."""
NO_CREDENTIALS = (
    "credentials are not allowed in a config: fruitpipe finds them where AWS tools do (environment, profile, role), "
    "so remove this and see `fruitpipe doctor`."
)
NO_SETTING = (
    "credentials are not allowed in a config: remove this, and set it in the environment, which Spark's workers "
    "inherit, in spark-defaults.conf of the Spark that it is for, or on Kubernetes in a Secret."
)
SETTINGS = ("spark", "conf")
TAGS = ("s3", "tags")
"""Whose names are the user's own."""
KMS_KEY = ("s3", "kms_key")
"""The id of a key."""
SECRET_FREE: dict[str, Any] = {"type": "string", "not": {"pattern": SECRET_VALUE.pattern}}
"""JSON Schema of values."""
SETTING_NAME: dict[str, Any] = {
    "type": "string",
    "anyOf": [{"pattern": SECRET_REFERENCE.pattern}, {"not": {"pattern": SECRET_NAME.pattern}}],
}
"""JSON Schema of the names of Spark's settings and of variables."""


def secret_free(value: str) -> str:
    """Return a value that holds no credential. Raises ValueError, which does not quote it, where it does."""
    if SECRET_VALUE.search(value):
        raise ValueError(NO_CREDENTIALS)
    return value


def setting_name(name: str) -> str:
    """Return a name that says of no secret. Raises ValueError where it does."""
    if says_secret(name):
        raise ValueError(NO_SETTING)
    return name


class Checked:
    """Marks texts that are checked, but where they are recorded of earlier runs, when more was allowed."""

    def __init__(self, check: Callable[[str], str], schema: dict[str, Any]) -> None:
        """schema: what JSON Schema has for the check."""
        self.check = check
        self.schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(core) | self.schema

    def checked(self, value: str, info: ValidationInfo) -> str:
        return value if info.context == RECORDED else self.check(value)


NO_SECRET = Checked(secret_free, SECRET_FREE)
NAMES_NO_SECRET = Checked(setting_name, SETTING_NAME)


def find_secrets(tree: Any, parents: Key = ()) -> Iterator[tuple[Key, str]]:
    """Keys of a tree that hold credentials, by their name or by their value, and what to do about each."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        key = (*parents, str(name))
        named = parents != TAGS and key != KMS_KEY and says_secret(str(name))
        if named or (isinstance(value, str) and SECRET_VALUE.search(value)):
            yield key, NO_SETTING if parents == SETTINGS else NO_CREDENTIALS
        else:
            yield from find_secrets(value, key)
