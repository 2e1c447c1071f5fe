"""What the registry asks of a database, whichever keeps its tables; and the scripts that make them.

The statements are the same for all kinds of databases: what SQLite and PostgreSQL both understand, with ``?``
for each value. Tables are made by the scripts in ``schema/KIND/``. Each is named by the version to which it
leads; a change has a script of the same name for every kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

Row = tuple[Any, ...]

BUSY_TIMEOUT = 5.0
"""Seconds that one waits for another process to finish its transaction."""


class Adapter(Protocol):
    """An open database. Belongs to one thread at a time. All methods may raise :class:`StorageError`."""

    @property
    def name(self) -> str:
        """Where it is, for people; without secrets."""
        ...

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """All changes inside happen, or none; no other process writes meanwhile.

        Inside another transaction this one is a part of it.
        """
        ...

    def snapshot(self) -> contextlib.AbstractContextManager[None]:
        """What is read inside is as it was at one time, while others may write."""
        ...

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows that ``statement`` gives."""
        ...

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Return the number (``id``) of the row that ``statement`` inserts."""
        ...

    def stream(self, statement: str) -> Iterable[Row]:
        """Yield the rows that ``statement`` gives, inside a transaction or snapshot; never all in memory."""
        ...

    def fill(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Put ``rows``, of this or another kind of database, into an empty table."""
        ...

    def size(self) -> int:
        """Return the octets of the database, without its log."""
        ...

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to the new file ``path``, an SQLite database, while others use this one."""
        ...

    def find_damage(self) -> list[str]:
        """Return what a full check finds wrong; the effort grows with the database."""
        ...

    def close(self) -> None:
        """Close the database."""
        ...


def schema_scripts(kind: str) -> list[tuple[int, str]]:
    """Return the scripts that make the tables in a database of ``kind``, with their versions, in order."""
    directory = resources.files("re6st.registry") / "schema" / kind
    files = sorted(
        (file for file in directory.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return [(int(file.name.removesuffix(".sql")), file.read_text()) for file in files]
