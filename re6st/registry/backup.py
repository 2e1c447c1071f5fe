"""Backup of a registry into one file, restoring it, and the check of what is there.

A backup is a database of SQLite, whatever kind the registry's own is of, with one more table,
``backup_files``, that holds the CA certificate and, only if asked for, the CA's private key. It is consistent
and made while the server works. So a backup that is restored elsewhere is also the way from SQLite to
PostgreSQL and back.

Restoring goes back in time, and the network does not: nodes never accept an older version of a signed
document. So both documents get version numbers far beyond all that can have been given out since the
backup. What else happened since then (enrolments, revocations) is lost and must be repeated by the operator.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from re6st.errors import ConfigError, Re6stError, StorageError
from re6st.files import write_atomically
from re6st.identity import CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS, is_encrypted, load_key
from re6st.messages import NetworkParameters, Revocations, decode
from re6st.registry.authority import Authority
from re6st.registry.parameters import check_parameters
from re6st.registry.place import Place
from re6st.registry.service import Service
from re6st.registry.sqlite import SqliteAdapter
from re6st.registry.state import StateDirectory
from re6st.registry.store import Store
from re6st.registry.transfer import copy_rows
from re6st.registry.usecases import Actor

VERSION_JUMP = 1000
"""By how much the versions of the signed documents grow when a backup is restored."""

HEADER = b"SQLite format 3\0"
"""With which each backup begins (https://www.sqlite.org/fileformat.html, 1.3)."""


def back_up(state: StateDirectory, file: Path, actor: Actor, *, include_keys: bool = False) -> None:
    """Write a backup of ``state`` to the new ``file`` (0600), with the CA's key only if asked for.

    Raises :class:`StorageError`, also when ``file`` exists, with nothing left behind.
    """
    if file.exists():
        raise StorageError(f"{file} exists already: a backup overwrites nothing, choose another name")
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        with state.service(actor) as service:
            service.note_backup(str(file), include_keys)
        with Store.open(state.place) as store:
            store.copy_to(temporary)
        with Store.open(temporary) as copy, copy.transaction():
            copy.execute("CREATE TABLE backup_files (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT")
            paths = [state.authority_certificate]
            if include_keys:
                paths += [path for path in (state.authority_key, state.new_authority) if path.exists()]
            for path in paths:
                copy.execute("INSERT INTO backup_files VALUES (?, ?)", (path.name, path.read_bytes()))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(file)
    except OSError as error:
        raise StorageError(f"cannot write the backup {file}: {error.strerror}") from error
    finally:
        for path in (temporary, *(temporary.with_name(temporary.name + end) for end in ("-wal", "-shm"))):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def restore(
    state: StateDirectory,
    file: Path,
    actor: Actor,
    authority_key: Path | None = None,
    place: Place | None = None,
) -> list[str]:
    """Make the empty directory of ``state`` the registry that ``file`` is a backup of.

    ``authority_key`` is the CA's private key, if the backup does not contain it. The database is put at
    ``place``, by default into the directory, whatever kind it was of before. Returns what the check of
    the result finds. Raises :class:`ConfigError`, :class:`StorageError` or :class:`UntrustedError`, with the
    directory left as it was.
    """
    state.prepare()
    try:
        state.keep_place(place or state.database)
        with _unpacked(file, state) as (store, files):
            if state.authority_key.name not in files and authority_key is None:
                raise ConfigError(
                    f"{file} does not contain the CA's private key: give it with --authority-key FILE"
                )
            key = files.get(state.authority_key.name)
            if authority_key is not None:
                if not is_encrypted(authority_key.read_bytes()):
                    load_key(authority_key)
                key = authority_key.read_bytes()
            write_atomically(state.authority_certificate, files[state.authority_certificate.name], 0o644)
            write_atomically(state.authority_key, key or b"", 0o600)
            if state.new_authority.name in files:
                write_atomically(state.new_authority, files[state.new_authority.name], 0o600)
            authority = _advance_documents(store, Service(store, state.authority(), actor=actor))
        state.refresh_server(authority, time.time())
    except OSError as error:
        state.clear()
        raise StorageError(f"cannot restore {file}: {error.filename or file}: {error.strerror}") from error
    except BaseException:
        state.clear()
        raise
    return check(state)


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reader, open(descriptor, "wb") as writer:  # noqa: PTH123 - a descriptor
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


@contextlib.contextmanager
def _unpacked(file: Path, state: StateDirectory) -> Iterator[tuple[Store, dict[str, bytes]]]:
    """Put the database in ``file`` where that of ``state`` belongs, and yield it with the files in it.

    It is put elsewhere than in a file only if what is done inside comes to its end.
    """
    with file.open("rb") as reader:
        if reader.read(len(HEADER)) != HEADER:
            raise ConfigError(f"{file} is not a backup of a registry (re6st-registry backup FILE makes one)")
    place = state.place
    copy = place if isinstance(place, Path) else state.database
    _copy(file, copy)
    try:
        with SqliteAdapter.open(copy) as unpacked:
            files = _take_files(unpacked)
            unpacked.compact()
            if isinstance(place, Path):
                yield Store(unpacked), files
                return
            with Store.create(place) as store, store.transaction():
                copy_rows(unpacked, store.adapter, unpacked.tables())
                yield store, files
        copy.unlink()
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def _take_files(store: SqliteAdapter) -> dict[str, bytes]:
    """Return the files in a backup, and remove them from the database."""
    if not store.execute("SELECT 1 FROM sqlite_schema WHERE name = 'backup_files'"):
        raise ConfigError(
            "this is a registry's database, but not a backup: make one with 're6st-registry backup'"
        )
    store.execute("PRAGMA secure_delete = ON")
    with store.transaction():
        files = {str(name): bytes(content) for name, content in store.execute("SELECT * FROM backup_files")}
        store.execute("DROP TABLE backup_files")
    return files


def _advance_documents(store: Store, service: Service) -> Authority:
    """Sign both documents again with versions that every node takes for newer; return by which CA."""
    with store.transaction():
        parameters = service.current_parameters()
        later = msgspec.structs.replace(parameters, version=parameters.version + VERSION_JUMP)
        service.advance_documents(later, service.revocations_version() + VERSION_JUMP)
    return service.authority


def check(state: StateDirectory) -> list[str]:
    """Return all that is wrong with the registry in ``state``; nothing when it is sound.

    Raises :class:`ConfigError`, :class:`StorageError` or :class:`UntrustedError` when it cannot be opened.
    """
    problems = []
    place = state.place
    files = [place] if isinstance(place, Path) else []
    for path in (state.authority_key, state.new_authority, state.server, *files):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mode & 0o077:
                problems.append(f"{path} can be read by others: chmod 600 {path}")
    with Store.open(state.place) as store:
        problems += store.find_damage()
        service = Service(store, state.authority())
        problems += _check_documents(service, state)
        names = {node.identifier: node.name for node in store.nodes()}
        held = [(node.prefix, node.name) for node in store.nodes() if node.released is None]
        held = sorted([*held, *((row.prefix, names[row.node]) for row in store.further_held())])
        problems += [
            f"{one} ({prefix}) and {other} ({overlapping}) overlap"
            for (prefix, one), (overlapping, other) in pairwise(held)
            if prefix.overlaps(overlapping)
        ]
        problems += [
            f"{name} ({prefix}) is outside the network {service.network}"
            for prefix, name in held
            if not prefix.subnet_of(service.network)
        ]
    return problems


def _check_documents(service: Service, state: StateDirectory) -> list[str]:
    problems = []
    trust = state.authority().trust
    try:
        payload = trust.verify_document(CONTEXT_PARAMETERS, service.parameters())
        check_parameters(decode(payload, NetworkParameters), service.network)
        decode(trust.verify_document(CONTEXT_REVOCATIONS, service.revocations()), Revocations)
    except Re6stError as error:
        problems.append(str(error))
    return problems
