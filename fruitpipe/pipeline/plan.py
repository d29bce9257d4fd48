"""The plan of a run: its images joined with the features that exist.

The join is DuckDB's, on disk in a scratch folder with bounded memory, so that planning needs no Spark and goes on while
Spark starts. Spark's tasks then read their shares of the plan themselves.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from fruitpipe import source
from fruitpipe.config import Config
from fruitpipe.result import facts_index
from fruitpipe.result.facts_index import NUMBERED, Chosen, Damaged
from fruitpipe.result.manifest import Summary
from fruitpipe.scratch import private_folder
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import LARGEST_PART, read_facts
from fruitpipe.tasks.part_record import IMAGE, digest_of
from fruitpipe.tasks.reduce import equal_parts, most_images, vector_parts
from fruitpipe.tasks.shares import Shares, regroup
from fruitpipe.units import largest_first
from fruitpipe.vision.bad_image import OK, TRANSIENT
from fruitpipe.vision.scale import Twin

MEMORY = "600MB"
READERS = 8
"""Parts read at once: on object stores, each is a few requests."""
Item = TypeVar("Item")
Found = TypeVar("Found")
SMALLEST_PART = 32
TABLES = f"""
    CREATE OR REPLACE TABLE parts (number INTEGER, name VARCHAR);
    CREATE OR REPLACE TABLE hits (image BIGINT, rank TINYINT, gone VARCHAR, part INTEGER, row INTEGER, width INTEGER,
        height INTEGER, status VARCHAR, error VARCHAR);
    CREATE OR REPLACE VIEW joined AS
        SELECT path, label, etag, size, hits.* EXCLUDE (gone)
        FROM images LEFT JOIN hits ON hits.image = images.rowid AND hits.rank IS NOT NULL;
    CREATE OR REPLACE VIEW places AS
        SELECT path, label, name AS part, row FROM joined JOIN parts ON number = part WHERE status = '{OK}'
