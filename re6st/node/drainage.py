"""When a tunnel is drained, so that it can end without a lost packet: routes have left it at both ends.

Either end moves its own routes away (:mod:`re6st.routing.draining`) and asks the other, again and again, how
far it is. A few answers in a row must be good: so what is under way arrives before the end. Routes are those
of babeld and, when it has just begun, those that the one before has left in the kernel. A node that stops
altogether waits only for the others: what it carries for them depends on their routes, not on its own.
"""

from __future__ import annotations

import asyncio
import time
from ipaddress import IPv6Network
from typing import Protocol

from re6st.core.effects import Drain
from re6st.node.tunnel import Stage, Tunnel
from re6st.peers import Peer

INTERVAL = 0.5
"""Seconds between questions how far a peer is."""

CONFIRMATIONS = 3
"""How often in a row both ends must have no route."""

UNTOLD = 8.0
"""Seconds after which routes are taken for moved at a peer that cannot say: an older one, for example."""


class Routes(Protocol):
    """This node's routes, as far as they matter here; see :class:`re6st.routing.babeld.Babeld`."""

    def is_drained(self, interface: str, but: IPv6Network | None = None) -> bool:
        """Return whether no route leads through ``interface``, except the one to ``but``."""


class Remains(Protocol):
    """Routes of an earlier babeld; see :class:`re6st.node.route_repair.RouteRepair`."""

    async def leads_through(self, interface: str, but: IPv6Network | None = None) -> bool:
        """Return whether one of them, except that to ``but``, leads through ``interface``."""


class Notices(Protocol):
    """Who asks peers; see :mod:`re6st.node.peer_notices`."""

    async def drain(self, peer: Peer, name: str, *, leaving: bool) -> bool | None:
        """Have ``peer`` drain the tunnel; return whether it has no route there, None if it does not say."""


class Drainage:
    """Tells when tunnels are drained."""

    def __init__(self, routes: Routes, remains: Remains, notices: Notices) -> None:
        self._routes = routes
        self._remains = remains
        self._notices = notices

    async def is_drained_here(self, tunnel: Tunnel, *, leaving: bool) -> bool:
        """Return whether no route of this node leads through ``tunnel``; if the peer is ``leaving``, except
        the one to itself. If this node stops as well, neither has to wait for the other.
        """
        if tunnel.drain is Drain.NODE:
            return True
        return await self._is_drained(tunnel.interface, tunnel.peer.prefix if leaving else None)

    async def _is_drained(self, interface: str, but: IPv6Network | None = None) -> bool:
        known = self._routes.is_drained(interface, but)
        return known and not await self._remains.leads_through(interface, but)

    async def complete(self, tunnel: Tunnel, *, leaving: bool) -> bool:
        """Wait until ``tunnel`` is drained; ``leaving``: this node stops. Return False if it ends before."""
        begun, successes = time.monotonic(), 0
        while successes < CONFIRMATIONS:
            await asyncio.sleep(INTERVAL)
            there = await self._notices.drain(tunnel.peer, tunnel.name, leaving=leaving)
            if tunnel.stage is not Stage.DRAINING:
                return False
            if there is None:
                there = time.monotonic() - begun >= UNTOLD
            here = leaving or await self._is_drained(tunnel.interface)
            successes = successes + 1 if here and there else 0
        return True
