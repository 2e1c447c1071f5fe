"""The highest version of each signed document, kept in a file: none that is far beyond it is signed.

Nodes never go back to an older version. A document with the highest version that there can be would be the
last one that they take; so the signing process lets versions grow in bounded steps only.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from re6st.errors import StorageError, UntrustedError
from re6st.files import write_atomically
from re6st.messages import Version

STEP = 1000
"""By how much a version may grow at once: as much as by restoring a backup."""

_DECODER = msgspec.json.Decoder(dict[str, Version])


class SignedVersions:
    """Remembers the highest version of each kind of document."""

    def __init__(self, path: Path) -> None:
        """Use the file ``path``, which need not exist. Raises :class:`StorageError` when it is damaged."""
        self._path = path
        try:
            self._highest = _DECODER.decode(path.read_bytes())
        except FileNotFoundError:
            self._highest = {}
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise StorageError(
                f"cannot read the versions that were signed, {path}: {error}; without the file the next"
                " version is taken, whatever it is: remove it only if you trust the registry"
            ) from error

    def advance(self, context: str, version: int) -> None:
        """Take note that ``version`` of the document ``context`` is about to be signed.

        The first one may be any. Raises :class:`UntrustedError` when it is more than :data:`STEP` beyond the
        highest, :class:`StorageError` when it cannot be kept; nothing is changed then.
        """
        highest = self._highest.get(context)
        if highest is not None and version <= highest:
            return
        if highest is not None and version > highest + STEP:
            raise UntrustedError(f"{context} version={version}: more than {STEP} beyond {highest}")
        later = self._highest | {context: version}
        write_atomically(self._path, msgspec.json.encode(later), 0o600)
        self._highest = later
