"""Takes part in punching holes: finds out our own hole, and opens our router for a peer behind another one.

How holes are observed and opened is the business of :mod:`re6st.node.holes`; here is decided whether a peer's
hole is worth a try, and where the peer must dial.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from re6st.errors import ProtocolError
from re6st.messages import Endpoint, Hole
from re6st.node import holes
from re6st.node.holes import Burrow
from re6st.node.tunnel import Tunnel
from re6st.peers import Peer


class Underlay(Protocol):
    """What punching must know of the network below; see :mod:`re6st.node.reachability`."""

    def lan_endpoints(self, port: int) -> tuple[Endpoint, ...]:
        """Return where somebody in the same LAN reaches the UDP ``port``."""

    def usable(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of ``endpoints``, which a peer has offered, to which packets may be sent."""


class Puncher:
    """Punches holes for the tunnels of this node."""

    def __init__(self, underlay: Underlay, known: Callable[[], Iterable[Peer]]) -> None:
        """``known`` tells whom this node could ask where its packets come from, best known ones first."""
        self._underlay = underlay
        self._known = known

    async def observe(self) -> Burrow:
        """Return a new local port and its hole, to be closed by the caller. Raises :class:`ProtocolError`."""
        return await holes.observe(holes.stun_servers(self._known()))

    async def open_for(self, tunnel: Tunnel, hole: Hole) -> tuple[Endpoint, ...]:
        """Take a port for ``tunnel``, open our router for the peer behind ``hole``, and return where it must
        dial. Raises :class:`ProtocolError` when that cannot succeed.

        The port is not one of those that an owner may forward: nodes in one LAN would all have the same ones,
        which their router cannot keep apart.
        """
        if not holes.is_outside(hole.endpoint) or not self._underlay.usable([hole.endpoint]):
            raise ProtocolError(f"{hole.endpoint} is no address at which {tunnel.peer.name} can be dialled")
        with contextlib.closing(await self.observe()) as own:
            outside = own.hole.endpoint
            lan: tuple[Endpoint, ...] = ()
            if outside.address == hole.endpoint.address:
                lan = self._underlay.lan_endpoints(own.port)
            elif not own.hole.predictable:
                raise ProtocolError("our router gives each flow another port: no hole can be punched")
            own.open(hole.endpoint)
            tunnel.port, tunnel.punched = own.port, True
            return (*lan, outside)

    async def keep_open(self, tunnel: Tunnel, hole: Hole) -> None:
        """Open all routers on the way to ``hole`` for ``tunnel``, which waits for its dialer."""
        await holes.keep_opening(tunnel.port, hole.endpoint)
