"""Lets many requests wait for a new version of a signed document, with one look at the database for all.

Versions are changed by the operator's commands, which are other processes, so there is nothing to be woken
by; as long as somebody waits the database is read every :data:`POLL` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from re6st.errors import Re6stError
from re6st.messages import DocumentVersions

logger = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between looks at the database."""

MAXIMUM_WAITING = 128
"""Requests that may wait at a time: a quarter of the connections that there may be."""


class Announcer:
    """Tells those who wait when a document has a new version."""

    def __init__(self, read: Callable[[], Awaitable[DocumentVersions]]) -> None:
        """``read`` returns the versions in force."""
        self._read = read
        self._waiting: set[asyncio.Future[None]] = set()
        self._poll: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether nobody may wait any longer."""
        return self._stopping

    async def wait(
        self, versions: DocumentVersions, known: DocumentVersions, patience: float
    ) -> DocumentVersions:
        """Return the versions in force, now ``versions``, as soon as one is newer than in ``known``.

        After ``patience`` seconds they are returned in any case; at once if too many wait already.
        Raises :class:`StorageError`.
        """
        if patience <= 0 or is_news(versions, known) or len(self._waiting) >= MAXIMUM_WAITING:
            return versions
        if self._stopping:
            return versions
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(told)
        if self._poll is None:
            self._poll = asyncio.create_task(self._watch(versions))
        try:
            await asyncio.wait([told], timeout=patience)
        finally:
            self._waiting.discard(told)
        return await self._read()

    async def stop(self) -> None:
        """Let nobody wait any longer."""
        self._stopping = True
        self._release()
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)

    async def _watch(self, versions: DocumentVersions) -> None:
        """Look at the database until nobody waits. All who wait know at least ``versions``."""
        try:
            while self._waiting:
                await asyncio.sleep(POLL)
                newest = await self._read()
                if is_news(newest, versions):
                    versions = newest
                    self._release()
        except Re6stError as error:
            logger.error("Cannot tell nodes of new versions: %s", error)
            self._release()
        finally:
            self._poll = None

    def _release(self) -> None:
        for told in self._waiting:
            if not told.done():
                told.set_result(None)


def is_news(versions: DocumentVersions, known: DocumentVersions) -> bool:
    """Say whether one of ``versions`` is newer than in ``known``."""
    return (
        versions.parameters_version > known.parameters_version
        or versions.revocations_version > known.revocations_version
    )
