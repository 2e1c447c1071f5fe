"""The registry's database, whichever kind it is: what the classes with the SQL build upon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from re6st.errors import ConfigError
from re6st.registry.adapter import BUSY_TIMEOUT, Adapter, Row
from re6st.registry.place import Place, PostgresqlUrl
from re6st.registry.sqlite import SqliteAdapter

ALL = 2**62
"""A limit that no table reaches."""


class Database:
    """An open database. Belongs to one thread at a time; all methods may raise :class:`StorageError`."""

    def __init__(self, adapter: Adapter) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.adapter = adapter
        self._transactions = 0
        self._current: int | None = None

    @classmethod
    def create(cls, place: Place) -> Self:
        """Make a new database. Raises :class:`StorageError`, also when there is one."""
        if isinstance(place, PostgresqlUrl):
            return cls(_postgresql(place, create=True))
        return cls(SqliteAdapter.create(place))

    @classmethod
    def open(cls, place: Place, busy_timeout: float = BUSY_TIMEOUT) -> Self:
        """Open the database at ``place``; ``busy_timeout`` is in seconds.

        Raises :class:`StorageError`, with nothing changed, when it is missing, locked, corrupted, not the
        database of a registry, or of a newer version.
        """
        if isinstance(place, PostgresqlUrl):
            return cls(_postgresql(place, busy_timeout))
        return cls(SqliteAdapter.open(place, busy_timeout))

    @property
    def name(self) -> str:
        """Where it is, for people."""
        return self.adapter.name

    def close(self) -> None:
        """Close the database."""
        self.adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside happen, or none; no other process writes meanwhile.

        Inside another transaction this one is a part of it.
        """
        with self.adapter.transaction():
            if self._current is not None:
                yield
                return
            self._transactions += 1
            self._current = self._transactions
            try:
                yield
            finally:
                self._current = None

    @property
    def current(self) -> int | None:
        """A number for what is known in the transaction under way; None outside of one.

        While it is the same, what was read before is still so, unless the reader changed it himself.
        """
        return self._current

    def invalidate(self) -> None:
        """Let nobody rely on what was read before in the transaction under way."""
        if self._current is not None:
            self._transactions += 1
            self._current = self._transactions

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows that ``statement`` gives."""
        return self.adapter.execute(statement, values)

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Return the number of the row that ``statement`` inserts."""
        return self.adapter.insert(statement, values)

    def size(self) -> int:
        """Return the octets of the database, without its log."""
        return self.adapter.size()

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to the new file ``path``, an SQLite database, while others use this one."""
        self.adapter.copy_to(path)

    def find_damage(self) -> list[str]:
        """Return what a full check finds wrong; the effort grows with the database."""
        return self.adapter.find_damage()


def _postgresql(url: PostgresqlUrl, busy_timeout: float = BUSY_TIMEOUT, *, create: bool = False) -> Adapter:
    try:
        from re6st.registry.postgresql import PostgresqlAdapter
    except ImportError as error:
        raise ConfigError(
            f"{url} needs the driver of PostgreSQL ({error}): install re6st[postgresql] with pip, or the"
            " Debian package python3-psycopg"
        ) from error
    return (
        PostgresqlAdapter.create(url, busy_timeout) if create else PostgresqlAdapter.open(url, busy_timeout)
    )
