"""The key of this node's LANs, from the owner's file."""

from __future__ import annotations

from pathlib import Path

from re6st.errors import ConfigError
from re6st.routing.lan import LanKey, parse_key

_LONGEST_FILE = 256
_OTHERS = 0o077


def load_key(path: Path) -> LanKey:
    """Return the key in the file ``path``. Raises :class:`ConfigError`, also when others may read it."""
    try:
        if path.stat().st_mode & _OTHERS:
            raise ConfigError(f"{path} holds a key that others may read: chmod 600 {path}")
        with path.open() as file:
            text = file.read(_LONGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key of the LANs: {error}") from error
    try:
        return parse_key(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
