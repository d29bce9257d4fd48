"""An Iceberg table, by PyIceberg: an extra, fruitpipe[iceberg]."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import FloatType, ListType, NestedField, StringType

from fruitpipe.config import IcebergConfig
from fruitpipe.errors import UserError
from fruitpipe.result.runs import Run

SCHEMA = Schema(
    NestedField(1, "path", StringType(), required=True),
    NestedField(2, "label", StringType()),
    NestedField(3, "vector", ListType(4, FloatType(), element_required=False), required=True),
)
RUN = "fruitpipe.run"
"""Property of a table, and of its snapshots: the run that it holds."""


@dataclass(frozen=True)
class Iceberg:
    """A table of a catalog that PyIceberg's own settings describe."""

    settings: IcebergConfig

    @property
    def name(self) -> str:
        return f"the Iceberg table {self.settings.table} of the catalog {self.settings.catalog}"

    def check(self) -> None:
        """Raises UserError where there is a table with other columns, or with rows that are not fruitpipe's."""
        with closing(self._catalog()) as catalog:
            there = catalog.table_exists(self.settings.table)
            if there and not can_hold(catalog.load_table(self.settings.table)):
                raise UserError(f"{self.name} was not made by fruitpipe: name another in publish.iceberg.table.")

    def hold(self, run: Run) -> None:
        files = [run.path(file.name) for file in run.vector_files]
        with closing(self._catalog()) as catalog:
            catalog.create_namespace_if_not_exists(self.settings.table.rpartition(".")[0])
            table = catalog.create_table_if_not_exists(self.settings.table, SCHEMA)
            if {task.file.file_path for task in table.scan().plan_files()} == set(files):
                return
            with table.transaction() as change:
                if table.current_snapshot():
                    change.delete(AlwaysTrue())
                change.add_files(files, {RUN: run.id})
                change.set_properties({RUN: run.id})

    def _catalog(self) -> Catalog:
        return load_catalog(self.settings.catalog)


def can_hold(table: Table) -> bool:
    """Whether a run's files may replace those of a table: it holds a run, or nothing yet."""
    if table.current_snapshot() and RUN not in table.properties:
        return any(each.summary and RUN in each.summary.additional_properties for each in table.snapshots())
    return {column.name for column in SCHEMA.fields} <= {column.name for column in table.schema().fields}
