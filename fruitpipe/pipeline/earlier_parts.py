"""Vector parts of an earlier run: which of their images a plan has, and how they are by now."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from fruitpipe.pipeline.database import KEY
from fruitpipe.pipeline.plan import Plan
from fruitpipe.tasks.part_record import IMAGE, digest_of_images
from fruitpipe.tasks.reduce import equal_parts, most_images
from fruitpipe.tasks.shares import Shares, regroup

SCHEMA = pa.schema([("part", pa.int32()), ("path", pa.string())])


class EarlierParts:
    """A table of their images beside a plan's. As those of the plan, they are joined by hashes of their paths."""

    def __init__(self, plan: Plan, paths: Iterable[pa.ChunkedArray]) -> None:
        """paths: of the parts 0, 1, …, as these have them."""
        self._plan, self._database = plan, plan.database

        def batches() -> Iterator[pa.RecordBatch]:
            for number, part in enumerate(paths):
                yield from pa.table([pa.repeat(pa.scalar(number, pa.int32()), len(part)), part], SCHEMA).to_batches()

        self._database.stream(f"CREATE OR REPLACE TABLE earlier AS SELECT part, {KEY} FROM stream", SCHEMA, batches())
        # Joins of few columns one after another: each takes memory, and what does not fit lies on disk.
        self._database.execute(f"CREATE OR REPLACE TABLE present AS SELECT {KEY}, {IMAGE} AS image FROM places")

    def digests(self, rows: Sequence[int]) -> Iterator[str | None]:
        """Of each part, the digest of its images as they are by now; None where one is gone.

        rows: of each.
        """
        query = "SELECT image FROM earlier LEFT JOIN present USING (key) ORDER BY earlier.rowid"
        for table in regroup(self._database.batches(query), rows):
            column = table["image"]
            yield None if column.null_count else digest_of_images(column.to_pylist())

    def write_further(self, shares: Shares, dimension: int, kept: Sequence[int]) -> list[int]:
        """As `Plan.write_index`, for images that are in none of the parts that are kept: as few parts as may be."""
        taken = f"SELECT key FROM earlier WHERE part IN ({numbers(kept)})"
        others = f"SELECT key FROM present ANTI JOIN ({taken}) USING (key)"
        self._database.execute(f"CREATE OR REPLACE TABLE further AS {others}")
        (count,) = self._database.row("SELECT count(*) FROM further")
        sizes = equal_parts(count, math.ceil(count / most_images(self._plan.featurized, dimension)))
        images = f"(SELECT *, {KEY} FROM places) SEMI JOIN further USING (key)"
        self._database.write(f"SELECT path, label, part, row FROM {images} ORDER BY path", sizes, shares)
        return sizes

    def write_again(self, shares: Shares, parts: Sequence[int], rows: Sequence[int]) -> None:
        """As `Plan.write_index`, a share for each of some parts, whose images are all there.

        rows: of these.
        """
        wanted = f"(SELECT key, rowid AS place FROM earlier WHERE part IN ({numbers(parts)}))"
        images = f"(SELECT *, {KEY} FROM places) JOIN {wanted} USING (key)"
        self._database.write(f"SELECT path, label, part, row FROM {images} ORDER BY place", rows, shares)


def numbers(some: Iterable[int]) -> str:
    return ", ".join(map(str, some))
