"""The highest version of each signed document, kept in a file: none that is far beyond it is signed.

Nodes never go back to an older version. A document with the highest version that there can be would be the
last one that they take; so the signing process lets versions grow by :data:`STEP` at once, and from then on
by :data:`RATE` only. What is left of the step is kept as well, so that a restart does not give it back.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from re6st.errors import StorageError, UntrustedError
from re6st.files import write_atomically
from re6st.messages import Version

STEP = 1000
"""By how much a version may grow at once: as much as by restoring a backup."""

RATE = 1 / 60
"""By how much it may grow further, a second: half a million a year, where 2**53 are possible."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How far a document is, and how far it may go."""

    version: Version
    left: float
    """By how much the version might still grow at ``time``."""
    time: float
    """Seconds since the epoch."""

    def allowance(self, wall: float) -> float:
        """Return by how much the version may grow at ``wall``. A clock that was set back gives nothing."""
        return min(STEP, self.left + max(0.0, wall - self.time) * RATE)


_DECODER = msgspec.json.Decoder(dict[str, Version | Growth])


class SignedVersions:
    """Remembers the highest version of each kind of document."""

    def __init__(self, path: Path) -> None:
        """Use the file ``path``, which need not exist. Raises :class:`StorageError` when it is damaged."""
        self._path = path
        try:
            kept = _DECODER.decode(path.read_bytes())
        except FileNotFoundError:
            kept = {}
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise StorageError(
                f"cannot read the versions that were signed, {path}: {error}; without the file the next"
                " version is taken, whatever it is: remove it only if you trust the registry"
            ) from error
        # Earlier versions of this program kept nothing but the number.
        self._highest = {
            context: known if isinstance(known, Growth) else Growth(version=known, left=STEP, time=0.0)
            for context, known in kept.items()
        }

    def advance(self, context: str, version: int, wall: float) -> None:
        """Take note that ``version`` of the document ``context`` is about to be signed, at ``wall``.

        The first one may be any. Raises :class:`UntrustedError` when it is farther beyond the highest than
        allowed at this time, :class:`StorageError` when it cannot be kept; nothing is changed then.
        """
        known = self._highest.get(context)
        if known is None:
            growth = Growth(version=version, left=STEP, time=wall)
        elif version <= known.version:
            return
        else:
            left = known.allowance(wall) - (version - known.version)
            if left < 0:
                raise UntrustedError(
                    f"{context} version={version}: {known.version} is the highest so far, which may grow by"
                    f" {int(known.allowance(wall))} now"
                )
            growth = Growth(version=version, left=left, time=wall)
        later = self._highest | {context: growth}
        write_atomically(self._path, msgspec.json.encode(later), 0o600)
        self._highest = later
