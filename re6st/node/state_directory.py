"""What lies in the state directory beside key and certificates, and how it is forgotten.

All of it belongs to one identity in one network: who joins anew, or leaves, must not go on with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from re6st.core.events import Document
from re6st.errors import StorageError
from re6st.node import mapping_secret
from re6st.node.credentials import CredentialFiles
from re6st.node.lan import LAN_KEYS_NAME

CACHE_NAME = "cache.sqlite"
"""File of the address book."""


def forget_network(state_directory: Path) -> None:
    """Remove documents, address book and keys of LANs. Raises :class:`StorageError`."""
    names = [f"{document.value}.json" for document in Document]
    names += [CACHE_NAME + suffix for suffix in ("", "-wal", "-shm")]
    _remove([state_directory / name for name in (*names, LAN_KEYS_NAME)])


def remove_state(state_directory: Path) -> None:
    """Remove all of it, key and certificates included. Raises :class:`StorageError`."""
    files = CredentialFiles(state_directory)
    _remove([files.key, files.pending_key, files.pending_token, files.certificate, files.authority])
    forget_network(state_directory)
    _remove(state_directory.glob(f"{CACHE_NAME}.damaged-*"))
    _remove([state_directory / name for name in ("babel-sequence", mapping_secret.NAME)])
    with contextlib.suppress(OSError):
        state_directory.rmdir()


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror}") from error
