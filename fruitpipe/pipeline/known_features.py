"""Known features: what feature parts say of the images of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import pyarrow as pa

from fruitpipe.pipeline.database import KEY, Database
from fruitpipe.result import facts_index
from fruitpipe.result.facts_index import NUMBERED, Chosen, Damaged
from fruitpipe.storage import layout
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.storage.store import Store
from fruitpipe.tasks.feature_part import read_facts
from fruitpipe.vision.bad_image import OK, RETRIED
from fruitpipe.vision.scale import Twin

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


class KnownFeatures:
    """Tables of features that exist, in a database that has a table `images`."""

    def __init__(self, database: Database, verify_content: bool) -> None:
        self.broken: list[str] = []
        """Feature parts that could not be read; their images are computed again."""
        self.indexes: list[Chosen] = []
        """of facts, by which parts were read"""
        self.needless: list[str] = []
        """indexes of facts that are damaged, or say nothing that others do not"""
        self._parts: dict[str, int] = {}
        """numbers of feature parts"""
        self._database = database
        self._verify_content = verify_content

    def read(self, store: Store, digest: str, twin: Twin | None = None) -> None:
        """Take what all parts say, and join."""
        self._parts = {}
        self._database.execute(TABLES)
        self.indexes, self.needless = self._read_all(store, digest, "unindexed")
        if twin and twin.digest != digest:  # the same where images are trimmed
            side = {"shorter": "least(width, height)", "longer": "greatest(width, height)"}[twin.side]
            self._read_all(store, twin.digest, "twin", f"{side} < {twin.below}")
            self._database.execute("DROP TABLE twin")
        self._settle()

    def read_parts(self, store: Store, names: Iterable[str]) -> None:
        """Take what parts say that were written since, and join again."""
        self._take("fresh", store, names)
        for table in ("hits", "unindexed"):
            self._database.execute(f"DELETE FROM {table} WHERE part IN (SELECT part FROM fresh)")
        self._database.execute(f"INSERT INTO hits {self._hits('fresh')}")
        # Of an image that has failed again, the last attempt counts.
        self._database.execute(f"""
            DELETE FROM hits WHERE rank IS NOT NULL AND status <> '{OK}' AND part NOT IN (SELECT part FROM fresh)
                AND image IN (SELECT image FROM hits WHERE rank IS NOT NULL AND part IN (SELECT part FROM fresh));
            INSERT INTO unindexed SELECT * FROM fresh;
            DROP TABLE fresh
        """)
        self._settle()

    def _read_all(self, store: Store, digest: str, table: str, where: str = "true") -> tuple[list[Chosen], list[str]]:
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
                with self._database.right_side_held():  # else it takes the stream for the smaller side, and holds that
                    self._database.stream(f"INSERT INTO hits {self._hits('stream', where)}", NUMBERED, known)
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
        # What is compared is hashed, to 64 bits, and paths to 128: joins of what does not fit into memory lie on disk.
        compared = ("etag", "content") if self._verify_content else ("etag",)
        hashed = ", ".join(f"if({name} IS NULL, NULL, hash({name})) AS {name}" for name in compared)
        # What could not be read has no digest of its content, and is known by its etag even with `verify_content`.
        same = "CASE images.etag WHEN known.etag THEN 0 END"
        if self._verify_content:
            same = "CASE coalesce(known.content, known.etag) WHEN images.content THEN 0 WHEN images.etag THEN 2 END"
        return f"""SELECT image, {same} + if(status = '{OK}', 0, 1), if(image IS NULL, known.path, NULL),
            part, row, width, height, status, error
            FROM (SELECT * REPLACE ({hashed}), {KEY} FROM {table} WHERE {where}) AS known
            LEFT JOIN (SELECT rowid AS image, {KEY}, {hashed} FROM images) AS images ON images.key = known.key"""

    def _settle(self) -> None:
        (numbered,) = self._database.row("SELECT count(*) FROM parts")
        fresh = pa.table({"number": list(self._parts.values())[numbered:], "name": list(self._parts)[numbered:]})
        with self._database.table("fresh_parts", fresh):
            self._database.execute("INSERT INTO parts SELECT * FROM fresh_parts")
        # One image can be in several parts, as after a retry. Any `ok` will do: its feature follows from its bytes. Of
        # failures, one that is tried again came before one that is not.
        doubles = "SELECT image FROM hits WHERE rank IS NOT NULL GROUP BY image HAVING count(*) > 1"
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE doubles AS {doubles}")
        again = ", ".join(map(repr, RETRIED))
        self._database.execute(f"""
            DELETE FROM hits WHERE rowid IN (
                SELECT hits.rowid FROM hits JOIN doubles USING (image) JOIN parts ON number = part
                WHERE rank IS NOT NULL
                QUALIFY row_number() OVER (
                    PARTITION BY image ORDER BY rank, coalesce(status IN ({again}), false), name, row
                ) > 1
            )
        """)

    def _number(self, part: str) -> int:
        return self._parts.setdefault(part, len(self._parts))

    def _take(self, table: str, store: Store, names: Iterable[str]) -> None:
        """Make a table of NUMBERED of some parts."""
        facts = self._facts(store, names)
        self._database.stream(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM stream", NUMBERED, facts)

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
        return dict(self._database.rows(f"{query} ORDER BY number"))

    def facts_of(self, parts: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        """What parts that no index tells of say, as batches of NUMBERED with these numbers for the parts."""
        wanted = pa.table({"name": list(parts), "wanted": pa.array(parts.values(), pa.int32())})
        columns = ", ".join(NUMBERED.names)
        query = f"""SELECT {columns} FROM (SELECT unindexed.* REPLACE (wanted AS part)
            FROM unindexed JOIN parts ON number = part JOIN wanted USING (name))"""
        with self._database.table("wanted", wanted):
            for batch in self._database.batches(query):
                yield batch.cast(NUMBERED)

    def feature_parts(self) -> list[str]:
        """Feature parts that the run takes features from, sorted."""
        used = f"SELECT part FROM hits WHERE rank IS NOT NULL AND status = '{OK}'"
        query = f"SELECT name FROM parts WHERE number IN ({used}) ORDER BY 1"
        return [name for (name,) in self._database.rows(query)]

    def count_in(self, parts: list[str]) -> int:
        """Images whose features the run takes from these parts."""
        query = f"SELECT count(*) FROM hits WHERE rank IS NOT NULL AND status = '{OK}' AND list_contains(?, part)"
        return int(self._database.row(query, [self._parts[name] for name in parts])[0])
