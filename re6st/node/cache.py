"""What a node remembers on disk: the address book and the sequence number of its own record (SQLite).

It is a cache: when the file is damaged it is set aside and a new one begun, since everything in it can
be learnt again. All calls are short and made from the event loop's thread.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from ipaddress import IPv6Network
from pathlib import Path

from re6st.errors import RemoteProtocolError, StorageError
from re6st.messages import SignedPeerRecord, decode, encode

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE peer (
    prefix TEXT PRIMARY KEY,    -- node prefix of the peer
    record BLOB NOT NULL        -- JSON of its SignedPeerRecord
) WITHOUT ROWID;
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Cache:
    """The address book on disk."""

    def __init__(self, path: Path) -> None:
        """Open the cache in the file ``path``; set a damaged one aside. Raises :class:`StorageError`."""
        self._path = path
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StorageError(f"cannot open the address book {path}: {error}") from error
            self._set_aside(error)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check found damage")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"its schema version is {version}, not {SCHEMA_VERSION}")
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{int(time.time())}")
        try:
            self._path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as failure:
            raise StorageError(f"the address book is damaged and cannot be set aside: {failure}") from failure
        logger.warning(
            "The address book %s is damaged (%s): set aside as %s, starting anew",
            self._path,
            error,
            aside.name,
        )

    def records(self) -> list[SignedPeerRecord]:
        """Return all stored records; unreadable ones are dropped."""
        records = []
        for prefix, blob in self._database.execute("SELECT prefix, record FROM peer").fetchall():
            try:
                records.append(decode(blob, SignedPeerRecord))
            except RemoteProtocolError as error:
                logger.warning("Dropping the stored record of %s: %s", prefix, error)
                self._database.execute("DELETE FROM peer WHERE prefix = ?", (prefix,))
        return records

    def store(
        self, stored: Iterable[tuple[IPv6Network, SignedPeerRecord]], forgotten: Iterable[IPv6Network]
    ) -> None:
        """Write records and remove others, all or nothing. Raises :class:`StorageError`."""
        try:
            self._database.execute("BEGIN")
            try:
                self._database.executemany(
                    "INSERT OR REPLACE INTO peer (prefix, record) VALUES (?, ?)",
                    [(str(prefix), encode(record)) for prefix, record in stored],
                )
                self._database.executemany(
                    "DELETE FROM peer WHERE prefix = ?", [(str(prefix),) for prefix in forgotten]
                )
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"cannot write the address book {self._path}: {error}") from error

    def next_sequence(self, wall: float) -> int:
        """Return a sequence number higher than all before, also after the cache was lost.

        It is at least ``wall`` in seconds since the epoch, and remembered before it is returned.
        Raises :class:`StorageError`.
        """
        try:
            row = self._database.execute("SELECT value FROM counter WHERE name = 'sequence'").fetchone()
            sequence = max(int(wall), row[0] + 1 if row else 0)
            self._database.execute(
                "INSERT OR REPLACE INTO counter (name, value) VALUES ('sequence', ?)", (sequence,)
            )
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path}: {error}") from error
        return sequence

    def close(self) -> None:
        """Close the file."""
        self._database.close()
