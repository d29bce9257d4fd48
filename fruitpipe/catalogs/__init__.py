"""Tables in which published vectors are registered: their files stay where they are, and none is written again."""

from fruitpipe.catalogs.table import check_tables, register

__all__ = ["check_tables", "register"]
