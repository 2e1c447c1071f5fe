"""Copies all rows of a registry from one database to another, also of another kind.

Both have the same tables, so that SQLite's account of them serves for both directions.
"""

from __future__ import annotations

from collections.abc import Sequence

from re6st.registry.adapter import Adapter
from re6st.registry.sqlite import Table

_ORDERS = {"nodes": "released IS NULL, id", "certificates": "rowid"}
"""In which order rows must come: a former member's prefix may be somebody else's now, which is an overlap
only when the later one is there already; and the newest of two certificates is the one that came last."""

_MADE = ("node_groups",)
"""Tables in which a new database has rows already."""


def copy_rows(source: Adapter, target: Adapter, tables: Sequence[Table]) -> None:
    """Fill the empty ``tables`` of ``target``, those first to which others refer, inside a transaction."""
    for table in tables:
        if table.name in _MADE:
            target.execute(f"DELETE FROM {table.name}")  # noqa: S608 - of the schema
        order = _ORDERS.get(table.name, "id" if "id" in table.columns else table.columns[0])
        statement = f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {order}"  # noqa: S608 - of the schema
        target.fill(table.name, table.columns, source.stream(statement))
