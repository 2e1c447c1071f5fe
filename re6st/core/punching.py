"""Hole punching: with which peers that nobody can dial a direct tunnel is tried, and what is remembered.

Two nodes behind routers that nobody has told to forward a port can still have a direct tunnel: each sends to
where the other's packets come from, and its router takes what comes back for an answer. Where that is they
tell each other over the overlay, so a node begins with it when it has its first tunnel. It does so only while
it cannot be dialled itself; otherwise the peer can dial.

Whether it works depends on both routers and does not change by trying again:

    try ---- up: forget all failures
     |
     +------ answered, and not up: this peer waits, ever longer (``punch_delay``)
     |         after SUSPECTS of these in a row, whatever the peer: it is our own router. Everybody waits,
     |         ever longer (``punch_pause``)
     +------ no answer over the overlay: says nothing about routers, and is left to dialling

A change of the host's network, which puts it behind another router, ends all these waits. One attempt is
made at a time, since most fail where the own router is the obstacle.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.context import Context
from re6st.core.tunnels import TunnelTable
from re6st.peers import Peer

SUSPECTS = 3
"""Attempts in a row that come to nothing, after which the own router is suspected."""

REMEMBERED = 1024
"""Peers with which attempts came to nothing that are remembered."""


@dataclass(slots=True)
class Memory:
    """What was seen of one peer."""

    failures: int = 0
    """Attempts in a row that came to nothing."""
    until: float = float("-inf")
    """When another one is worth it (monotonic seconds)."""


class Punching:
    """Remembers where hole punching works."""

    def __init__(self, context: Context, tunnels: TunnelTable) -> None:
        self._context = context
        self._tunnels = tunnels
        self._memories: dict[IPv6Network, Memory] = {}
        self._failures = 0
        self._pause_until = float("-inf")
        self.needed = True
        """Nobody can dial this node."""

    def possible(self, peer: Peer) -> bool:
        """Whether an attempt at a tunnel to ``peer`` is worth it now."""
        now = self._context.now
        if not (peer.punchable and self.needed) or now < self._pause_until or self._tunnels.isolated:
            return False
        if any(tunnel.punched and tunnel.life.live and not tunnel.up for tunnel in self._tunnels):
            return False
        memory = self._memories.get(peer.prefix)
        return memory is None or memory.until <= now

    def succeeded(self, peer: Peer) -> None:
        """A tunnel to ``peer`` that was punched is up."""
        self._failures = 0
        self._memories.pop(peer.prefix, None)

    def failed(self, peer: Peer) -> None:
        """``peer`` has answered, but there is no tunnel."""
        settings = self._context.settings
        memory = self._memories.pop(peer.prefix, None) or Memory()
        memory.failures += 1
        memory.until = self._context.now + self._context.backoff(settings.punch_delay, memory.failures)
        self._memories[peer.prefix] = memory
        if len(self._memories) > REMEMBERED:
            del self._memories[next(iter(self._memories))]
        self._failures += 1
        if self._failures >= SUSPECTS:
            pause = self._context.backoff(settings.punch_pause, self._failures - SUSPECTS + 1)
            self._pause_until = self._context.now + pause

    def network_changed(self) -> None:
        """The host may be behind another router."""
        self._memories.clear()
        self._failures = 0
        self._pause_until = float("-inf")
