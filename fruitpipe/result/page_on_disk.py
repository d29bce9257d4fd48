"""A run's page where a browser can open it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fruitpipe.config import is_remote
from fruitpipe.errors import UserError
from fruitpipe.result.runs import Run
from fruitpipe.storage import layout


def page_on_disk(run: Run) -> Path:
    """The page of all images of a run, or its report where there is none.

    Of a bucket, pages are copied to a new folder that only this user can look into, and stay there for the browser.

    Raises UserError where the run has no page.
    """
    names = layout.explore(run.id), layout.report(run.id)
    found = {name: data for name in names if (data := run.store.find(name)) is not None}
    if not found:
        raise UserError(f"{run.path()} has no page: `fruitpipe explore` makes one.")
    if not is_remote(run.store.url):
        return Path(run.store.location(next(iter(found))))
    folder = Path(tempfile.mkdtemp(prefix="fruitpipe-pages-"))
    for name, data in found.items():
        (folder / name.rpartition("/")[2]).write_bytes(data)
    return folder / next(iter(found)).rpartition("/")[2]
