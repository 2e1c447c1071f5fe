"""Where peers are asked: at what they publish, and before that where they are in a LAN of this host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Network
from typing import Protocol

from re6st.messages import Endpoint
from re6st.peers import Peer


class DialOrder(Protocol):
    """Who knows what can be tried on the network below; see :mod:`re6st.node.reachability`."""

    def dial_order(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of a peer's ``endpoints`` that can be tried from here, best first."""


class Whereabouts:
    """Knows at which endpoints a peer can be tried."""

    def __init__(self, underlay: DialOrder, nearby: Callable[[IPv6Network], Endpoint | None]) -> None:
        """``nearby`` tells where in a LAN of this host a node is, if it is known to be there."""
        self._underlay = underlay
        self._nearby = nearby

    def is_nearby(self, peer: Peer) -> bool:
        """Return whether ``peer`` is in a LAN of this host."""
        return self._nearby(peer.prefix) is not None

    def endpoints(self, peer: Peer) -> tuple[Endpoint, ...]:
        """Return where on the underlay to try ``peer``, best first."""
        nearby = self._nearby(peer.prefix)
        published = self._underlay.dial_order(peer.endpoints)
        return published if nearby is None else (nearby, *(one for one in published if one != nearby))
