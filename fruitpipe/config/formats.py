"""Formats of the vectors that a config may name: those that come with fruitpipe, and sinks of other packages."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema

from fruitpipe.config.names import RECORDED, one_of
from fruitpipe.plugins import Registry

PARQUET = "parquet"
"""The format that every run has."""
SINKS: Registry[Any] = Registry(
    "fruitpipe.sinks",
    {
        PARQUET: "fruitpipe.sinks.files:Parquet",
        "json": "fruitpipe.sinks.files:JsonLines",
        "csv": "fruitpipe.sinks.files:Csv",
        "csv-raw": "fruitpipe.sinks.files:RawCsv",
    },
)
"""Classes of sinks by the names of their formats: see `fruitpipe.sinks.Sink`."""


def format_names() -> list[str]:
    """Further formats, besides the one that every run has."""
    return [name for name in SINKS.names() if name != PARQUET]


def format_name(value: str, info: ValidationInfo) -> str:
    """A format that is known. Raises PydanticCustomError `unknown_name` otherwise, with the likely one."""
    return value if info.context == RECORDED else one_of(value, format_names(), "is not one of {names}.")


class FormatSchema:
    """JSON Schema of a format's name, computed when it is asked for, as installed packages may add formats."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": format_names()}
