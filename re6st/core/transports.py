"""Which transport a tunnel is asked for: UDP, or TCP where UDP does not get through.

UDP is right for tunnels, since TCP inside of TCP retransmits twice. Yet some networks let only TCP out. That
shows when a peer answers its control API, which is TCP, and the tunnel that it offers never comes up:

    over UDP: failed ----> TCP at once ----> up: UDP is tried again after a while, ever more rarely
                              |
                              +----> failed: it is not the transport; forget everything about this peer

The memory is per peer, because the obstacle may be at either end. When UDP has failed and TCP has worked with
:data:`SUSPECTS` peers, and UDP with nobody since, the obstacle is at our own end. All others are asked for
TCP at once then. The first tunnel that comes up over UDP, whoever dialled it, ends this suspicion, and so
does a change of the host's network.

Trying UDP again costs nothing: the tunnel over TCP stays until the one over UDP is up, at both ends. Then
routes are moved from one to the other before it ends: by its dialer, and its listener waits for that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.book import AddressBook
from re6st.core.context import Context
from re6st.core.effects import Drain
from re6st.core.tunnels import Tunnel, TunnelTable
from re6st.messages import Transport
from re6st.peers import Peer

logger = logging.getLogger(__name__)

SUSPECTS = 2
"""Peers with which only TCP has worked, after which it is assumed of all."""

REMEMBERED = 512
"""Peers whose transport is remembered."""


@dataclass(slots=True)
class Memory:
    """What was seen of one peer."""

    failures: int = 0
    """Tunnels over UDP in a row that did not come up."""
    until: float = float("-inf")
    """When UDP is worth another try (monotonic seconds)."""


def keeps(standing: Tunnel, transport: Transport, fragments: bool) -> bool:
    """Whether the tunnel ``standing`` stays until a new one to the same peer is up, which takes its place.

    That is better if it is over UDP instead of TCP, if it cuts packets on a path where that has to be, or
    if it does not where that need not be any more.
    """
    if not standing.up or transport is Transport.TCP:
        return False
    return standing.transport is Transport.TCP or fragments != standing.fragments


class Transports:
    """Remembers where UDP does not get through."""

    def __init__(self, context: Context, book: AddressBook, tunnels: TunnelTable) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels
        self._memories: dict[IPv6Network, Memory] = {}
        self._suspects: set[IPv6Network] = set()

    @property
    def blocked(self) -> bool:
        """Whether UDP seems to be blocked at our own end."""
        return len(self._suspects) >= SUSPECTS

    def choose(self, peer: Peer) -> Transport:
        """Return the transport that ``peer`` is to be asked for."""
        memory = self._memories.get(peer.prefix)
        if memory is None:
            return Transport.TCP if self.blocked else Transport.UDP
        return Transport.TCP if self._context.now < memory.until else Transport.UDP

    def failed(self, tunnel: Tunnel) -> bool:
        """Take note that ``tunnel``, which was offered to us, did not come up.

        Return whether the peer is worth being asked again at once, for the other transport.
        """
        if tunnel.transport is Transport.TCP:
            self._memories.pop(tunnel.peer.prefix, None)
            return False
        memory = self._remember(tunnel.peer)
        memory.failures += 1
        self._postpone(memory)
        logger.info("No tunnel over UDP to %s, which answers over TCP", tunnel.peer.name)
        if tunnel.replacing:
            self.sweep()
        return not self._tunnels.connected(tunnel.peer.prefix)

    def came_up(self, tunnel: Tunnel) -> None:
        """Take note that ``tunnel`` is up."""
        if tunnel.transport is Transport.TCP:
            if tunnel.outgoing:
                self._suspect(tunnel.peer)
            return
        if self.blocked:
            logger.info("UDP gets through again")
            self._retry_all()
        self._suspects.clear()
        self._memories.pop(tunnel.peer.prefix, None)
        for other in self._tunnels.live(tunnel.peer.prefix):
            if other is not tunnel and keeps(other, tunnel.transport, tunnel.fragments):
                self._drain(other)
        if tunnel.replacing:
            self.sweep()

    def network_changed(self) -> None:
        """The host is elsewhere: what was seen of UDP may not hold any more."""
        self._suspects.clear()
        self._retry_all()
        self.sweep()

    def sweep(self) -> None:
        """Try UDP again with one peer for which it is time."""
        for tunnel in self._tunnels:
            if not (tunnel.outgoing and tunnel.up):
                continue
            siblings = self._tunnels.live(tunnel.peer.prefix)
            if any(other.up and keeps(tunnel, other.transport, other.fragments) for other in siblings):
                self._drain(tunnel)  # the daemon before had begun with that
                continue
            if tunnel.transport is Transport.UDP:
                continue
            entry, memory = self._book.get(tunnel.peer.prefix), self._remember(tunnel.peer)
            is_due = memory.until <= self._context.now and len(siblings) == 1
            if is_due and entry is not None and entry.peer.reachable:
                memory.failures += 1
                self._postpone(memory)
                self._tunnels.request(entry.peer, replace=True, replacing=True, transport=Transport.UDP)
                return

    def _drain(self, tunnel: Tunnel) -> None:
        patience, drain = self._context.settings.drain_timeout, Drain.TUNNEL
        if not tunnel.outgoing:
            patience, drain = 1.5 * patience, Drain.PEER
        self._tunnels.drain(tunnel, "a better one takes its place", patience, drain)

    def _suspect(self, peer: Peer) -> None:
        is_known = peer.prefix in self._memories
        memory = self._remember(peer)
        if not is_known:
            self._postpone(memory)
        elif memory.failures:
            was_blocked = self.blocked
            self._suspects.add(peer.prefix)
            if self.blocked and not was_blocked:
                logger.warning("UDP seems to be blocked here: tunnels are made over TCP, which is slower")

    def _remember(self, peer: Peer) -> Memory:
        memory = self._memories.pop(peer.prefix, None) or Memory()
        self._memories[peer.prefix] = memory
        if len(self._memories) > REMEMBERED:
            forgotten = next(iter(self._memories))
            del self._memories[forgotten]
            self._suspects.discard(forgotten)
        return memory

    def _postpone(self, memory: Memory) -> None:
        delay = self._context.backoff(self._context.settings.udp_retry, max(1, memory.failures))
        memory.until = self._context.now + delay

    def _retry_all(self) -> None:
        for memory in self._memories.values():
            memory.failures = 0
            memory.until = self._context.now
