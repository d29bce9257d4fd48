"""Vector parts of an earlier run: which of their images a plan has, and how they are by now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from fruitpipe.pipeline.plan import Plan
from fruitpipe.tasks.part_record import IMAGE, digest_of
from fruitpipe.tasks.reduce import equal_parts, most_images
from fruitpipe.tasks.shares import Shares, regroup

SCHEMA = pa.schema([("part", pa.int32()), ("path", pa.string())])


class EarlierParts:
    """A table of their images beside a plan's."""

    def __init__(self, plan: Plan, paths: Iterable[pa.ChunkedArray]) -> None:
        """paths: of the parts 0, 1, …, as these have them."""
        self._plan, self._database = plan, plan.database

        def batches() -> Iterator[pa.RecordBatch]:
            for number, part in enumerate(paths):
                yield from pa.table([pa.repeat(pa.scalar(number, pa.int32()), len(part)), part], SCHEMA).to_batches()

        self._database.stream("CREATE OR REPLACE TABLE earlier AS SELECT * FROM stream", SCHEMA, batches())

    def digests(self, rows: Sequence[int]) -> Iterator[str | None]:
        """Of each part, the digest of its images as they are by now; None where one is gone.

        rows: of each.
        """
        images = f"SELECT path, {IMAGE} AS image FROM places"
        query = f"SELECT image FROM earlier LEFT JOIN ({images}) USING (path) ORDER BY earlier.rowid"
        for table in regroup(self._database.batches(query), rows):
            column = table["image"]
            yield None if column.null_count else digest_of(column.to_pylist())

    def write_further(self, shares: Shares, dimension: int, kept: Sequence[int]) -> list[int]:
        """As `Plan.write_index`, for images that are in none of the parts that are kept."""
        others = f"FROM places ANTI JOIN (SELECT path FROM earlier WHERE part IN ({numbers(kept)})) USING (path)"
        (further,) = self._database.row(f"SELECT count(*) {others}")
        sizes = equal_parts(further, most_images(self._plan.featurized, dimension))
        self._database.write(f"SELECT path, label, part, row {others} ORDER BY path", sizes, shares)
        return sizes

    def write_again(self, shares: Shares, parts: Sequence[int], rows: Sequence[int]) -> None:
        """As `Plan.write_index`, a share for each of some parts, whose images are all there.

        rows: of these.
        """
        images = f"FROM earlier JOIN places USING (path) WHERE earlier.part IN ({numbers(parts)})"
        self._database.write(f"SELECT path, label, places.part, row {images} ORDER BY earlier.rowid", rows, shares)


def numbers(some: Iterable[int]) -> str:
    return ", ".join(map(str, some))
