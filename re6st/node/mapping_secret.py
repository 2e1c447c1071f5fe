"""The secret by which a home router knows the maker of a port mapping again (RFC 6887, 11.2: nonce)."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from re6st.errors import StorageError
from re6st.files import write_atomically

logger = logging.getLogger(__name__)

NAME = "mapping-secret"
SIZE = 32


def load(directory: Path) -> bytes:
    """Return the secret in ``directory``, made now if there is none.

    If it cannot be kept, the next start may find its ports taken until the leases of this one end.
    """
    path = directory / NAME
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    if len(kept) == SIZE:
        return kept
    made = secrets.token_bytes(SIZE)
    try:
        write_atomically(path, made, 0o600)
    except StorageError as error:
        logger.warning("The secret for port mappings is not kept: %s", error)
    return made
