"""Dialling: whom to ask for a tunnel, and how often.

A node wants a number of outgoing tunnels, to random peers to which it has no tunnel in either direction;
in a network smaller than that it ends up with one to everybody. Several dials are under way at once. A
peer that fails is left alone for a while, ever longer. A *full* peer names others (hints), which are
tried first. When dial after dial comes to nothing although tunnels are up, the network has no room left,
and dials become rare.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from ipaddress import IPv6Network

from re6st.core.book import AddressBook, Entry
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.punching import Punching
from re6st.core.transports import Transports
from re6st.core.tunnels import Tunnel, TunnelTable
from re6st.messages import RefusalReason, Transport
from re6st.peers import Peer

logger = logging.getLogger(__name__)

HINTS = 32
"""Hints that are remembered."""

SETTLED_AFTER = 60.0
"""Seconds after which a tunnel that ends is no failure of its peer."""

REDIAL_DELAY = 4.0
"""Seconds, roughly, before a peer whose tunnel has ended is dialled again."""

DEATHS_FORGOTTEN_AFTER = 1800.0
"""Seconds after which a tunnel that fell silent does not count any more when the next one does."""

ISOLATION_DELAY = (0.3, 30.0)
"""First and longest wait before a node that has lost all its tunnels at once dials again, seconds."""

ISOLATING_TIME = 10.0
"""Seconds within which tunnels fall silent that have the same reason to do so."""

LASTING_AFTER = 5.0
"""Seconds for which a tunnel must have been up before its end is no sign of a path that comes and goes."""

MOVE_TIME = 10.0
"""Seconds after a change of this host's network in which a tunnel that ends has that to blame."""

MOVED_DELAY = 0.3
"""Seconds, roughly, before its peer is dialled again then."""

OTHER_TRANSPORT_DELAY = 0.2
"""Seconds, roughly, before a peer that cannot be reached over UDP is asked for TCP."""

REFUSALS_UNTIL_LOCKED_OUT = 2
"""A node without any tunnel asks a peer that was full so many times to make room."""

MISSES_UNTIL_LOCKED_OUT = 20
"""After so many dials in a row without success it asks everybody to."""

LOCKED_OUT_DELAY = (2.0, 15.0)
"""First and longest wait before a node without any tunnel asks a full peer again, seconds. The room that
the peer makes is kept for longer than that."""

SLOWEST_DIALS = 60.0
"""Longest pause between dials in a network without room, seconds."""


