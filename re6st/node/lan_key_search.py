"""Gets keys of LANs from whoever has them: the registry, then a few members.

Which keys are right is said by their digests in the network parameters (:mod:`re6st.node.lan`), so anybody
may be asked. Most members may be without LAN, and have none.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from re6st.errors import IdentityError, ProtocolError, Re6stError
from re6st.messages import LanKeys
from re6st.node.control_client import ControlClient
from re6st.node.whereabouts import Whereabouts
from re6st.peers import Peer

logger = logging.getLogger(__name__)

MOST_ASKED = 8
"""Members that are asked when the registry has not given the keys."""

ASKED_AT_ONCE = 4
"""As many of them at a time: one that does not answer keeps nobody waiting."""

MEMBERS_TIMEOUT = 20.0
"""Seconds for all of them."""


class LanKeySearch:
    """Asks for keys of LANs."""

    def __init__(
        self,
        registry: Callable[[], Awaitable[LanKeys]],
        client: ControlClient,
        whereabouts: Whereabouts,
        known: Callable[[], Iterable[Peer]],
    ) -> None:
        """``registry`` asks the registry; ``known`` are the members that could be asked."""
        self._registry = registry
        self._client = client
        self._whereabouts = whereabouts
        self._known = known

    async def found(self) -> AsyncGenerator[LanKeys, None]:
        """Yield the keys that the registry has, then those of members, as they come: those in our LAN are
        asked first. Close it, and nobody is asked any more.
        """
        try:
            yield await self._registry()
        except Re6stError as error:
            logger.debug("No keys of LANs from the registry: %s", error)
        turns = asyncio.Semaphore(ASKED_AT_ONCE)
        asking = [asyncio.create_task(self._ask(peer, turns)) for peer in self._draw()]
        try:
            for answer in asyncio.as_completed(asking, timeout=MEMBERS_TIMEOUT):
                yield await answer
        except TimeoutError:
            logger.debug("Not all members that were asked for keys of LANs answer")
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, peer: Peer, turns: asyncio.Semaphore) -> LanKeys:
        async with turns:
            try:
                return await self._client.fetch_lan_keys(peer, self._whereabouts.endpoints(peer))
            except (IdentityError, ProtocolError) as error:
                logger.debug("No keys of LANs from %s: %s", peer.name, error)
                return LanKeys()

    def _draw(self) -> list[Peer]:
        known = list(self._known())
        random.shuffle(known)
        known.sort(key=lambda peer: not self._whereabouts.is_nearby(peer))
        return known[:MOST_ASKED]
