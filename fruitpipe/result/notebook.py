"""How a notebook shows what the command line prints in rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape


def as_html(rows: Mapping[str, object], notes: Iterable[str] = ()) -> str:
    """A table of names and values, and what there is to note below."""
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name.strip())}</th>'
        f'<td style="text-align: left">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>{''.join(f'<p>note: {escape(note)}.</p>' for note in notes)}"
