"""Gossip: exchanging random samples of peer records with random neighbours.

Regularly there is one exchange per interval; soon after the first tunnel is up comes the first one, so that
a newcomer is known quickly. When a new signed document has come into force, there is one with *each*
neighbour at once, whatever else is under way: an exchange carries the versions of the documents, who is
behind fetches, and then does the same. So a document passes the whole network in as many steps as its
tunnel graph is wide (three or four for a thousand nodes), and a neighbour that does not answer delays
nobody but itself.

When the node is reached at other endpoints, it tells all neighbours at once as well. Mostly it has just lost
tunnels then, perhaps all, and those at their other ends try in vain to dial the old endpoints. So it also
tells who was a neighbour until a moment ago, through others, and does so again while tunnels come up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from ipaddress import IPv6Network

from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import ExchangeGossip
from re6st.core.tunnels import TunnelTable
from re6st.peers import Peer

FIRST_DELAY = 1.5
"""Seconds from the first tunnel to the first exchange: routes need that long."""

RECENTLY = 60.0
"""Seconds for which new endpoints are news, and a lost neighbour is worth being told of them."""

RETRY_DELAY = (5.0, 60.0)
"""First and longest wait after exchanges that failed, seconds."""


class Gossip:
    """Decides when and with whom to exchange records."""

    def __init__(self, context: Context, book: AddressBook, tunnels: TunnelTable) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels
        self.interval = context.settings.gossip_interval
        """Seconds between regular exchanges, as the network parameters have it."""
        self._partners: dict[IPv6Network, int] = {}
        """With whom an exchange is under way, and its number."""
        self._numbers = itertools.count()
        self._behind: set[IPv6Network] = set()
        """Partners that must be told once more: a document came into force after the exchange began."""
        self._failures = 0
        self._lost: dict[IPv6Network, tuple[Peer, float]] = {}
        """Who was a neighbour until recently, and until when."""
        self._moved_at = float("-inf")
        """When the own endpoints changed."""
        self._untold: dict[IPv6Network, Peer] = {}
        """Who should hear of that, and has not."""
        self._is_telling = False
        """Whether the next exchange that is due is with all of these."""

    def tunnel_up(self) -> None:
        """A tunnel has come up: begin, unless exchanges are going on already."""
        if self._untold and self._has_moved():
            if not self._is_telling:
                self._is_telling = True
                self._rest()
        elif not self._partners and self._context.deadlines.get(Timer.GOSSIP) is None:
            self._context.schedule(self._context.vary(FIRST_DELAY, 0.3), Timer.GOSSIP)

    def lost(self, peer: Peer) -> None:
        """The tunnel to ``peer`` has fallen silent."""
        self._forget_lost()
        self._lost[peer.prefix] = peer, self._context.now
        if self._has_moved():
            self._untold[peer.prefix] = peer

    def moved(self) -> None:
        """This node is reached at other endpoints: tell all who are, or just were, its neighbours."""
        self._moved_at = self._context.now
        self._forget_lost()
        self._untold = {prefix: peer for prefix, (peer, _) in self._lost.items()} | self._neighbours()
        self._tell(list(self._untold.values()))
        # Requests that are under way still name the old endpoints.
        self._untold |= {tunnel.peer.prefix: tunnel.peer for tunnel in self._tunnels if not tunnel.up}

    def _forget_lost(self) -> None:
        since = self._context.now - RECENTLY
        self._lost = {prefix: found for prefix, found in self._lost.items() if found[1] > since}

    def _has_moved(self) -> bool:
        return self._context.now - self._moved_at < RECENTLY

    def flood(self) -> None:
        """Tell all neighbours now that there is something new."""
        self._tell(self._neighbours().values())

    def _tell(self, peers: Iterable[Peer]) -> None:
        for peer in peers:
            if peer.prefix in self._partners:
                self._behind.add(peer.prefix)
            else:
                self._begin(peer)

    def retime(self, interval: float) -> None:
        """Let the regular interval be ``interval`` seconds from now on."""
        shorter = interval < self.interval
        self.interval = interval
        if shorter and self._context.deadlines.get(Timer.GOSSIP) is not None:
            self._rest()

    def due(self) -> None:
        """Begin an exchange. Without neighbours there is nothing to do until a tunnel is up."""
        if self._is_telling:
            self._is_telling = False
            self._tell([peer for peer in self._untold.values() if self._context.valid(peer)])
            return
        neighbours = [peer for peer in self._neighbours().values() if peer.prefix not in self._partners]
        if neighbours:
            self._begin(self._context.random.choice(neighbours))

    def answered(self, prefix: IPv6Network) -> None:
        """The exchange with the owner of ``prefix`` has succeeded."""
        if self._conclude(prefix):
            self._failures = 0
            if prefix not in self._behind:
                self._untold.pop(prefix, None)
            self._tell_again(prefix)
            self._rest()

    def failed(self, prefix: IPv6Network) -> None:
        """The exchange with the owner of ``prefix`` has failed."""
        if self._conclude(prefix):
            self._behind.discard(prefix)
            self._failures += 1
            delay = min(self._context.backoff(RETRY_DELAY, self._failures), self.interval)
            planned = self._context.deadlines.get(Timer.GOSSIP)
            if planned is None or planned > self._context.now + delay:
                self._context.schedule(delay, Timer.GOSSIP)

    def timed_out(self, number: int) -> None:
        """The exchange with this number has taken too long."""
        for prefix in [prefix for prefix, found in self._partners.items() if found == number]:
            self.failed(prefix)

    def _neighbours(self) -> dict[IPv6Network, Peer]:
        return {peer.prefix: peer for peer in self._tunnels.neighbours()}

    def _begin(self, peer: Peer) -> None:
        number = self._partners[peer.prefix] = next(self._numbers)
        records = self._book.sample(self._context.settings.gossip_records, exclude=(peer.prefix,))
        self._context.emit(ExchangeGossip(peer, records))
        self._context.schedule(self._context.settings.gossip_timeout, Timer.GOSSIP_TIMEOUT, number)

    def _conclude(self, prefix: IPv6Network) -> bool:
        number = self._partners.pop(prefix, None)
        if number is None:
            return False
        self._context.deadlines.clear(Timer.GOSSIP_TIMEOUT, number)
        return True

    def _tell_again(self, prefix: IPv6Network) -> None:
        peer = (self._untold | self._neighbours()).get(prefix) if prefix in self._behind else None
        self._behind.discard(prefix)
        if peer is not None:
            self._begin(peer)

    def _rest(self) -> None:
        delay = self._context.vary(*((FIRST_DELAY, 0.3) if self._is_telling else (self.interval, 0.25)))
        self._context.schedule(delay, Timer.GOSSIP)