class Dialling:
    """Keeps the number of outgoing tunnels at what is wanted."""

    def __init__(
        self,
        context: Context,
        book: AddressBook,
        tunnels: TunnelTable,
        transports: Transports,
        punching: Punching,
    ) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels
        self._transports = transports
        self._punching = punching
        self._hints: deque[IPv6Network] = deque(maxlen=HINTS)
        self._misses = 0
        self._pause_until = float("-inf")
        self._moved_at = float("-inf")
        self._isolations = 0
        """Times in a row that all tunnels fell silent soon after they had come up."""
        self._cut_off_at: float | None = None
        """When all tunnels had fallen silent, unless somebody has been reached since."""
        self._idle_until: float | None = float("-inf")
        self._satisfied = False
        """Whether as many outgoing tunnels were up as were wanted."""
        self.exhausted = False
        """Whether nobody is left in the address book who could be dialled now."""

    def wake(self) -> None:
        """Look for peers again: the book or the tunnels have changed."""
        self._idle_until = float("-inf")

    def network_changed(self) -> None:
        """The host is elsewhere, or was asleep: failures until now say nothing about peers any more."""
        self._moved_at = self._context.now
        self._misses = 0
        self._pause_until = float("-inf")
        for entry in self._book:
            # Nobody knows how long the host was away: who was full then may have room now.
            entry.failures = entry.deaths = 0
            entry.not_before = min(entry.not_before, self._context.now)
        self.wake()

    def pursue(self, wanted: int) -> None:
        """Dial until there are ``wanted`` outgoing tunnels or attempts at one."""
        outgoing = self._tunnels.outgoing()
        missing = wanted - len(outgoing)
        self._satisfied = sum(tunnel.up for tunnel in outgoing) >= wanted
        if missing <= 0:
            self.exhausted = False
            return
        if self._resting():
            return
        attempts = sum(not tunnel.up for tunnel in outgoing)
        for _ in range(min(missing, self._parallel() - attempts)):
            entry = self._choose()
            if entry is None:
                self.exhausted = True
                self._idle_until = self._book.next_retry(self._usable)
                self._resting()
                return
            self.exhausted = False
            locked_out = self._tunnels.isolated and (
                entry.refusals >= REFUSALS_UNTIL_LOCKED_OUT or self._misses >= MISSES_UNTIL_LOCKED_OUT
            )
            if self._request(entry, isolated=locked_out) is None:
                return

    def _request(self, entry: Entry, *, isolated: bool) -> Tunnel | None:
        punched = not entry.peer.reachable
        transport = Transport.UDP if punched else self._transports.choose(entry.peer)
        return self._tunnels.request(
            entry.peer, replace=entry.replace, isolated=isolated, transport=transport, punched=punched
        )

    def _resting(self) -> bool:
        """Return whether it is too early to dial, having set the deadline for when it is not."""
        if self._idle_until is None:
            self._context.deadlines.clear(Timer.DIAL)
            return True
        resume = max(self._idle_until, self._pause_until)
        if resume <= self._context.now:
            return False
        self._context.deadlines.set(resume, Timer.DIAL)
        return True

    def _parallel(self) -> int:
        """Return how many dials may be under way at once."""
        if self._misses < self._context.settings.patience or self._tunnels.isolated:
            return self._context.settings.attempts
        return 1

    def newest(self, peer: Peer) -> Peer:
        """Return the newest record of ``peer``."""
        entry = self._book.get(peer.prefix)
        return entry.peer if entry is not None else peer

    def candidates(self) -> bool:
        """Whether there is somebody to dial right now."""
        return self._book.pick(self._context.now, self._usable) is not None

    def _usable(self, peer: Peer) -> bool:
        if self._tunnels.connected(peer.prefix) or not self._context.valid(peer):
            return False
        return peer.reachable or self._punching.possible(peer)

    def _choose(self) -> Entry | None:
        while self._hints:
            entry = self._book.get(self._hints.popleft())
            if (
                entry is not None
                and entry.peer.reachable
                and entry.not_before <= self._context.now
                and self._usable(entry.peer)
            ):
                return entry
        return self._book.pick(self._context.now, self._usable)

    # -- experience -------------------------------------------------------------------------------------

    def succeeded(self, tunnel: Tunnel) -> None:
        """The outgoing ``tunnel`` is up."""
        peer = tunnel.peer
        if tunnel.punched:
            self._punching.succeeded(peer)
        self.wake()
        self._misses = 0
        self._pause_until = float("-inf")
        self._book.succeeded(peer.prefix)

    def unanswered(self, tunnel: Tunnel) -> None:
        """The request for ``tunnel`` got no answer."""
        self.failed(tunnel.peer, counts=not tunnel.punched)

    def failed(self, peer: Peer, *, counts: bool = True) -> None:
        """A dial came to nothing; ``counts``: which says something about the room in the network."""
        entry = self._book.get(peer.prefix)
        if entry is not None:
            entry.failures += 1
            delay = self._context.backoff(self._context.settings.failure_delay, entry.failures)
            entry.not_before = self._context.now + delay
        if counts:
            self._miss()
        self.wake()

    def not_connected(self, tunnel: Tunnel) -> None:
        """An outgoing tunnel that was offered to us did not come up."""
        if tunnel.punched:
            self._punching.failed(tunnel.peer)
            self.wake()
        elif self._transports.failed(tunnel):
            self.postpone(tunnel.peer, OTHER_TRANSPORT_DELAY)
        elif not self._tunnels.connected(tunnel.peer.prefix):
            self.failed(tunnel.peer)

    def lost(self, tunnel: Tunnel, since: float) -> None:
        """An outgoing tunnel that was up ``since`` has ended without our doing."""
        if self._context.now - since < SETTLED_AFTER:
            self.failed(tunnel.peer)
        else:
            self.postpone(tunnel.peer, REDIAL_DELAY)

    def died(self, peer: Peer, since: float) -> None:
        """A tunnel to ``peer``, whoever dialled it, was up ``since`` and fell silent."""
        entry = self._book.get(peer.prefix)
        if entry is None:
            return
        now = self._context.now
        if now - self._moved_at < MOVE_TIME:
            self.postpone(peer, MOVED_DELAY)
            return
        entry.deaths = entry.deaths + 1 if now - entry.died_at < DEATHS_FORGOTTEN_AFTER else 1
        entry.died_at = now
        delay = self._context.backoff(self._context.settings.death_delay, entry.deaths)
        self._book.postpone(peer.prefix, max(entry.not_before, now + delay))
        if self._tunnels.isolated:
            self._isolations = 1 if now - since >= LASTING_AFTER else self._isolations + 1
            self._cut_off_at = now
            self._absolve(now, self._context.backoff(ISOLATION_DELAY, self._isolations))
        self.wake()

    def reached(self) -> None:
        """Somebody outside has answered. If all had fallen silent before, they may be there again, too."""
        if self._cut_off_at is not None:
            self._absolve(self._cut_off_at, 0.0)
            self._cut_off_at = None
            self.wake()

    def _absolve(self, cut_off_at: float, delay: float) -> None:
        """Dial those soon that had fallen silent by ``cut_off_at``: this host is to blame, rather than they.

        Its router may start anew, for example. The packets of the dials find out when it is back.
        """
        for entry in self._book:
            if cut_off_at - ISOLATING_TIME < entry.died_at <= cut_off_at:
                entry.deaths = entry.failures = 0
                again = self._context.now + self._context.vary(delay, 0.5)
                entry.not_before = min(entry.not_before, again)

    def postpone(self, peer: Peer, delay: float) -> None:
        """Leave ``peer`` alone for about ``delay`` seconds."""
        self._book.postpone(peer.prefix, self._context.now + self._context.vary(delay, 0.5))
        self.wake()

    def refused(self, tunnel: Tunnel, reason: RefusalReason, hints: Iterable[Peer]) -> None:
        """The peer will not have our ``tunnel``."""
        peer = tunnel.peer
        self._hints.extend(hint.prefix for hint in hints)
        entry = self._book.get(peer.prefix)
        if tunnel.punched and reason is RefusalReason.UNAVAILABLE:
            self._punching.failed(peer)
            self.wake()
        elif reason is RefusalReason.UNAVAILABLE or entry is None:
            self.failed(peer)
        elif reason is RefusalReason.FULL:
            entry.refusals += 1
            settings = self._context.settings
            # A full peer makes room for a node that has no tunnel at all: it is worth asking again soon.
            delays = LOCKED_OUT_DELAY if self._tunnels.isolated else settings.refusal_delay
            delay = self._context.backoff(delays, entry.refusals)
            self._book.postpone(peer.prefix, self._context.now + delay)
            self._miss()
        elif reason is RefusalReason.ALREADY_CONNECTED:
            # Either its own request to us is on the way, which is a matter of seconds, or it has not
            # noticed the end of our last tunnel, which `replace` then tells.
            entry.replace = True
            self.postpone(peer, REDIAL_DELAY)
        else:
            self.postpone(peer, self._context.settings.stranger_delay)
            self._miss()

    def _miss(self) -> None:
        if self._satisfied:
            return  # this dial was for something else, and says nothing of the room that there is
        self._misses += 1
        beyond = self._misses - self._context.settings.patience
        if beyond >= 0:
            pause = 1.0 if self._tunnels.isolated else min(SLOWEST_DIALS, 2.0 ** min(beyond / 4, 10))
            self._pause_until = self._context.now + self._context.vary(pause, 0.25)
        self.wake()
