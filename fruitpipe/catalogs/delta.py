"""A Delta table, by delta-rs: an extra, fruitpipe[delta]. Such a table names files below itself: it is the result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from deltalake import DeltaTable, Schema
from deltalake.schema import ArrayType, Field, PrimitiveType
from deltalake.transaction import AddAction, CommitProperties, RemoveAction

from fruitpipe.errors import UserError
from fruitpipe.result.runs import Run
from fruitpipe.storage import layout

SCHEMA = Schema(
    [
        Field("path", PrimitiveType("string"), nullable=False),
        Field("label", PrimitiveType("string")),
        Field("vector", ArrayType(PrimitiveType("float"), contains_null=True), nullable=False),
    ]
)
KEPT = {"delta.deletedFileRetentionDuration": "interval 36500 days"}
"""A century: VACUUM deletes what lies below a table and is none of its files, which here are models and older runs."""


@dataclass(frozen=True)
class Delta:
    """The table whose root is a result."""

    url: str
    storage: Mapping[str, str]
    """options of delta-rs, beside what it takes from the environment"""

    @property
    def name(self) -> str:
        return f"the Delta table {self.url}"

    def check(self) -> None:
        """Raises UserError where there is a table that fruitpipe has not made: its rows would go, and who clears it up,
        as it has no KEPT, would take the result for leftovers.
        """
        if re.search("%[0-9A-Fa-f]{2}", self.url):
            raise UserError(f"delta-rs takes %XX in {self.url} for another letter: choose an output without.")
        storage = dict(self.storage)
        if not DeltaTable.is_deltatable(self.url, storage):
            return
        if not KEPT.items() <= DeltaTable(self.url, storage_options=storage).metadata().configuration.items():
            raise UserError(
                f"{self.name} was not made by fruitpipe: choose another output, or leave out publish.delta."
            )

    def hold(self, run: Run) -> None:
        table = DeltaTable.create(self.url, SCHEMA, "ignore", configuration=KEPT, storage_options=dict(self.storage))
        names = {layout.run(run.id, file.name): file for file in run.vector_files}
        if set(table.get_add_actions().column("path").to_pylist()) == set(names):
            return
        written = int(run.manifest.finished.timestamp() * 1000)
        files: list[AddAction | RemoveAction] = [
            AddAction(name, file.bytes, {}, written, data_change=True, stats=json.dumps({"numRecords": file.rows}))
            for name, file in names.items()
        ]
        facts = CommitProperties(custom_metadata={"fruitpipe.run": run.id})
        table.create_write_transaction(files, "overwrite", SCHEMA, commit_properties=facts)
