"""Pages for people: HTML in which texts are shown and not obeyed, and nothing runs but what a page itself names."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import jinja2

from fruitpipe.escapes import visible


def pages(package: str) -> jinja2.Environment:
    """The templates of a package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        trim_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["source"] = source
    return environment


def source(text: str) -> str:
    """How a Content-Security-Policy names a text of the page itself (CSP Level 3, 2.3.1).

    Whatever else gets into the page neither runs nor styles anything, and nothing is loaded from anywhere.
    """
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
