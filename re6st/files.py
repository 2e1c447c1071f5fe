"""Writing files so that after any failure either the old or the new content is there, whole."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import time
from pathlib import Path

from re6st.errors import StorageError

MARK_LENGTH = 8
"""Random octets in the name of a temporary file."""

LEFTOVER_AGE = 60.0
"""Seconds after which the writer of a temporary file is not at work any more."""


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace the content of ``path`` by ``data``, with the permissions ``mode`` (for example 0o600).

    The data goes to a temporary file in the same directory, is flushed to the disk, and then takes the
    place of ``path`` (rename(2)). Raises :class:`StorageError`, with the old file untouched and nothing
    left behind, when the directory or the disk does not take it. What a writer that was killed has left
    behind is removed by a later one: it may be a key that was to be encrypted or deleted.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(MARK_LENGTH)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - Path.open() takes no descriptor
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _remove_leftovers(path)
        _flush_directory(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {path}: {reason}; the old content is kept") from error


def _remove_leftovers(path: Path) -> None:
    """Remove old temporary files of ``path``, and nothing that only has a similar name."""
    mark = "[0-9a-f]" * (2 * MARK_LENGTH)
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{mark}.tmp"):
        with contextlib.suppress(OSError):
            if temporary.stat().st_mtime < time.time() - LEFTOVER_AGE:
                temporary.unlink()


def _flush_directory(directory: Path) -> None:
    """Make the renaming in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
