"""The plan of a run: its images joined with the features that exist.

The join is DuckDB's, on disk in a scratch folder with bounded memory, so that planning needs no Spark and goes on while
Spark starts. Spark's tasks then read their share of the plan themselves: a row group each.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.config import Config
from fruitpipe.result.manifest import Summary
from fruitpipe.scratch import private_folder
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import LARGEST_PART, PLACED, read_facts
from fruitpipe.tasks.part_record import IMAGE, digest_of
from fruitpipe.tasks.reduce import equal_parts, most_images, vector_parts
from fruitpipe.units import largest_first
from fruitpipe.vision.bad_image import OK, TRANSIENT
from fruitpipe.vision.scale import Twin

MEMORY = "600MB"
READERS = 8
"""Feature parts read at once: on object stores, each is a few requests."""
SMALLEST_PART = 32
WORSE = 1 << 60
"""More than any number of a row."""

# `too_large` depends on the limits in the config and costs no inference to check again; `rejected` on a user's code.
RETRIED = {"transient": (*TRANSIENT, "too_large", "rejected"), "all": None, "none": ()}


# With `verify_content`, the bytes that were read may no longer be those that were listed.
RESOLVED = """SELECT * REPLACE (coalesce(status, 'changed') AS status,
    if(status IS NULL, 'changed between listing and reading: run again', error) AS error) FROM joined"""


class Plan:
    """A database of the images of a run and of known features, in a scratch folder."""

    def __init__(self, scratch: Path, verify_content: bool, retry: Literal["transient", "all", "none"]) -> None:
        self.broken: list[str] = []
        """Feature parts that could not be read; their images are computed again."""
        self._schema = "main"
        """of the database: of its own tables, all but those of the images"""
        self._others: Counter[str] = Counter()
        self._verify_content = verify_content
        self._retry = retry
        settings: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": str(scratch / "spill")}
        self._database = duckdb.connect(str(scratch / "plan.duckdb"), config=settings)
        # It would go to standard output, among our JSON. In a notebook without ipywidgets it is off, and cannot be set.
        if self._row("SELECT current_setting('enable_progress_bar')")[0]:
            self._database.execute("SET enable_progress_bar = false")

    def close(self) -> None:
        self._database.close()

    def beside(self, name: str) -> Plan:
        """A plan of the same images with other features, in the same database; it is closed before this one.

        name: of letters and figures, no other's.
        """
        other = copy.copy(self)
        other.broken, other._schema, other._database = [], f"of_{name}", self._database.cursor()
        other._database.execute(f"CREATE SCHEMA {other._schema}; SET search_path = '{other._schema},main'")
        return other

    def add_images(
        self, listing: Iterable[pa.RecordBatch], schema: pa.Schema, distinct: bool = True, limit: int | None = None
    ) -> None:
        """Take the images of a run, in batches of `fruitpipe.source.LISTING`; with a limit, the first by path.

        Without `distinct`, a path may come more than once; one of its rows is taken.
        """
        self._take("images", schema, listing)
        if not distinct:
            self._database.execute(
                "CREATE OR REPLACE TABLE images AS "
                "SELECT DISTINCT ON (path) * FROM images ORDER BY path, etag DESC, label"
            )
        if limit is not None:
            self._database.execute(
                f"CREATE OR REPLACE TABLE images AS SELECT * FROM images ORDER BY path LIMIT {limit}"
            )

    @property
    def images(self) -> int:
        """How many images there are."""
        return int(self._row("SELECT count(*) FROM images")[0])

    def digest(self) -> str:
        """Of the images that there are: their paths, contents as far as they are known, and labels."""
        key = "coalesce(content, etag)" if self._verify_content else "etag"
        row = f"md5(concat_ws(' ', length(path), path, length({key}), {key}, label)) AS row"
        hashed = hashlib.sha256()
        for batch in self._database.sql(f"SELECT {row} FROM images ORDER BY path").to_arrow_reader(LARGEST_PART):
            hashed.update("".join(batch["row"].to_pylist()).encode())
        return hashed.hexdigest()

    @property
    def passed_over(self) -> dict[str, int]:
        """Number of files of the inputs that are no images by name or hidden, by extension, largest first."""
        return largest_first(self._others)

    def sample(self, count: int, columns: str = "path, etag") -> list[tuple[str, ...]]:
        """Columns of at most `count` images, by path, drawn by their paths: other images beside them change few."""
        drawn = f"SELECT * FROM images ORDER BY md5(path), path LIMIT {count}"
        return self._database.execute(f"SELECT {columns} FROM ({drawn}) ORDER BY path").fetchall()

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
        self._take("features", PLACED, self._facts(store, parts_of(store, digest)))
        if twin and twin.digest != digest:  # the same where images are trimmed
            self._take("twin", PLACED, self._facts(store, parts_of(store, twin.digest)))
            side = {"shorter": "least(width, height)", "longer": "greatest(width, height)"}[twin.side]
            self._database.execute(
                f"INSERT INTO features SELECT * FROM twin WHERE {side} < {twin.below}; DROP TABLE twin"
            )
        self._join()

    def add_parts(self, store: Store, names: Iterable[str]) -> None:
        """Take feature parts that were written since, and join again."""
        self._take("fresh", PLACED, self._facts(store, iter(names)))
        self._database.execute("DELETE FROM features WHERE part IN (SELECT part FROM fresh)")
        self._database.execute("INSERT INTO features SELECT * FROM fresh; DROP TABLE fresh")
        self._join()

    def _join(self) -> None:
        # What could not be read has no digest of its content, and is known by its etag even with `verify_content`.
        key = "coalesce(features.content, features.etag)" if self._verify_content else "features.etag"
        columns = ("content", "etag") if self._verify_content else ("etag",)
        # One image can be in several parts, as after a retry. Any `ok` will do: its feature follows from its bytes.
        # Numbers of rows are compared, as texts would take four times as long.
        hits = " UNION ALL ".join(
            "SELECT images.rowid AS image, "
            f"features.rowid + if(status = '{OK}', 0, {WORSE}) + {2 * WORSE * worse} AS hit "
            f"FROM images JOIN features ON features.path = images.path AND {key} = images.{column}"
            for worse, column in enumerate(columns)
        )
        # One after the other, as each holds what it joins.
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE hits AS {hits}")
        self._database.execute(
            f"CREATE OR REPLACE TEMP TABLE best AS SELECT image, min(hit) % {WORSE} AS row FROM hits GROUP BY image"
        )
        self._database.execute(f"""
            CREATE OR REPLACE TABLE joined AS
            SELECT images.path, images.etag, size, label, {self._todo()} AS todo, known.* EXCLUDE (path, etag)
            FROM images LEFT JOIN best ON best.image = images.rowid
                LEFT JOIN features AS known ON known.rowid = best.row
        """)
        self._database.execute("DROP TABLE hits; DROP TABLE best")

    def _take(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        failure: list[Exception] = []

        def guarded() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except Exception as error:
                failure.append(error)
                raise

        self._database.register("stream", pa.RecordBatchReader.from_batches(schema, guarded()))
        try:
            self._database.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM stream")
        except duckdb.Error as error:
            # DuckDB wraps what a stream raises; whoever listed the images knows better what to say.
            raise failure[0] if failure else error from None
        finally:
            self._database.unregister("stream")

    def _facts(self, store: Store, names: Iterator[str]) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(READERS) as pool:
            while chunk := list(islice(names, 4 * READERS)):
                for name, facts in zip(chunk, pool.map(partial(read_facts, store), chunk), strict=True):
                    if facts is not None:
                        yield from facts.to_batches()
                    elif name not in self.broken:
                        self.broken.append(name)

    def _todo(self) -> str:
        retried = RETRIED[self._retry]
        if retried is None:
            return f"best.row IS NULL OR known.status <> '{OK}'"
        return f"best.row IS NULL OR known.status IN ({', '.join(map(repr, ('', *retried)))})"

    def summary(self) -> Summary:
        """Counts for people and for the manifest."""
        images, size, new, changed, retried, known, failed = self._row(f"""
            SELECT count(*), coalesce(sum(size), 0),
                count(*) FILTER (status IS NULL AND path NOT IN (SELECT path FROM features)),
                count(*) FILTER (status IS NULL AND path IN (SELECT path FROM features)),
                count(*) FILTER (todo AND status IS NOT NULL),
                count(*) FILTER (NOT todo AND status = '{OK}'),
                count(*) FILTER (NOT todo AND status <> '{OK}')
            FROM joined
        """)
        (gone,) = self._row(
            f"SELECT count(DISTINCT path) FROM features WHERE status = '{OK}' AND path NOT IN (SELECT path FROM images)"
        )
        return Summary(
            images=images, bytes=size, labels=self.count_by("label"), new=new, changed=changed,
            retried=retried, known=known, known_failed=failed, gone=gone,
            passed_over=self.passed_over,
        )  # fmt: skip

    def count_by(self, column: Literal["label", "status"], where: str = "true") -> dict[str, int]:
        """Number of images by label or status, largest first."""
        query = f"SELECT {column}, count(*) AS n FROM ({RESOLVED}) WHERE {column} IS NOT NULL AND {where} GROUP BY 1"
        return dict(self._database.execute(f"{query} ORDER BY n DESC, 1").fetchall())

    def write_todo(self, path: Path, slots: int, *others: Plan) -> list[int]:
        """Write the images to featurize as Parquet, ordered by path, a row group per task; return the tasks' sizes.

        The images of a row group are missing in the same plans: bits of its column `missing` say in which, the lowest
        one in this, further ones in `others`, which are beside it.
        """
        plans = (self, *others)
        tables = " JOIN ".join(
            f"{plan._schema}.joined AS plan_{number}{' USING (path)' if number else ''}"
            for number, plan in enumerate(plans)
        )
        missing = " + ".join(f"plan_{number}.todo::BIGINT * {1 << number}" for number in range(len(plans)))
        images = f"SELECT path, plan_0.etag, plan_0.size, {missing} AS missing FROM {tables}"
        query = f"SELECT missing, count(*) FROM ({images}) WHERE missing > 0 GROUP BY 1 ORDER BY 1 DESC"
        counts = self._database.execute(query).fetchall()
        sizes = [size for _, count in counts for size in part_sizes(count, slots)]
        self._write(f"SELECT * FROM ({images}) WHERE missing > 0 ORDER BY missing DESC, path", path, sizes)
        return sizes

    def write_index(self, path: Path, dimension: int) -> list[int]:
        """Write where each image's feature lies, ordered by path, one row group per vector part; return their sizes.

        The order and the groups depend on the images alone, not on how features came to be or how many cores there are:
        this is what makes two runs over the same images give the same bits.
        """
        (count,) = self._row(f"SELECT count(*) FROM joined WHERE status = '{OK}'")
        sizes = vector_parts(count, dimension) if count else []
        query = f"SELECT path, label, part, row FROM joined WHERE status = '{OK}' ORDER BY path"
        self._write(query, path, sizes)
        return sizes

    def add_earlier(self, parts: Iterable[pa.ChunkedArray]) -> None:
        """Take the paths of vector parts of an earlier run, 0, 1, …, as these have them."""
        schema = pa.schema([("part", pa.int32()), ("path", pa.string())])

        def batches() -> Iterator[pa.RecordBatch]:
            for number, paths in enumerate(parts):
                yield from pa.table([pa.repeat(pa.scalar(number, pa.int32()), len(paths)), paths], schema).to_batches()

        self._take("earlier", schema, batches())

    def earlier_digests(self, rows: Sequence[int]) -> Iterator[str | None]:
        """Of each part of the earlier run, the digest of its images as they are by now; None where one is gone.

        rows: of each.
        """
        images = f"SELECT path, {IMAGE} AS image FROM joined WHERE status = '{OK}'"
        query = f"SELECT image FROM earlier LEFT JOIN ({images}) USING (path) ORDER BY earlier.rowid"
        for table in regroup(self._database.sql(query).to_arrow_reader(LARGEST_PART), list(rows)):
            column = table["image"]
            yield None if column.null_count else digest_of(column.to_pylist())

    def write_further_index(self, path: Path, dimension: int, kept: Sequence[int]) -> list[int]:
        """As `write_index`, for images that are in none of some parts of the earlier run."""
        (count,) = self._row(f"SELECT count(*) FROM joined WHERE status = '{OK}'")
        others = f"FROM joined ANTI JOIN (SELECT path FROM earlier WHERE part IN ({numbers(kept)})) USING (path)"
        others += f" WHERE status = '{OK}'"
        (further,) = self._row(f"SELECT count(*) {others}")
        sizes = equal_parts(further, most_images(count, dimension))
        self._write(f"SELECT path, label, joined.part, row {others} ORDER BY path", path, sizes)
        return sizes

    def write_earlier_index(self, path: Path, parts: Sequence[int], rows: Sequence[int]) -> None:
        """As `write_index`, a row group for each of some parts of the earlier run, whose images are all there.

        rows: of these.
        """
        images = f"FROM earlier JOIN joined USING (path) WHERE earlier.part IN ({numbers(parts)})"
        self._write(f"SELECT path, label, joined.part, row {images} ORDER BY earlier.rowid", path, list(rows))

    def write_failures(self, path: Path) -> int:
        """Write the images without a feature as Parquet, ordered by path; return how many there are.

        Columns: path, label, etag, size, width, height, status, error.
        """
        columns = "path, label, etag, size, width, height, status, error"
        query = f"SELECT {columns} FROM ({RESOLVED}) WHERE status <> '{OK}' ORDER BY path"
        reader = self._database.sql(query).to_arrow_reader(LARGEST_PART)
        rows = 0
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += len(batch)
        return rows

    def first_failed(self) -> str:
        """The first path, in their order, of the images without a feature."""
        return str(self._row(f"SELECT min(path) FROM ({RESOLVED}) WHERE status <> '{OK}'")[0])

    def commonest_error(self) -> str:
        """The commonest error among the failed images."""
        failed = f"SELECT error FROM ({RESOLVED}) WHERE status <> '{OK}'"
        return str(self._row(f"{failed} GROUP BY error ORDER BY count(*) DESC, error LIMIT 1")[0])

    def feature_parts(self) -> list[str]:
        """Feature parts that the run takes features from, sorted."""
        query = f"SELECT DISTINCT part FROM joined WHERE status = '{OK}' ORDER BY 1"
        return [name for (name,) in self._database.execute(query).fetchall()]

    def count_in(self, parts: list[str]) -> int:
        """Images whose features the run takes from these parts."""
        query = f"SELECT count(*) FROM joined WHERE status = '{OK}' AND list_contains(?, part)"
        return int(self._row(query, parts)[0])

    def _row(self, query: str, *values: Any) -> tuple[Any, ...]:
        (row,) = self._database.execute(query, values).fetchall()
        return tuple(row)

    def _write(self, query: str, path: Path, sizes: list[int]) -> None:
        reader = self._database.sql(query).to_arrow_reader(LARGEST_PART)
        # A task reads one row group by its number, and a footer that has as many of them as there are tasks.
        with pq.ParquetWriter(path, reader.schema, compression="zstd", write_statistics=False) as writer:
            for table in regroup(reader, sizes):
                writer.write_table(table, row_group_size=len(table))


def numbers(some: Iterable[int]) -> str:
    return ", ".join(map(str, some))


def parts_of(store: Store, digest: str) -> Iterator[str]:
    """The feature parts of a digest."""
    return (name for name, _ in store.names(layout.features(digest)) if layout.is_feature_part(name))


@contextmanager
def open_plan(config: Config, folder: Path | None = None) -> Iterator[Plan]:
    """An empty plan for a config, whose database is in a folder of its own within `folder`."""
    with private_folder(folder) as scratch:
        plan = Plan(scratch, config.verify_content, config.failures.retry)
        try:
            yield plan
        finally:
            plan.close()


def regroup(batches: Iterable[pa.RecordBatch], sizes: list[int]) -> Iterator[pa.Table]:
    """The rows of some batches again, in tables of the given sizes."""
    stream = iter(batches)
    held: pa.Table | None = None
    for size in sizes:
        while held is None or len(held) < size:
            batch = pa.Table.from_batches([next(stream)])
            held = batch if held is None else pa.concat_tables([held, batch])
        yield held.slice(0, size).combine_chunks()
        held = held.slice(size)


def part_sizes(count: int, slots: int) -> list[int]:
    """Rows of each feature part: a share of what is left, so that parts shrink and all slots end at nearly one time.

    Each slot's first is as small as any: soon after the start there are features, and figures of progress.
    Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers, 1987), with half a slot's share
    as in factoring (Hummel, Schonberg and Flynn, Communications of the ACM, 1992): slots differ in speed.
    """
    largest = min(max(count // 1000, 512), LARGEST_PART)
    sizes: list[int] = []
    while count:
        share = math.ceil(count / (2 * slots)) if len(sizes) >= slots else SMALLEST_PART
        size = min(max(share, SMALLEST_PART), largest, count)
        sizes.append(size)
        count -= size
    return sizes
