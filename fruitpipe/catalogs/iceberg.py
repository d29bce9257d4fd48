"""An Iceberg table, by PyIceberg: an extra, fruitpipe[iceberg]."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.schema import Schema
from pyiceberg.types import FloatType, ListType, NestedField, StringType

from fruitpipe.config import IcebergConfig
from fruitpipe.result.runs import Run

SCHEMA = Schema(
    NestedField(1, "path", StringType(), required=True),
    NestedField(2, "label", StringType()),
    NestedField(3, "vector", ListType(4, FloatType(), element_required=False), required=True),
)


@dataclass(frozen=True)
class Iceberg:
    """A table of a catalog that PyIceberg's own settings describe."""

    settings: IcebergConfig

    @property
    def name(self) -> str:
        return f"the Iceberg table {self.settings.table} of the catalog {self.settings.catalog}"

    def check(self) -> None:
        with closing(self._catalog()) as catalog:
            catalog.table_exists(self.settings.table)

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
                change.add_files(files, {"fruitpipe.run": run.id})

    def _catalog(self) -> Catalog:
        return load_catalog(self.settings.catalog)
