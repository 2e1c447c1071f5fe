"""Tells peers that a tunnel ends or drains, over the overlay or the underlay, whichever still works.

The end of a tunnel is told as often as it takes within a few seconds: the way to the peer may have led
through that very tunnel, and routes be found anew meanwhile. A peer that cannot be told notices by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from re6st.errors import IdentityError, ProtocolError
from re6st.messages import Draining
from re6st.node.control_client import ControlClient
from re6st.node.tasks import Tasks
from re6st.node.whereabouts import DialOrder
from re6st.peers import Peer

logger = logging.getLogger(__name__)

END_TIMEOUT = 6.0
"""Seconds that telling a peer about the end of a tunnel may take."""

END_ATTEMPT = 1.5
"""Seconds of one attempt at it. A connection that began before routes had changed is best begun anew."""

END_PAUSE = 0.2
"""Seconds between two attempts."""

DRAIN_ATTEMPT = 2.0
"""Seconds of one question how far a peer is with a tunnel that is drained."""


class PeerNotices:
    """What this node tells the other ends of its tunnels."""

    def __init__(self, client: ControlClient, underlay: DialOrder, tasks: Tasks) -> None:
        self._client = client
        self._underlay = underlay
        self._tasks = tasks

    def end(self, peer: Peer, name: str) -> None:
        """Tell ``peer`` that the tunnel ``name`` ends; do not wait for that."""
        self._tasks.spawn(self._end(peer, name), f"tell {peer.name} that a tunnel ends")

    async def _end(self, peer: Peer, name: str) -> None:
        with contextlib.suppress(IdentityError, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT):
                while True:
                    with contextlib.suppress(ProtocolError, TimeoutError):
                        async with asyncio.timeout(END_ATTEMPT):
                            endpoints = self._underlay.dial_order(peer.endpoints)
                            await self._client.cancel_tunnel(peer, name, endpoints)
                            return
                    await asyncio.sleep(END_PAUSE)

    async def drain(self, peer: Peer, name: str, *, leaving: bool) -> bool | None:
        """Have ``peer`` move its routes away from the tunnel ``name``; return whether none is left there.

        ``leaving``: this node stops altogether. Return None when the peer does not say: it is not reached, or
        does not know the message.
        """
        try:
            async with asyncio.timeout(DRAIN_ATTEMPT):
                endpoints = self._underlay.dial_order(peer.endpoints)
                draining = Draining(leaving=leaving)
                return (await self._client.drain_tunnel(peer, name, draining, endpoints)).drained
        except (IdentityError, ProtocolError, TimeoutError) as error:
            logger.debug("%s does not say whether it has drained the tunnel: %s", peer.name, error)
            return None
