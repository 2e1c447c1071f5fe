"""Gossip: exchanging random samples of peer records with random neighbours.

One exchange is under way at a time. Regularly there is one per interval; soon after the first tunnel is up
comes the first one, so that a newcomer is known quickly; and when a new signed document has come into
force, one with each of several neighbours in quick succession, so that it floods the network in
seconds: an exchange carries the versions of the documents, and who is behind fetches.
"""

from __future__ import annotations

from ipaddress import IPv6Network

from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import ExchangeGossip
from re6st.core.tunnels import TunnelTable

FIRST_DELAY = 1.5
"""Seconds from the first tunnel to the first exchange: routes need that long."""

FLOOD_DELAY = 0.3
"""Seconds between exchanges while a document is flooded."""

FLOOD_WIDTH = 10
"""Neighbours that are told of a new document at once."""

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
        self._partner: IPv6Network | None = None
        self._flood: list[IPv6Network] = []
        self._failures = 0

    def tunnel_up(self) -> None:
        """A tunnel has come up: begin, unless exchanges are going on already."""
        if self._partner is None and self._context.deadlines.get(Timer.GOSSIP) is None:
            self._context.schedule(self._context.vary(FIRST_DELAY, 0.3), Timer.GOSSIP)

    def flood(self) -> None:
        """Tell several neighbours soon that there is something new."""
        neighbours = [peer.prefix for peer in self._tunnels.neighbours()]
        self._context.random.shuffle(neighbours)
        self._flood = neighbours[:FLOOD_WIDTH]
        if self._flood and self._partner is None:
            self._context.schedule(self._context.vary(FLOOD_DELAY, 0.5), Timer.GOSSIP)

    def retime(self, interval: float) -> None:
        """Let the regular interval be ``interval`` seconds from now on."""
        shorter = interval < self.interval
        self.interval = interval
        if shorter and self._context.deadlines.get(Timer.GOSSIP) is not None:
            self._rest()

    def due(self) -> None:
        """Begin an exchange. Without neighbours there is nothing to do until a tunnel is up."""
        neighbours = {peer.prefix: peer for peer in self._tunnels.neighbours()}
        if self._partner is not None or not neighbours:
            return
        flooded = [prefix for prefix in self._flood if prefix in neighbours]
        self._flood = flooded[1:]
        prefix = flooded[0] if flooded else self._context.random.choice(list(neighbours))
        self._partner = prefix
        records = self._book.sample(self._context.settings.gossip_records, exclude=(prefix,))
        self._context.emit(ExchangeGossip(neighbours[prefix], records))
        self._context.schedule(self._context.settings.gossip_timeout, Timer.GOSSIP_TIMEOUT)

    def answered(self, prefix: IPv6Network) -> None:
        """The exchange with the owner of ``prefix`` has succeeded."""
        if self._conclude(prefix):
            self._failures = 0
            self._rest()

    def failed(self, prefix: IPv6Network | None = None) -> None:
        """The exchange with the owner of ``prefix`` (None: whoever it was with) has failed."""
        if self._conclude(prefix or self._partner):
            self._failures += 1
            delay = self._context.backoff(RETRY_DELAY, self._failures)
            self._context.schedule(min(delay, self.interval), Timer.GOSSIP)

    def _conclude(self, prefix: IPv6Network | None) -> bool:
        if prefix is None or prefix != self._partner:
            return False
        self._partner = None
        self._context.deadlines.clear(Timer.GOSSIP_TIMEOUT)
        return True

    def _rest(self) -> None:
        delay = (
            self._context.vary(FLOOD_DELAY, 0.5) if self._flood else self._context.vary(self.interval, 0.25)
        )
        self._context.schedule(delay, Timer.GOSSIP)
