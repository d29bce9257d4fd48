"""JSON documents of a result or a model: read within bounds, and only as fruitpipe writes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from fruitpipe.config import RECORDED
from fruitpipe.errors import UserError
from fruitpipe.storage.store import Store

Document = TypeVar("Document", bound=BaseModel)


def find_document(store: Store, name: str, kind: type[Document]) -> Document | None:
    """A document of a store; None where there is none. Raises UserError where it is damaged."""
    return find_read(store, name, partial(kind.model_validate_json, context=RECORDED))


def find_read(store: Store, name: str, read: Callable[[bytes], Document]) -> Document | None:
    """As `find_document`, of one that is read by a function, which raises ValueError where it is damaged."""
    if (data := store.find(name)) is None:
        return None
    try:
        return read(data)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in wrong["loc"])
        raise damaged(store, name, f"{where}{wrong['msg'].rstrip('.')}") from error
    except ValueError as error:
        raise damaged(store, name, str(error)) from error


def damaged(store: Store, name: str, why: str) -> UserError:
    """What to say of a document that says what it cannot."""
    return UserError(
        f"cannot read {store.location(name)}: {why}. It is damaged, or not fruitpipe's: put back what was there, or "
        "delete it."
    )
