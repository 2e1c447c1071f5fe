"""The output of a child: a plain file, kept small, whose end explains a failure.

A child writes to the file itself, so its output never depends on the daemon being alive. The file is
opened for appending (open(2), O_APPEND), so it can be cut while the child goes on writing.
"""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 256 * 1024
"""Octets above which a log file is cut."""

KEPT = 64 * 1024
"""Octets that remain of a file that is cut."""

LAST_LINES = 12
"""Lines of output that go into the report of a failure."""

_LINE_LENGTH = 300


def create(path: Path) -> int:
    """Make an empty log file; return a descriptor that appends to it. Raises :class:`OSError`."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def tail(path: Path, lines: int = LAST_LINES) -> tuple[str, ...]:
    """Return the last lines in ``path``, none if there is no such file."""
    return tuple(
        line.decode(errors="replace")[:_LINE_LENGTH] for line in _end(path, lines * _LINE_LENGTH).splitlines()
    )[-lines:]


def cut(path: Path) -> None:
    """Keep only the end of ``path`` if it has grown above :data:`LIMIT`.

    What the child writes during the cut may be lost.
    """
    try:
        if path.stat().st_size <= LIMIT:
            return
        kept = _end(path, KEPT).partition(b"\n")[2]
        with path.open("r+b") as file:
            file.truncate(0)
        with path.open("ab") as file:
            file.write(kept)
    except FileNotFoundError:
        return


def _end(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read(size)
    except FileNotFoundError:
        return b""
