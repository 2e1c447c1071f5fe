"""The registry's database in PostgreSQL: connecting again and again, one writer at a time, errors.

All is in the schema ``re6st`` of the database that the URL names. A transaction that writes holds an
advisory lock: so it sees what all earlier ones left and nobody writes meanwhile, as in SQLite, and entries of
the audit log become visible in the order of their numbers. What the server acknowledges is on its disk.

A connection that is lost is made anew: by the next statement, but never in the middle of a transaction, and
less and less often while the server is down (:data:`FIRST_PAUSE` to :data:`LONGEST_PAUSE` seconds). Until
then each statement fails at once with a :class:`StorageError`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumper

from re6st.errors import StorageError
from re6st.registry.adapter import BUSY_TIMEOUT, Row, schema_scripts
from re6st.registry.place import PostgresqlUrl
from re6st.registry.sqlite import SqliteAdapter
from re6st.registry.transfer import copy_rows

KIND = "postgresql"
"""Where its scripts are."""

PASSWORD_CREDENTIAL = "re6st-store-password"  # noqa: S105 - not a secret
"""Name of the password as a credential of systemd (systemd.exec(5), LoadCredential=)."""

WRITER_LOCK = 0x72653673_00000001
"""Key of the advisory lock of who writes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between attempts to connect: after the first failure, and at most."""

CONNECTION: dict[str, Any] = {
    "application_name": "re6st-registry",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
"""Parameters that the URL may set otherwise (libpq, 34.1.2): a host that is gone is noticed within seconds,
and of several ones the one that can write is used."""

_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

PREPARED = 400
"""Statements that the server keeps planned: more than the store has in different forms."""

ROWS_AT_ONCE = 1000
"""Rows of a large answer that are in memory."""

SESSION = (
    "SET search_path = re6st",
    "SET client_encoding = 'UTF8'",
    "SET statement_timeout = '15s'",
    # The lock of a registry that stands still, or whose host is gone, is free again after this.
    "SET idle_in_transaction_session_timeout = '20s'",
    _DURABLE,
)
"""What holds for each connection."""


class PostgresqlAdapter:
    """A registry's schema in a database. Belongs to one thread at a time."""

    def __init__(self, url: PostgresqlUrl, busy_timeout: float) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self._url = url
        self._busy_timeout = busy_timeout
        self._connection: psycopg.Connection[Row] | None = None
        self._inside = False
        self._pause = 0.0
        self._next_attempt = 0.0
        self._failure = ""

    @classmethod
    def create(cls, url: PostgresqlUrl, busy_timeout: float = BUSY_TIMEOUT) -> Self:
        """Make the tables. Raises :class:`StorageError`, also when there is a registry."""
        adapter = cls(url, busy_timeout)
        with adapter._or_closed(), adapter.transaction():
            if adapter._has_schema():
                if not adapter._is_unused():
                    raise StorageError(
                        f"{url} holds a registry already: nothing was touched; take another database"
                    )
                adapter.execute("DROP SCHEMA re6st CASCADE")
            adapter.execute("CREATE SCHEMA re6st")
            adapter.execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")
            adapter.execute("INSERT INTO schema_version VALUES (0)")
            adapter._migrate()
        return adapter

    @classmethod
    def open(cls, url: PostgresqlUrl, busy_timeout: float = BUSY_TIMEOUT) -> Self:
        """Open the registry in the database; ``busy_timeout`` is in seconds.

        Raises :class:`StorageError`, with nothing changed, when it cannot be reached, is locked, holds no
        registry, or one of a newer version.
        """
        adapter = cls(url, busy_timeout)
        with adapter._or_closed():
            if not adapter._has_schema():
                raise StorageError(
                    f"{url} holds no registry: make the network first (re6st-registry init --store {url})"
                )
            newest = schema_scripts(KIND)[-1][0]
            version = adapter._version()
            if version > newest:
                raise StorageError(
                    f"{url} was made by a newer version of re6st-registry (schema {version}, this one knows"
                    f" {newest}): upgrade re6st; nothing was touched"
                )
            if version < newest:
                with adapter.transaction():
                    adapter._migrate()
        return adapter

    @contextlib.contextmanager
    def _or_closed(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _has_schema(self) -> bool:
        return bool(self.execute("SELECT 1 FROM pg_namespace WHERE nspname = 're6st'"))

    def _is_unused(self) -> bool:
        """Return whether the tables are those of a registry whose making did not come to its end."""
        return bool(self.execute("SELECT 1 WHERE to_regclass('re6st.documents') IS NOT NULL")) and not bool(
            self.execute("SELECT 1 FROM documents")
        )

    def _version(self) -> int:
        ((version,),) = self.execute("SELECT version FROM schema_version")
        return int(version)

    def _migrate(self) -> None:
        """Bring the tables up to date, inside a transaction; another process may have done so just now."""
        version = self._version()
        self._take_time()
        for number, script in schema_scripts(KIND):
            if number > version:
                self.execute(script)
                self.execute("UPDATE schema_version SET version = ?", (number,))

    @property
    def name(self) -> str:
        """The URL."""
        return str(self._url)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    # -- transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside happen, or none; no other process writes meanwhile.

        Inside another transaction this one is a part of it.
        """
        if self._inside:
            yield
        else:
            # With any other level each statement would see what was there before the lock was waited for.
            with self._whole(f"{_BEGIN}; SELECT pg_advisory_xact_lock({WRITER_LOCK})"):
                yield

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is as it was at one time, while others may write."""
        with self._whole("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            self._take_time()
            yield

    @contextlib.contextmanager
    def _whole(self, begin: str) -> Iterator[None]:
        try:
            self.execute(begin)
            self._inside = True
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                if self._connection is not None and not self._connection.closed:
                    self._connection.execute("ROLLBACK")
            raise
        finally:
            self._inside = False

    def _take_time(self) -> None:
        """Let the rest of the transaction take any time, also that of a person who types a passphrase."""
        self.execute("SET LOCAL statement_timeout = 0")
        self.execute("SET LOCAL idle_in_transaction_session_timeout = 0")

    # -- statements

    def execute(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows that ``statement`` gives. Raises :class:`StorageError`."""
        with self._translated():
            try:
                return self._perform(statement, values)
            except psycopg.OperationalError:
                # The server went away since the last statement, perhaps for a moment; nothing was done.
                if not self._may_repeat(statement):
                    raise
            return self._perform(statement, values)

    def _may_repeat(self, statement: str) -> bool:
        lost = self._connection is None or self._connection.closed
        return lost and not self._inside and statement.startswith(("SELECT", "BEGIN"))

    def _perform(self, statement: str, values: Sequence[object]) -> list[Row]:
        cursor = self._ready().execute(
            _in_our_style(statement) if values else statement.encode(), values or None
        )
        return cursor.fetchall() if cursor.description is not None else []

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Return the number of the row that ``statement`` inserts. Raises :class:`StorageError`."""
        ((number,),) = self.execute(f"{statement} RETURNING id", values)
        return int(number)

    def stream(self, statement: str) -> Iterator[Row]:
        """Yield the rows that ``statement`` gives. Raises :class:`StorageError`."""
        with self._translated(), self._ready().cursor(name="rows") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            yield from cursor.execute(statement.encode())

    def fill(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Put ``rows`` into an empty table. Raises :class:`StorageError`."""
        self._take_time()
        with self._translated(), self._ready().cursor() as cursor:
            statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
            with cursor.copy(statement.encode()) as copy:
                for row in rows:
                    # PostgreSQL reads SQLite's 0 and 1 as booleans where these are meant.
                    copy.write_row([int(value) if isinstance(value, bool) else value for value in row])
        if "id" in columns:
            self._continue_numbers(table)

    def _continue_numbers(self, table: str) -> None:
        """Let the next row's number be higher than all that are there, where PostgreSQL gives numbers."""
        rows = self.execute("SELECT pg_get_serial_sequence(?, 'id')", (f"re6st.{table}",))
        if rows[0][0] is not None:
            self.execute(
                f"SELECT setval(?, (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)",  # noqa: S608 - of the schema
                (rows[0][0],),
            )

    # -- the whole database

    def size(self) -> int:
        """Return the octets of the tables and indexes."""
        ((octets,),) = self.execute(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class"
            " WHERE relnamespace = 're6st'::regnamespace AND relkind = 'r'"
        )
        return int(octets)

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to the new file ``path``, an SQLite database, while others use this one.

        Raises :class:`StorageError`, also when it exists.
        """
        with SqliteAdapter.create(path) as copy:
            with self.snapshot(), copy.transaction():
                copy_rows(self, copy, copy.tables())
            copy.drop_log()

    def find_damage(self) -> list[str]:
        """Return what hinders the server from reading all rows, and constraints that do not hold."""
        damage = []
        tables = self.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 're6st'::regnamespace AND relkind = 'r'"
        )
        for (table,) in tables:
            try:
                with self.snapshot():
                    self.execute(f"SELECT sum(length(whole::text)) FROM {table} AS whole")  # noqa: S608 - a name
            except StorageError as error:
                damage.append(f"{table} cannot be read: {error}")
        rows = self.execute(
            "SELECT conname, conrelid::regclass::text FROM pg_constraint"
            " WHERE connamespace = 're6st'::regnamespace AND NOT convalidated"
        )
        return damage + [f"the constraint {name} of {table} is not known to hold" for name, table in rows]

    # -- the connection

    def _ready(self) -> psycopg.Connection[Row]:
        """Return the connection, made anew if it was lost. Raises :class:`StorageError`."""
        if self._connection is None or (self._connection.closed and not self._inside):
            if time.monotonic() < self._next_attempt:
                raise self._unreachable()
            self._connect()
        if self._connection is None or self._connection.closed:
            raise self._unreachable()
        return self._connection

    def _connect(self) -> None:
        self._connection = None
        try:
            parameters = CONNECTION | _credential() | conninfo_to_dict(str(self._url))
            connection = psycopg.connect(**parameters, autocommit=True)
            connection.adapters.register_dumper(str, StrDumper)
            connection.prepared_max = PREPARED
            for statement in (*SESSION, f"SET lock_timeout = {round(self._busy_timeout * 1000)}"):
                connection.execute(statement.encode())
        except psycopg.Error as error:
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._next_attempt = time.monotonic() + self._pause
            self._failure = _one_line(error)
            raise self._unreachable() from error
        self._pause = 0.0
        self._failure = "the connection was lost"
        self._connection = connection

    def _unreachable(self) -> StorageError:
        return StorageError(
            f"cannot use the database {self._url}: {self._failure}; check that PostgreSQL runs there and lets"
            " re6st-registry in. It is tried again every few seconds"
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Tell PostgreSQL's errors in our own terms."""
        try:
            yield
        except (errors.LockNotAvailable, errors.QueryCanceled) as error:
            raise StorageError(
                f"the database {self._url} is locked by another program that holds it for too long: find it"
                " in pg_stat_activity and try again"
            ) from error
        except (errors.IntegrityError, errors.RaiseException) as error:
            raise StorageError(f"the database {self._url} refused a change: {_one_line(error)}") from error
        except errors.ReadOnlySqlTransaction as error:
            # A server that became a standby: another one can write now.
            self.close()
            raise StorageError(f"the database {self._url} cannot be written: {_one_line(error)}") from error
        except psycopg.Error as error:
            raise StorageError(f"cannot use the database {self._url}: {_one_line(error)}") from error


@functools.lru_cache(maxsize=512)
def _in_our_style(statement: str) -> bytes:
    """Return ``statement`` with the marks for values that the driver knows."""
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _credential() -> dict[str, str]:
    """Return the password that systemd provides, if any. Raises :class:`StorageError`."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / PASSWORD_CREDENTIAL if directory else None
    if path is None or not path.exists():
        return {}
    try:
        return {"password": path.read_text().rstrip("\r\n")}
    except OSError as error:
        raise StorageError(f"cannot read the database's password: {error}") from error


def _one_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().partition("\n")[0]
