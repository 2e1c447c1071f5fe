"""Reunion: finding the rest of a network that was split although both parts believe themselves healthy.

A node that has all the tunnels it wants dials nobody, so after a partition of the underlay each half would
stay by itself until tunnels rotate. What tells a split is routing: the book knows peers to which there is
no route. So while there are any that were unrouted for a while, a node dials a random one of them now and
then, beside its other tunnels and whatever became of earlier attempts; the first tunnel between two parts
makes one network of them, and routes come within seconds.

An unrouted peer that is simply switched off costs a few packets each time. Since one success in a part is
enough, the more nodes there are in ours, the rarer each tries: each of M nodes does so about every 3 M
seconds, but no more often than every 15 s and no less often than every 5 minutes. So a part of up to 100
nodes makes an attempt every 3 s or more often, and a node makes 290 (in a large part) to 5800 attempts a
day, of about 500 octets each; none as long as all peers are up.
"""

from __future__ import annotations

import logging
from ipaddress import IPv6Network

from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.transports import Transports
from re6st.core.tunnels import TunnelTable

logger = logging.getLogger(__name__)

SHARE = 3.0
"""Seconds between two attempts of any node of a part of the network."""

BOUNDS = (15.0, 300.0)
"""Shortest and longest mean time between two attempts of one node, seconds."""


class Reunion:
    """Decides when to dial peers to which there is no route."""

    def __init__(
        self, context: Context, book: AddressBook, tunnels: TunnelTable, transports: Transports
    ) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels
        self._transports = transports
        self._routed: frozenset[IPv6Network] | None = None
        """Prefixes to which there is a route; None as long as nobody has told."""
        self._suspects: set[IPv6Network] = set()
        """Peers that were unrouted when we looked last."""

    def routes_changed(self, prefixes: frozenset[IPv6Network]) -> None:
        """There are routes to ``prefixes`` now."""
        self._routed = prefixes
        if self._context.deadlines.get(Timer.REUNION) is None:
            self._rest()

    def met(self, prefix: IPv6Network) -> None:
        """Dial the unrouted node that owns ``prefix``, which was met in a LAN of this host."""
        entry = self._book.get(prefix)
        if entry is not None and self._context.valid(entry.peer) and not self._tunnels.connected(prefix):
            self._dial(prefix)

    def due(self) -> None:
        """Look for unrouted peers, and dial one of those that were so when we looked last."""
        unrouted = {entry.peer.prefix for entry in self._book if self._is_unrouted(entry.peer.prefix)}
        known = sorted(unrouted & self._suspects)
        self._suspects = unrouted
        if known:
            self._dial(self._context.random.choice(known))
        self._rest()

    def _is_unrouted(self, prefix: IPv6Network) -> bool:
        entry = self._book.get(prefix)
        return (
            self._routed is not None
            and prefix not in self._routed
            and entry is not None
            and entry.peer.reachable
            and self._context.valid(entry.peer)
            and not self._tunnels.connected(prefix)
        )

    def _dial(self, prefix: IPv6Network) -> None:
        entry = self._book.get(prefix)
        if entry is None:
            return
        logger.debug("No route to %s: is it in another part of the network?", entry.peer.name)
        transport = self._transports.choose(entry.peer)
        # Not one of the wanted tunnels before it is up, so that those are dialled all the same.
        self._tunnels.request(entry.peer, replace=entry.replace, replacing=True, transport=transport)

    def _rest(self) -> None:
        shortest, longest = BOUNDS
        interval = min(longest, max(shortest, SHARE * (len(self._routed or ()) + 1)))
        self._context.schedule(self._context.vary(interval, 0.5), Timer.REUNION)
