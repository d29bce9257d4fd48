"""Rows of a list of images as a listing.

Paths that are not absolute start from the list's folder. Files on disk are looked at for their etags; an object whose
etag nobody says counts as one that never changes, so that a list costs no request for each image.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import SCHEME, location
from fruitpipe.source.files import size_and_etag
from fruitpipe.source.listing import LONGEST_TEXT, parents_of, to_listing
from fruitpipe.source.scope import Scope

SCHEMA = {"path": pa.string(), "label": pa.string(), "etag": pa.string(), "size": pa.int64()}
"""Columns of lists."""
REMOTE = rf"^{SCHEME.pattern}"
OBJECT = r"^(s3|gs|az)://[A-Za-z0-9]"


def listing_of(rows: pa.RecordBatch, before: int, scope: Scope, by_parent: bool) -> pa.RecordBatch:
    """Rows of a list, after so many others, as LISTING, without those that name nothing.

    Raises ValueError where one has a text that is too long or a size that is none, UserError where one names what the
    list may not.
    """

    def column(name: str) -> pa.Array:
        found = rows[name] if name in rows.schema.names else pa.nulls(len(rows), SCHEMA[name])
        if name == "size" and found.type == pa.string():  # of CSV, or as somebody's Parquet has it
            found = pc.utf8_trim_whitespace(found)
            no_size = pc.invert(pc.match_substring_regex(found, r"^-?\d{1,18}$"))
            if (row := pc.index(no_size, True).as_py()) >= 0:
                raise ValueError(f"row {before + row + 1} has a size that is no whole number: {found[row].as_py()!r}")
        found = found.cast(SCHEMA[name])
        if name in ("label", "etag"):
            found = pc.if_else(pc.equal(found, ""), None, found)  # as in CSV
        if name == "size" and (row := pc.index(pc.less(found, 0), True).as_py()) >= 0:
            raise ValueError(f"row {before + row + 1} has a size below 0: {found[row].as_py()}")
        if found.type == pa.string() and (pc.max(pc.binary_length(found)).as_py() or 0) > LONGEST_TEXT:
            row = pc.index(pc.greater(pc.binary_length(found), LONGEST_TEXT), True).as_py()
            raise ValueError(f"row {before + row + 1} has a {name} of more than {LONGEST_TEXT} bytes")
        return found

    named, label, etag, size = (column(name) for name in SCHEMA)
    paths = scope.checked(absolute(named, scope.folder), before)
    wanted = pc.fill_null(pc.not_equal(named, ""), False)
    paths, labels, etags, sizes = (each.filter(wanted) for each in (paths, label, pc.utf8_trim(etag, '"'), size))
    on_disk = pc.and_(pc.is_null(etags), pc.starts_with(paths, "/"))
    facts = [size_and_etag(path.encode()) for path in paths.filter(on_disk).to_pylist()]
    sizes = pc.replace_with_mask(sizes, on_disk, pa.array([size for size, _ in facts], pa.int64()))
    etags = pc.replace_with_mask(etags, on_disk, pa.array([etag for _, etag in facts], pa.string()))
    labels = pc.coalesce(labels, parents_of(paths)) if by_parent else None
    return to_listing(paths, pc.fill_null(etags, ""), pc.fill_null(sizes, 0), labels, by_parent)


def absolute(paths: pa.Array, folder: str) -> pa.Array:
    """Paths from the list's folder, where they are not absolute; file:// taken off.

    Raises ValueError where one is a URL of no object store.
    """
    paths = pc.replace_substring_regex(paths, "^file:///", "/")
    remote = pc.match_substring_regex(paths, REMOTE)
    for path in paths.filter(pc.and_not(remote, pc.match_substring_regex(paths, OBJECT))).to_pylist():
        try:
            location(path)
        except ValueError as error:
            raise ValueError(f"for a path in it, {error}") from error
    stays = pc.or_(remote, pc.starts_with(paths, "/"))
    below = pc.replace_substring_regex(paths, r"^(\./+)+", "")  # as `find .` writes it, of objects as well
    return pc.if_else(stays, paths, pc.binary_join_element_wise(folder, below, "/"))
