"""The registry's database in a file of SQLite: opening, checking, migrating, transactions, errors.

SQLite runs in WAL mode with full synchronisation: what a committed transaction says survives ``kill -9``
and a power cut. Several processes may use the database at once (the server and the operator's commands);
writers queue for some seconds. Before a database is used it is opened read-only and checked: one that is
corrupted, locked, foreign, or of a newer version is refused and not touched. Migrations
(``schema/sqlite``) go forward only, by ``user_version``.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from ipaddress import IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from re6st.errors import StorageError
from re6st.registry.adapter import BUSY_TIMEOUT, Row, schema_scripts

KIND = "sqlite"
"""Where its scripts are."""

APPLICATION_ID = 0x72653673
"""``re6s``, in the header of the file (``PRAGMA application_id``)."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as SQLite knows it."""

    name: str
    columns: tuple[str, ...]


class SqliteAdapter:
    """An open database file. Belongs to one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self._connection = connection
        self.path = path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new database. Raises :class:`StorageError`, also when ``path`` exists."""
        try:
            path.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise StorageError(f"cannot make the database {path}: {error.strerror}") from error
        with _translated(path):
            connection = _connect(path, "rw", BUSY_TIMEOUT)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        store = cls(connection, path)
        store._configure()
        return store

    @classmethod
    def open(cls, path: Path, busy_timeout: float = BUSY_TIMEOUT) -> Self:
        """Open the database ``path``; ``busy_timeout`` is in seconds.

        Raises :class:`StorageError`, with nothing changed, when it is missing, locked, corrupted, not the
        database of a registry, or of a newer version.
        """
        if not path.is_file():
            raise StorageError(f"{path} does not exist: make the network first (re6st-registry init)")
        _check(path, busy_timeout)
        with _translated(path):
            store = cls(_connect(path, "rw", busy_timeout), path)
            store._configure()
            return store

    def _configure(self) -> None:
        with _translated(self.path):
            self._connection.create_function("prefix_text", 2, _prefix_text, deterministic=True)
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute("PRAGMA synchronous = FULL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version < schema_scripts(KIND)[-1][0]:
            self._migrate()

    def _migrate(self) -> None:
        """Bring the tables up to date, all steps or none; another process may do the same just now."""
        with self.transaction():
            ((version,),) = self.execute("PRAGMA user_version")
            for number, script in schema_scripts(KIND):
                if number > version:
                    for statement in _statements(script):
                        self.execute(statement)
                    self.execute(f"PRAGMA user_version = {number}")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

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
        if self._connection.in_transaction:
            yield
        else:
            with self._whole():
                yield

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is as it was at one time, while others may write."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.execute("ROLLBACK")

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows that ``statement`` gives. Raises :class:`StorageError`."""
        with _translated(self.path):
            return self._connection.execute(statement, values).fetchall()

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Return the number of the row that ``statement`` inserts. Raises :class:`StorageError`."""
        with _translated(self.path):
            return int(self._connection.execute(statement, values).lastrowid or 0)

    def stream(self, statement: str) -> Iterator[Row]:
        """Yield the rows that ``statement`` gives. Raises :class:`StorageError`."""
        with _translated(self.path):
            yield from self._connection.execute(statement)

    def fill(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Put ``rows`` into an empty table. Raises :class:`StorageError`."""
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - of the schema
        with _translated(self.path):
            self._connection.executemany(statement, rows)

    def tables(self) -> list[Table]:
        """Return all tables, those first to which others refer."""
        rows = self.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        order = TopologicalSorter[str]()
        for (name,) in rows:
            referred = self.execute('SELECT "table" FROM pragma_foreign_key_list(?)', (name,))
            order.add(name, *(table for (table,) in referred if table != name))
        return [Table(name, self._columns(name)) for name in order.static_order()]

    def _columns(self, table: str) -> tuple[str, ...]:
        return tuple(str(name) for (name,) in self.execute("SELECT name FROM pragma_table_info(?)", (table,)))

    def size(self) -> int:
        """Return the octets of the database, without its log."""
        ((pages, octets),) = self.execute(
            "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
        )
        return int(pages) * int(octets)

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to the new file ``path``, while others use the database.

        The copy is one file without a write-ahead log. Raises :class:`StorageError`, also when it exists.
        """
        try:
            path.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise StorageError(f"cannot make the copy {path}: {error.strerror}") from error
        with _translated(path), contextlib.closing(_connect(path, "rw", BUSY_TIMEOUT)) as copy:
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")

    def drop_log(self) -> None:
        """Become one file without a write-ahead log."""
        self.execute("PRAGMA journal_mode = DELETE")

    def compact(self) -> None:
        """Leave no trace of what was deleted, and use a write-ahead log from now on, as new databases do."""
        self.execute("VACUUM")
        self.execute("PRAGMA journal_mode = WAL")

    def find_damage(self) -> list[str]:
        """Return what SQLite finds wrong in a full check; the effort grows with the database."""
        damage = [str(text) for (text,) in self.execute("PRAGMA integrity_check(20)") if text != "ok"]
        rows = self.execute("PRAGMA foreign_key_check")
        return damage + [f"row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in rows[:20]]


# -- opening --------------------------------------------------------------------------------------------


def _prefix_text(first: bytes, length: int) -> str:
    """Return how people write a prefix, for searching."""
    return str(IPv6Network((first, length)))


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of ``script``: executescript() would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _connect(path: Path, mode: str, busy_timeout: float) -> sqlite3.Connection:
    # Transactions are explicit (isolation_level None); the owner sees to it that only one thread works.
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _check(path: Path, busy_timeout: float) -> None:
    """Raise :class:`StorageError` unless the database can be used; change nothing.

    While nobody uses the database there is no write-ahead log, and it is read as immutable: otherwise
    SQLite would leave a log behind beside a database that we then refuse.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists():
        _read_through(path, "ro", busy_timeout)
        return
    try:
        _read_through(path, "ro&immutable=1", busy_timeout)
    except StorageError:
        if not log.exists():
            raise
        # Another process began to write meanwhile, and what we read did not fit together.
        _read_through(path, "ro", busy_timeout)


def _read_through(path: Path, mode: str, busy_timeout: float) -> None:
    """Raise :class:`StorageError` unless this is our database, whole and of a version that we know."""
    with _translated(path), contextlib.closing(_connect(path, mode, busy_timeout)) as connection:
        (identifier,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if identifier != APPLICATION_ID:
            raise StorageError(f"{path} is not the database of a re6st registry: nothing was touched")
        newest = schema_scripts(KIND)[-1][0]
        if version > newest:
            raise StorageError(
                f"{path} was made by a newer version of re6st-registry (schema {version}, this one knows"
                f" {newest}): upgrade re6st; nothing was touched"
            )
        (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise StorageError(
                f"the database {path} is corrupted ({result.splitlines()[-1]}): restore a backup; nothing was"
                " touched"
            )


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Tell SQLite's errors in our own terms."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise StorageError(
                f"the database {path} is locked by another program that holds it for too long: find it"
                f" with 'fuser {path}' and try again"
            ) from error
        raise StorageError(f"cannot use the database {path}: {text}{_advice(error, path)}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise StorageError(f"the database {path} refused a change: {error}") from error
        raise StorageError(
            f"the database {path} is corrupted or no database ({error}): restore a backup;"
            " nothing was touched"
        ) from error


def _advice(error: sqlite3.OperationalError, path: Path) -> str:
    """Return what a person can do about ``error``."""
    name = error.sqlite_errorname
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return "; run as the user to whom it belongs, and see whether its file system is mounted read-only"
    if name.startswith(("SQLITE_IOERR", "SQLITE_FULL")):
        return f"; see whether the file system is full (df {path.parent}) or failing (dmesg)"
    return ""
