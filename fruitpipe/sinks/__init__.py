"""Sinks take the vectors of a run: files in several formats, and what other packages add."""

from fruitpipe.sinks.sink import Sink, open_sinks
from fruitpipe.sinks.table import to_table, vectors_of

__all__ = ["Sink", "open_sinks", "to_table", "vectors_of"]