"""
"""`parts` have numbers, as names are long. `hits` is what is known of an image that has the path: with a rank, lower
where better, if it is of the same content. Without an image, the path is `gone`. Once it is settled, an image has one
hit with a rank at most. Texts of images are only in `images`: to write them costs more than to join them."""

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
        self.indexes: list[Chosen] = []
        """of facts, by which parts were read"""
        self.needless: list[str] = []
        """indexes of facts that are damaged, or say nothing that others do not"""
        self._parts: dict[str, int] = {}
        """numbers of feature parts"""
        self._schema = "main"
        """of the database: of its own tables, all but those of the images"""
        self._others: Counter[str] = Counter()
        self._scratch = scratch
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
        other.broken, other.indexes, other.needless, other._parts = [], [], [], {}
        other._schema, other._database = f"of_{name}", self._database.cursor()
        other._database.execute(f"CREATE SCHEMA {other._schema}; SET search_path = '{other._schema},main'")
        return other

    def add_images(
        self, listing: Iterable[pa.RecordBatch], schema: pa.Schema, distinct: bool = True, limit: int | None = None
    ) -> None:
        """Take the images of a run, in batches of `fruitpipe.source.LISTING`; with a limit, the first by path.

        Without `distinct`, a path may come more than once; one of its rows is taken.
        """
        self._stream("CREATE OR REPLACE TABLE images AS SELECT * FROM stream", schema, listing)
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
        self._parts = {}
        self._database.execute(TABLES)
        self.indexes, self.needless = self._read(store, digest, "unindexed")
        if twin and twin.digest != digest:  # the same where images are trimmed
            side = {"shorter": "least(width, height)", "longer": "greatest(width, height)"}[twin.side]
            self._read(store, twin.digest, "twin", f"{side} < {twin.below}")
            self._database.execute("DROP TABLE twin")
        self._settle()

    def add_parts(self, store: Store, names: Iterable[str]) -> None:
        """Take feature parts that were written since, and join again."""
        self._take("fresh", store, names)
        for table in ("hits", "unindexed"):
            self._database.execute(f"DELETE FROM {table} WHERE part IN (SELECT part FROM fresh)")
        self._database.execute(f"INSERT INTO hits {self._hits('fresh')}")
        self._database.execute("INSERT INTO unindexed SELECT * FROM fresh; DROP TABLE fresh")
        self._settle()

    def _read(self, store: Store, digest: str, table: str, where: str = "true") -> tuple[list[Chosen], list[str]]:
        """Take hits of all parts of a digest, by indexes as far as there are any, the others by way of a table.

        Returns the indexes that were of use, and the names of those that are of none.
        """
        listed = dict(store.names(layout.features(digest)))
        live = {name: size for name, size in listed.items() if layout.is_feature_part(name)}
        # An image's content may be another one in a part of the same name and size.
        names = [] if self._verify_content else list(filter(layout.is_facts_index, listed))
        indexes, needless = facts_index.find(store, names)
        while chosen := facts_index.choose(indexes, live):
            try:
                numbers = {part: self._number(part) for each in chosen for part in each.parts}
                known = facts_index.read(store, chosen, numbers)
                self._stream(f"INSERT INTO hits {self._hits('stream', where)}", NUMBERED, known)
                break
            except Damaged as error:
                needless += error.args
                indexes = [index for index in indexes if index.name not in needless]
        covered = {part for each in chosen for part in each.parts}
        self._take(table, store, (name for name in live if name not in covered))
        self._database.execute(f"INSERT INTO hits {self._hits(table, where)}")
        used = {each.facts.name for each in chosen}
        return chosen, [*needless, *(index.name for index in indexes if index.name not in used)]

    def _hits(self, table: str, where: str = "true") -> str:
        # What could not be read has no digest of its content, and is known by its etag even with `verify_content`.
        same = "CASE images.etag WHEN known.etag THEN 0 END"
        if self._verify_content:
            same = "CASE coalesce(known.content, known.etag) WHEN images.content THEN 0 WHEN images.etag THEN 2 END"
        return f"""SELECT images.rowid, {same} + if(status = '{OK}', 0, 1), if(images.path IS NULL, known.path, NULL),
            part, row, width, height, status, error
            FROM (SELECT * FROM {table} WHERE {where}) AS known LEFT JOIN images ON images.path = known.path"""

    def _settle(self) -> None:
        (numbered,) = self._row("SELECT count(*) FROM parts")
        fresh = pa.table({"number": list(self._parts.values())[numbered:], "name": list(self._parts)[numbered:]})
        self._database.register("fresh_parts", fresh)
        self._database.execute("INSERT INTO parts SELECT * FROM fresh_parts")
        self._database.unregister("fresh_parts")
        # One image can be in several parts, as after a retry. Any `ok` will do: its feature follows from its bytes.
        doubles = "SELECT image FROM hits WHERE rank IS NOT NULL GROUP BY image HAVING count(*) > 1"
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE doubles AS {doubles}")
        self._database.execute("""
            DELETE FROM hits WHERE rowid IN (
                SELECT hits.rowid FROM hits JOIN doubles USING (image) JOIN parts ON number = part
                WHERE rank IS NOT NULL
                QUALIFY row_number() OVER (PARTITION BY image ORDER BY rank, name, row) > 1
            )
        """)
        self._database.execute(f"""
            CREATE OR REPLACE TABLE todo AS
            SELECT rowid AS image, false AS retried FROM images
                ANTI JOIN (SELECT image FROM hits WHERE rank IS NOT NULL) AS known ON known.image = images.rowid
            UNION ALL SELECT image, true FROM hits WHERE rank IS NOT NULL AND {self._retried()}
        """)

    def _number(self, part: str) -> int:
        return self._parts.setdefault(part, len(self._parts))

    def _take(self, table: str, store: Store, names: Iterable[str]) -> None:
        """Make a table of NUMBERED of some parts."""
        facts = self._facts(store, names)
        self._stream(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM stream", NUMBERED, facts)

    def _stream(self, query: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Execute a query that takes batches for its table `stream`."""
        failure: list[Exception] = []

        def guarded() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except Exception as error:
                failure.append(error)
                raise

        self._database.register("stream", pa.RecordBatchReader.from_batches(schema, guarded()))
        try:
            self._database.execute(query)
        except duckdb.Error as error:
            # DuckDB wraps what a stream raises; whoever listed the images knows better what to say.
            raise failure[0] if failure else error from None
        finally:
            self._database.unregister("stream")

    def _facts(self, store: Store, names: Iterable[str]) -> Iterator[pa.RecordBatch]:
        for name, facts in side_by_side(partial(read_facts, store), names):
            if facts is not None:
                number = pa.repeat(pa.scalar(self._number(name), pa.int32()), len(facts))
                place = NUMBERED.get_field_index("part")
                yield from facts.set_column(place, "part", number).cast(NUMBERED).to_batches()
            elif name not in self.broken:
                self.broken.append(name)

    @property
    def unindexed(self) -> dict[str, int]:
        """Feature parts of which no index tells, and the number of their rows."""
        query = "SELECT name, n FROM (SELECT part, count(*) AS n FROM unindexed GROUP BY 1) JOIN parts ON number = part"
        return dict(self._database.execute(f"{query} ORDER BY number").fetchall())

    def facts_of(self, parts: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        """What parts that no index tells of say, as batches of NUMBERED with these numbers for the parts."""
        self._database.register(
            "wanted", pa.table({"name": list(parts), "wanted": pa.array(parts.values(), pa.int32())})
        )
        columns = ", ".join(NUMBERED.names)
        query = f"""SELECT {columns} FROM (SELECT unindexed.* REPLACE (wanted AS part)
            FROM unindexed JOIN parts ON number = part JOIN wanted USING (name))"""
        for batch in self._database.sql(query).to_arrow_reader(LARGEST_PART):
            yield batch.cast(NUMBERED)
        self._database.unregister("wanted")

    def _retried(self) -> str:
        retried = RETRIED[self._retry]
        if retried is None:
            return f"status <> '{OK}'"
        return f"status IN ({', '.join(map(repr, ('', *retried)))})"

    def summary(self) -> Summary:
        """Counts for people and for the manifest."""
        images, size = self._row("SELECT count(*), coalesce(sum(size), 0) FROM images")
        known, failed, retried, gone = self._row(f"""
            SELECT count(*) FILTER (rank IS NOT NULL AND status = '{OK}'),
                count(*) FILTER (rank IS NOT NULL AND status <> '{OK}' AND NOT {self._retried()}),
                count(*) FILTER (rank IS NOT NULL AND {self._retried()}),
                count(DISTINCT gone) FILTER (status = '{OK}')
            FROM hits
        """)
        new, changed = self._row("""
            SELECT count(*) FILTER (NOT seen), count(*) FILTER (seen)
            FROM (SELECT image IN (SELECT image FROM hits WHERE image IS NOT NULL) AS seen FROM todo WHERE NOT retried)
        """)
        labels = "SELECT label, count(*) AS n FROM images WHERE label IS NOT NULL GROUP BY 1 ORDER BY n DESC, 1"
        return Summary(
            images=images, bytes=size, labels=dict(self._database.execute(labels).fetchall()), new=new, changed=changed,
            retried=retried, known=known, known_failed=failed, gone=gone,
            passed_over=self.passed_over,
        )  # fmt: skip

    def count_by(self, column: Literal["label", "status"], where: str = "true") -> dict[str, int]:
        """Number of images by label or status, largest first."""
        query = f"SELECT {column}, count(*) AS n FROM ({RESOLVED}) WHERE {column} IS NOT NULL AND {where} GROUP BY 1"
        return dict(self._database.execute(f"{query} ORDER BY n DESC, 1").fetchall())

    def write_todo(self, shares: Shares, slots: int, *others: Plan) -> list[int]:
        """Write the images to featurize, ordered by path, a share per task; return the tasks' sizes.

        The images of a share are missing in the same plans: bits of its column `missing` say in which, the lowest
        one in this, further ones in `others`, which are beside it.
        """
        plans = (self, *others)
        each = " UNION ALL ".join(
            f"SELECT image, {1 << number} AS bit FROM {plan._schema}.todo" for number, plan in enumerate(plans)
        )
        missing = f"SELECT image, sum(bit)::BIGINT AS missing FROM ({each}) GROUP BY image"
        query = f"SELECT missing, count(*) FROM ({missing}) GROUP BY 1 ORDER BY 1 DESC"
        counts = self._database.execute(query).fetchall()
        sizes = [size for _, count in counts for size in part_sizes(count, slots)]
        images = f"SELECT path, etag, size, missing FROM ({missing}) JOIN images ON images.rowid = image"
        self._write(f"{images} ORDER BY missing DESC, path", shares, sizes)
        return sizes

    def write_index(self, shares: Shares, dimension: int) -> list[int]:
        """Write where each image's feature lies, ordered by path, a share per vector part; return their sizes.

        The order and the shares depend on the images alone, not on how features came to be or how many cores there are:
        this is what makes two runs over the same images give the same bits.
        """
        count = self.featurized
        sizes = vector_parts(count, dimension) if count else []
        self._write("SELECT * FROM places ORDER BY path", shares, sizes)
        return sizes

    @property
    def featurized(self) -> int:
        """How many images have a feature."""
        return int(self._row(f"SELECT count(*) FROM hits WHERE rank IS NOT NULL AND status = '{OK}'")[0])

    def add_earlier(self, parts: Iterable[pa.ChunkedArray]) -> None:
        """Take the paths of vector parts of an earlier run, 0, 1, …, as these have them."""
        schema = pa.schema([("part", pa.int32()), ("path", pa.string())])

        def batches() -> Iterator[pa.RecordBatch]:
            for number, paths in enumerate(parts):
                yield from pa.table([pa.repeat(pa.scalar(number, pa.int32()), len(paths)), paths], schema).to_batches()

        self._stream("CREATE OR REPLACE TABLE earlier AS SELECT * FROM stream", schema, batches())

    def earlier_digests(self, rows: Sequence[int]) -> Iterator[str | None]:
        """Of each part of the earlier run, the digest of its images as they are by now; None where one is gone.

        rows: of each.
        """
        images = f"SELECT path, {IMAGE} AS image FROM places"
        query = f"SELECT image FROM earlier LEFT JOIN ({images}) USING (path) ORDER BY earlier.rowid"
        for table in regroup(self._database.sql(query).to_arrow_reader(LARGEST_PART), rows):
            column = table["image"]
            yield None if column.null_count else digest_of(column.to_pylist())

    def write_further_index(self, shares: Shares, dimension: int, kept: Sequence[int]) -> list[int]:
        """As `write_index`, for images that are in none of some parts of the earlier run."""
        others = f"FROM places ANTI JOIN (SELECT path FROM earlier WHERE part IN ({numbers(kept)})) USING (path)"
        (further,) = self._row(f"SELECT count(*) {others}")
        sizes = equal_parts(further, most_images(self.featurized, dimension))
        self._write(f"SELECT path, label, part, row {others} ORDER BY path", shares, sizes)
        return sizes

    def write_earlier_index(self, shares: Shares, parts: Sequence[int], rows: Sequence[int]) -> None:
        """As `write_index`, a share for each of some parts of the earlier run, whose images are all there.

        rows: of these.
        """
        images = f"FROM earlier JOIN places USING (path) WHERE earlier.part IN ({numbers(parts)})"
        self._write(f"SELECT path, label, places.part, row {images} ORDER BY earlier.rowid", shares, rows)

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
        used = f"SELECT part FROM hits WHERE rank IS NOT NULL AND status = '{OK}'"
        query = f"SELECT name FROM parts WHERE number IN ({used}) ORDER BY 1"
        return [name for (name,) in self._database.execute(query).fetchall()]

    def count_in(self, parts: list[str]) -> int:
        """Images whose features the run takes from these parts."""
        query = f"SELECT count(*) FROM hits WHERE rank IS NOT NULL AND status = '{OK}' AND list_contains(?, part)"
        return int(self._row(query, [self._parts[name] for name in parts])[0])

    def _row(self, query: str, *values: Any) -> tuple[Any, ...]:
        (row,) = self._database.execute(query, values).fetchall()
        return tuple(row)

    def _write(self, query: str, shares: Shares, sizes: Sequence[int]) -> None:
        shares.write(self._database.sql(query).to_arrow_reader(LARGEST_PART), sizes, self._scratch)


def side_by_side(read: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Items with what is read of them, in their order, READERS at once; few are held."""
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        while chunk := list(islice(remaining, 4 * READERS)):
            yield from zip(chunk, pool.map(read, chunk), strict=True)


def numbers(some: Iterable[int]) -> str:
    return ", ".join(map(str, some))


@contextmanager
def open_plan(config: Config, folder: Path | None = None) -> Iterator[Plan]:
    """An empty plan for a config, whose database is in a folder of its own within `folder`."""
    with private_folder(folder) as scratch:
        plan = Plan(scratch, config.verify_content, config.failures.retry)
        try:
            yield plan
        finally:
            plan.close()


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
