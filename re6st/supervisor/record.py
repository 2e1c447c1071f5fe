"""The record of a child on disk, from which a later daemon recognises it.

It is written twice: before the process exists, with a token that the process will carry in its
environment, and again with pid and start time. Whenever the daemon dies, the next one finds the process.

A later program may mean other things by the same words: a record of another version serves to end the
process, and never to adopt it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from re6st.errors import StorageError
from re6st.supervisor import process

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "RE6ST_CHILD"  # noqa: S105  (the name of an environment variable)
DIRECTORY_VARIABLE = "RE6ST_CHILDREN"
"""Environment variable of each child: the directory of its record, by which it is found without one."""

VERSION = 1
"""Of what records say. It changes with their meaning, also with that of what the owners of children keep."""

_LARGEST = 256 * 1024


class ChildRecord(Struct, frozen=True, kw_only=True):
    """Everything that is known of a child."""

    name: str
    """Unique in the directory."""
    kind: str
    """What it is, for example ``openvpn``: who adopts a child looks for this."""
    version: int = 0
    """:data:`VERSION` of the program that has written it."""
    argv: tuple[str, ...] = ()
    """Program and arguments."""
    token: str
    """Random; the process has it in its environment as ``RE6ST_CHILD``."""
    boot_id: str
    """The run of the kernel in which it was started."""
    pid: int | None = None
    """None until it is started."""
    start_time: int = 0
    """In clock ticks since boot (proc(5))."""
    executable: str = ""
    """Path of the program that runs."""
    data: dict[str, str | int] = {}
    """Whatever its owner needs to know again: slot, peer, management socket."""

    @property
    def trustworthy(self) -> bool:
        """Whether this program knows what the record means."""
        return self.version == VERSION

    def find(self) -> int | None:
        """Return the pid of the process that this record describes if it still runs, else None."""
        if self.boot_id != process.boot_id():
            return None
        if self.pid is None:
            return next(iter(process.find_by_environment(f"{TOKEN_VARIABLE}={self.token}")), None)
        try:
            same = process.start_time(self.pid) == self.start_time and not process.is_zombie(self.pid)
        except ProcessLookupError:
            return None
        # The program of a child may have replaced itself by another (execve(2)); the token stays.
        known = process.executable(self.pid) == self.executable or process.has_environment(
            self.pid, f"{TOKEN_VARIABLE}={self.token}"
        )
        return self.pid if same and known else None

    def reap(self) -> None:
        """Reap the process if it has ended as our child: before a restart in place it may have been that."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            same = self.pid is not None and process.start_time(self.pid) == self.start_time
            if self.pid is not None and same and process.is_zombie(self.pid):
                os.waitpid(self.pid, os.WNOHANG)


def path_of(directory: Path, name: str) -> Path:
    """Return where the record of child ``name`` is."""
    return directory / f"{name}.json"


def write(directory: Path, record: ChildRecord) -> None:
    """Write ``record``, replacing an older one at once. Raises :class:`StorageError`."""
    # No fsync: a record means nothing after the crash of the kernel.
    try:
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".record-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
            Path(temporary).replace(path_of(directory, record.name))
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"cannot write the record of {record.name}: {error}; free space in {directory} and try again"
        ) from error


def read_all(directory: Path) -> list[ChildRecord]:
    """Return all records in ``directory``; files that are no records are removed with a warning."""
    records = []
    for path in sorted(directory.glob("*.json")):
        try:
            if path.stat().st_size > _LARGEST:
                raise msgspec.ValidationError("too large")
            record = msgspec.json.decode(path.read_bytes(), type=ChildRecord)
            if path_of(directory, record.name) != path:
                raise msgspec.ValidationError("it names another child")
        except (msgspec.DecodeError, OSError) as error:
            logger.warning("%s is not the record of a child and is removed: %s", path, error)
            path.unlink(missing_ok=True)
        else:
            records.append(record)
    return records


def remove(directory: Path, name: str) -> None:
    """Remove the record of child ``name`` if there is one."""
    path_of(directory, name).unlink(missing_ok=True)
