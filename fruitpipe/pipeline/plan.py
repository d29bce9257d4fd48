"""The plan of a run: its images joined with the features that exist.

The join is DuckDB's, on disk in a scratch folder, so that planning needs no Spark and goes on while
Spark starts. Spark's tasks then read their shares of the plan themselves.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from math import ceil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.config import SCHEME, Config, is_remote
from fruitpipe.pipeline.database import KEY, Database
from fruitpipe.pipeline.known_features import KnownFeatures
from fruitpipe.result.manifest import Summary
from fruitpipe.scratch import private_folder
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import largest_task, task_sizes
from fruitpipe.tasks.reduce import vector_parts
from fruitpipe.tasks.shares import Shares
from fruitpipe.units import largest_first
from fruitpipe.vision.bad_image import OK, REPLACED, RETRIED
from fruitpipe.vision.scale import Twin

TRIED_AGAIN = {"transient": RETRIED, "all": None, "none": ()}
"""Statuses by `failures.retry`; None for all."""

# With `verify_content`, the bytes that were read may no longer be those that were listed.
RESOLVED = f"""SELECT * REPLACE (coalesce(status, 'changed') AS status,
    if(status IS NULL, '{REPLACED}', error) AS error) FROM joined"""

MOST_BYTES = (1 << 63) - 1
"""That a summary tells."""
DOUBLES = 4_000_000
"""Rows whose paths come several times, that one query holds, about."""


class Plan:
    """A database of the images of a run and of known features, in a scratch folder."""

    def __init__(self, scratch: Path, verify_content: bool, retry: Literal["transient", "all", "none"]) -> None:
        self.database = Database(scratch)
        self.known = KnownFeatures(self.database, verify_content)
        self._others: Counter[str] = Counter()
        self._numbers = count()
        """of plans beside this one, which share them"""
        self._verify_content = verify_content
        self._retry = retry

    def close(self) -> None:
        self.database.close()

    def beside(self) -> Plan:
        """A plan of the same images with other features, in the same database; it is closed before this one."""
        other = copy.copy(self)
        other.database = self.database.beside(f"plan_{next(self._numbers)}")
        other.known = KnownFeatures(other.database, self._verify_content)
        return other

    def add_images(
        self, listing: Iterable[pa.RecordBatch], schema: pa.Schema, distinct: bool = True, limit: int | None = None
    ) -> None:
        """Take the images of a run, in batches of `fruitpipe.source.LISTING`; with a limit, the first by path.

        Without `distinct`, a path may come more than once; one of its rows is taken.
        """
        self.database.stream("CREATE OR REPLACE TABLE images AS SELECT * FROM stream", schema, listing)
        self.database.expect(self.images)
        if not distinct:
            self._drop_doubles()
        if limit is not None:
            self.database.execute(f"CREATE OR REPLACE TABLE images AS SELECT * FROM images ORDER BY path LIMIT {limit}")

    def _drop_doubles(self) -> None:
        """Keep one row of each path. Few have several: all in order of their paths would take eight times as long."""
        self.database.execute(f"""
            CREATE OR REPLACE TEMP TABLE doubles AS
                SELECT {KEY}, count(*) AS images FROM images GROUP BY 1 HAVING count(*) > 1;
            CREATE OR REPLACE TEMP TABLE surplus (image BIGINT)
        """)
        (count,) = self.database.row("SELECT coalesce(sum(images), 0) FROM doubles")
        slices = ceil(count / DOUBLES)
        for number in range(slices):
            self.database.execute(f"""
                INSERT INTO surplus SELECT image FROM (SELECT *, rowid AS image, {KEY} FROM images)
                SEMI JOIN (SELECT key FROM doubles WHERE key % {slices} = {number}) USING (key)
                QUALIFY row_number() OVER (PARTITION BY path ORDER BY etag DESC, label) > 1
            """)
        if surplus := self.database.row("SELECT count(*) FROM surplus")[0]:
            self._others[source.AGAIN] += surplus
        self.database.execute("""
            CREATE OR REPLACE TABLE images AS
                SELECT images.* FROM images ANTI JOIN surplus ON surplus.image = images.rowid;
            DROP TABLE surplus; DROP TABLE doubles
        """)

    @property
    def images(self) -> int:
        """How many images there are."""
        return int(self.database.row("SELECT count(*) FROM images")[0])

    def digest(self) -> str:
        """Of the images that there are: their paths, contents as far as they are known, and labels."""
        key = "coalesce(content, etag)" if self._verify_content else "etag"
        row = f"md5(concat_ws(' ', length(path), path, length({key}), {key}, label)) AS row"
        hashed = hashlib.sha256()
        for batch in self.database.batches(f"SELECT {row} FROM images ORDER BY path"):
            hashed.update("".join(batch["row"].to_pylist()).encode())
        return hashed.hexdigest()

    @property
    def passed_over(self) -> dict[str, int]:
        """Number of files of the inputs that are no images by name or hidden, by extension, largest first."""
        return largest_first(self._others)

    def sample(self, count: int, columns: str = "path, etag") -> list[tuple[str, ...]]:
        """Columns of at most `count` images, by path, drawn by their paths: other images beside them change few."""
        drawn = f"SELECT * FROM images ORDER BY md5(path), path LIMIT {count}"
        return self.database.rows(f"SELECT {columns} FROM ({drawn}) ORDER BY path")

    def list_images(self, config: Config) -> None:
        """Take the images of a config's input. Raises UserError where there are none."""
        listing = source.list_images(
            config.inputs,
            config.labels,
            config.verify_content,
            config.image.max_bytes,
            config.s3,
            others=self._others,
            allow=config.lists.allow,
        )
        self.add_images(listing, source.LISTING, distinct=source.is_distinct(config.inputs), limit=config.limit)
        if not self.images:
            raise source.no_images(config.inputs, self.passed_over)

    def add_features(self, store: Store, digest: str, twin: Twin | None = None) -> None:
        """Take what is known of features, and join."""
        self.known.read(store, digest, twin)
        self._find_todo()

    def add_parts(self, store: Store, names: Iterable[str]) -> None:
        """Take feature parts that were written since, and join again."""
        self.known.read_parts(store, names)
        self._find_todo()

    def _find_todo(self) -> None:
        self.database.execute(f"""
            CREATE OR REPLACE TABLE todo AS
            SELECT rowid AS image, false AS retried FROM images
                ANTI JOIN (SELECT image FROM hits WHERE rank IS NOT NULL) AS known ON known.image = images.rowid
            UNION ALL SELECT image, true FROM hits WHERE rank IS NOT NULL AND {self._retried()}
        """)

    def _retried(self) -> str:
        retried = TRIED_AGAIN[self._retry]
        if retried is None:
            return f"status <> '{OK}'"
        return f"status IN ({', '.join(map(repr, ('', *retried)))})"

    def summary(self) -> Summary:
        """Counts for people and for the manifest."""
        # What lists and sparse files say may add up to more than anything holds.
        total = f"least(coalesce(sum(size), 0), {MOST_BYTES})"
        images, size = self.database.row(f"SELECT count(*), {total} FROM images")
        known, failed, retried, gone = self.database.row(f"""
            SELECT count(*) FILTER (rank IS NOT NULL AND status = '{OK}'),
                count(*) FILTER (rank IS NOT NULL AND status <> '{OK}' AND NOT {self._retried()}),
                count(*) FILTER (rank IS NOT NULL AND {self._retried()}),
                count(DISTINCT gone) FILTER (status = '{OK}')
            FROM hits
        """)
        new, changed = self.database.row("""
            SELECT count(*) FILTER (NOT seen), count(*) FILTER (seen)
            FROM (SELECT image IN (SELECT image FROM hits WHERE image IS NOT NULL) AS seen FROM todo WHERE NOT retried)
        """)
        labels = "SELECT label, count(*) AS n FROM images WHERE label IS NOT NULL GROUP BY 1 ORDER BY n DESC, 1"
        return Summary(
            images=images, bytes=size, labels=dict(self.database.rows(labels)), new=new, changed=changed,
            retried=retried, known=known, known_failed=failed, gone=gone,
            passed_over=self.passed_over,
        )  # fmt: skip

    def count_by(self, column: Literal["label", "status"], where: str = "true") -> dict[str, int]:
        """Number of images by label or status, largest first."""
        query = f"SELECT {column}, count(*) AS n FROM ({RESOLVED}) WHERE {column} IS NOT NULL AND {where} GROUP BY 1"
        return dict(self.database.rows(f"{query} ORDER BY n DESC, 1"))

    def write_todo(self, shares: Shares, slots: int, *others: Plan) -> list[int]:
        """Write the images to featurize, ordered by path, a share per task; return the tasks' sizes.

        The images of a share are missing in the same plans: bits of its column `missing` say in which, the lowest
        one in this, further ones in `others`, which are beside it. A task may make several parts where images, or what
        it writes, are in a bucket, whose answers take time.
        """
        plans = (self, *others)
        each = " UNION ALL ".join(
            f"SELECT image, {1 << number} AS bit FROM {plan.database.schema}.todo" for number, plan in enumerate(plans)
        )
        missing = f"SELECT image, sum(bit)::BIGINT AS missing FROM ({each}) GROUP BY image"
        query = f"SELECT missing, count(*) FROM ({missing}) GROUP BY 1 ORDER BY 1 DESC"
        counts = self.database.rows(query)
        asks_buckets = is_remote(shares.store.url) or self._has_remote
        largest = largest_task(sum(count for _, count in counts), several=asks_buckets)
        sizes = [size for _, count in counts for size in task_sizes(count, slots, largest)]
        images = f"SELECT path, etag, size, missing FROM ({missing}) JOIN images ON images.rowid = image"
        self.database.write(f"{images} ORDER BY missing DESC, path", sizes, shares)
        return sizes

    @property
    def _has_remote(self) -> bool:
        """Whether there are images in buckets."""
        return bool(
            self.database.row(f"SELECT EXISTS (FROM images WHERE regexp_matches(path, '^{SCHEME.pattern}'))")[0]
        )

    def write_index(self, shares: Shares, dimension: int) -> list[int]:
        """Write where each image's feature lies, ordered by path, a share per vector part; return their sizes.

        The order and the shares depend on the images alone, not on how features came to be or how many cores there are:
        this is what makes two runs over the same images give the same bits.
        """
        sizes = vector_parts(self.featurized, dimension)
        self.database.write("SELECT * FROM places ORDER BY path", sizes, shares)
        return sizes

    @property
    def featurized(self) -> int:
        """How many images have a feature."""
        return int(self.database.row(f"SELECT count(*) FROM hits WHERE rank IS NOT NULL AND status = '{OK}'")[0])

    def write_failures(self, path: Path) -> int:
        """Write the images without a feature as Parquet, ordered by path; return how many there are.

        Columns: path, label, etag, size, width, height, status, error.
        """
        columns = "path, label, etag, size, width, height, status, error"
        query = f"SELECT {columns} FROM ({RESOLVED}) WHERE status <> '{OK}' ORDER BY path"
        reader = self.database.batches(query)
        rows = 0
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += len(batch)
        return rows

    def first_failed(self) -> str:
        """The first path, in their order, of the images without a feature."""
        return str(self.database.row(f"SELECT min(path) FROM ({RESOLVED}) WHERE status <> '{OK}'")[0])

    def commonest_error(self, status: str) -> str:
        """The commonest error of the images that failed with a status; there are some."""
        failed = f"SELECT error FROM ({RESOLVED}) WHERE status = ?"
        return str(self.database.row(f"{failed} GROUP BY error ORDER BY count(*) DESC, error LIMIT 1", status)[0])


@contextmanager
def open_plan(config: Config, folder: Path | None = None) -> Iterator[Plan]:
    """An empty plan for a config, whose database is in a folder of its own within `folder`."""
    with private_folder(folder) as scratch:
        plan = Plan(scratch, config.verify_content, config.failures.retry)
        try:
            yield plan
        finally:
            plan.close()
