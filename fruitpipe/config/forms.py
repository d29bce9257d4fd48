"""Texts of a form: a regular expression for programs, and what it stands for in words for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fruitpipe.config.names import RECORDED


@dataclass(frozen=True)
class Form:
    """Annotation of a text that has a form: `form` is the type of the error where it has not."""

    pattern: str
    """that it matches as a whole; likewise in the JSON Schema, so it begins with ^ and ends with $"""
    words: str
    """what it is, after "is not": a size such as 2g"""
    always: bool = True
    """or not where an earlier run has recorded it, which did without"""

    def check(self, value: str, info: ValidationInfo) -> str:
        if re.fullmatch(self.pattern, value) or (info.context == RECORDED and not self.always):
            return value
        raise PydanticCustomError("form", "is not {words}.", {"words": self.words})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "pattern": self.pattern}


SHA256 = Form(r"^[0-9a-f]{64}$", "a SHA-256: 64 of the digits 0 to 9 and a to f")
