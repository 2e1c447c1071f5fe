"""Admission: what to answer to a peer that asks for a tunnel.

Two nodes may ask each other at the same time; exactly one of the two requests must lead to a tunnel,
whatever the delays. The rule is *the request of the lower prefix wins*, and each end can apply it alone:

- A request meets our own *attempt* (requested, or offered and not up yet). If our prefix is the lower one we
  refuse, because the peer, by the same rule, is about to accept ours or has done so. Otherwise we abandon our
  attempt and accept; the peer refuses our request, and nobody misses the answer.
- A request meets a tunnel that *the peer* dialled and that is not up. The peer asks only when it knows of no
  tunnel, so it has given that one up, and we do too.
- A request meets a tunnel that is *up*. The peer may be wrong about it (its last answer got lost) or right
  (it noticed the end before us). It says ``replace`` when it knows better, and a new boot id says the
  same. Otherwise we refuse; it will ask again, with ``replace``.

``replace`` does not overrule the first case: two nodes that replace their tunnel at the same time are
just another crossing. An offer that a peer has abandoned meanwhile ends by the deadline of the listener.

A full node names other peers. A peer that has no tunnel at all is let in even then, in place of a tunnel
that another one dialled: in a network with few reachable nodes everybody else would be locked out by
those who came first. What one peer can obtain in this way is bounded (:mod:`re6st.core.claims`).

A tunnel that is replaced gives its port back only when its driver has ended. So that port is counted as
room, nothing ends unless there is room, and the request waits for its answer until the old driver is gone.
A peer thus has at most one incoming tunnel that opens or closes, however often it asks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.book import AddressBook
from re6st.core.claims import Claims
from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import Drain, RefuseTunnel
from re6st.core.events import TunnelRequested
from re6st.core.transports import keeps
from re6st.core.tunnels import Tunnel, TunnelTable
from re6st.messages import RefusalReason, Transport
from re6st.peers import Peer
from re6st.tunnel.lifecycle import TunnelState

HINTS = 6
"""Peers named by a refusal."""

SHELTERED = 60.0
"""Seconds during which a new tunnel is not given up for the sake of an isolated peer."""

RESERVED = 30.0
"""Seconds for which the room made for an isolated peer is kept for it."""

PATIENCE = 6.0
"""Seconds for which a request waits for an earlier tunnel to end: less than its peer waits for the answer."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that will be granted when a tunnel of the same peer has ended."""

    event: TunnelRequested
    until: float
    """When it is refused all the same (monotonic seconds)."""


class Admission:
    """Answers requests."""

    def __init__(self, context: Context, book: AddressBook, tunnels: TunnelTable) -> None:
        self._context = context
        self._book = book
        self._tunnels = tunnels
        self._next_eviction = float("-inf")
        self._reserved_for: IPv6Network | None = None
        self._reserved_until = float("-inf")
        self._claims = Claims()
        self._waiting: dict[IPv6Network, _Waiting] = {}

    def decide(self, event: TunnelRequested) -> None:
        """Offer or refuse, now or when an earlier tunnel of the peer has ended."""
        self._decide(event, waited=False)

    def resume(self) -> None:
        """Tunnels may have ended, or time has passed: answer requests that waited for that."""
        for prefix, waiting in list(self._waiting.items()):
            if not self._tunnels.leaving(prefix):
                del self._waiting[prefix]
                self._decide(waiting.event, waited=True)
            elif waiting.until <= self._context.now:
                del self._waiting[prefix]
                self._refuse(waiting.event, RefusalReason.UNAVAILABLE, "your last tunnel does not end")
        self._plan()

    def refuse_waiting(self, detail: str) -> None:
        """Refuse all requests that wait for something."""
        for waiting in self._waiting.values():
            self._refuse(waiting.event, RefusalReason.UNAVAILABLE, detail)
        self._waiting.clear()
        self._plan()

    def came_up(self, tunnel: Tunnel) -> None:
        """``tunnel`` is up."""
        if not tunnel.outgoing:
            self._claims.used(tunnel.peer.prefix, self._context.now)

    def _decide(self, event: TunnelRequested, *, waited: bool) -> None:
        obstacle = self._obstacle(event)
        if obstacle is not None:
            self._refuse(event, *obstacle)
            return
        standing = self._tunnels.live(event.peer.prefix)
        if any(self._stands(tunnel, event) for tunnel in standing):
            self._refuse(event, RefusalReason.ALREADY_CONNECTED, "there is a tunnel already, or soon will be")
            return
        transport = Transport.UDP if Transport.UDP in event.transports else Transport.TCP
        fragments = event.fragments and transport is Transport.UDP
        replaced = [
            tunnel
            for tunnel in standing
            if not (keeps(tunnel, transport, fragments) and tunnel.boot_id == event.boot_id)
        ]
        if not self._room(event, replaced, waited=waited):
            self._make_room(event, replaced)
            self._refuse(event, RefusalReason.FULL, "all tunnels are taken")
            return
        if not waited and not self._claims.spend(event.peer.prefix, self._context.now):
            self._refuse(event, RefusalReason.UNAVAILABLE, "you ask for tunnels too often")
            return
        for tunnel in self._tunnels.draining(event.peer.prefix):
            self._tunnels.end(tunnel, "the peer asks for a new one", notify=True)
        for tunnel in replaced:
            # A tunnel that is up is told about: the peer may know it under another boot id only.
            self._tunnels.end(tunnel, "the peer asks for a new one", notify=tunnel.up)
        if self._tunnels.leaving(event.peer.prefix):
            self._wait(event)
            return
        self._claims.offered(event.peer.prefix, self._context.now)
        mtu = min(event.mtu, self._context.settings.mtu)
        self._tunnels.offer(event.request, event.peer, event.boot_id, mtu, transport, fragments=fragments)

    def _wait(self, event: TunnelRequested) -> None:
        """Answer ``event`` when all tunnels that the peer dialled and that were ended are gone."""
        former = self._waiting.pop(event.peer.prefix, None)
        if former is not None:
            self._refuse(former.event, RefusalReason.UNAVAILABLE, "you have asked again")
        until = self._context.now + PATIENCE
        self._waiting[event.peer.prefix] = _Waiting(event, until)
        self._plan()

    def _plan(self) -> None:
        first = min((waiting.until for waiting in self._waiting.values()), default=None)
        if first is None:
            self._context.deadlines.clear(Timer.ADMISSION)
        else:
            self._context.deadlines.set(first, Timer.ADMISSION)

    def _obstacle(self, event: TunnelRequested) -> tuple[RefusalReason, str] | None:
        settings = self._context.settings
        if event.protocol != settings.protocol:
            detail = f"this node speaks version {settings.protocol} of the protocol, not {event.protocol}"
            return RefusalReason.INCOMPATIBLE, detail
        if event.peer.prefix == settings.prefix:
            return RefusalReason.NOT_ALLOWED, "this is your own prefix"
        if not self._context.valid(event.peer):
            return RefusalReason.NOT_ALLOWED, "your certificate was revoked or has expired"
        if not set(event.drivers) & set(settings.drivers):
            detail = f"this node has the tunnel drivers {', '.join(settings.drivers)} only"
            return RefusalReason.INCOMPATIBLE, detail
        if not event.transports:
            return RefusalReason.INCOMPATIBLE, "tunnels are made over UDP or TCP"
        return None

    def _stands(self, tunnel: Tunnel, event: TunnelRequested) -> bool:
        """Whether ``tunnel``, which is live, is a reason to refuse ``event``."""
        reborn = bool(tunnel.boot_id) and tunnel.boot_id != event.boot_id
        if tunnel.up:
            return not (event.replace or reborn)
        if tunnel.outgoing:
            return self._context.settings.prefix < event.peer.prefix and not reborn
        return False

    def _room(self, event: TunnelRequested, replaced: Collection[Tunnel], *, waited: bool) -> bool:
        """Whether there is a port, and a slot that our own dials do not need, once ``replaced`` are gone.

        A peer that has ``waited`` takes the port that it has given back itself.
        """
        prefix = event.peer.prefix
        ports = self._tunnels.free_ports + len(self._tunnels.leaving(prefix))
        ports += sum(not tunnel.outgoing for tunnel in replaced)
        reserved = self._context.now < self._reserved_until and self._reserved_for != prefix
        if reserved and not waited and not any(not tunnel.outgoing for tunnel in replaced):
            ports -= 1
        # The slot of a tunnel that routing has used comes back much later.
        slots = self._tunnels.free_slots + sum(not tunnel.up for tunnel in replaced)
        slots += sum(tunnel.state is TunnelState.CLOSING for tunnel in self._tunnels.leaving(prefix))
        outgoing = sum(tunnel not in replaced for tunnel in self._tunnels.outgoing())
        own_need = self._context.settings.outgoing + 1 - outgoing
        return ports > 0 and slots > max(0, own_need)

    def _make_room(self, event: TunnelRequested, replaced: Collection[Tunnel]) -> None:
        """Drain a tunnel for the sake of an isolated peer, which finds room when it asks again."""
        now = self._context.now
        if not event.isolated or replaced or now < self._next_eviction:
            return
        if not self._claims.may_evict(event.peer.prefix, now):
            return
        others = [
            tunnel
            for tunnel in self._tunnels
            if tunnel.up and not tunnel.outgoing and now - tunnel.life.since > SHELTERED
        ]
        if others:
            self._next_eviction = now + self._context.settings.eviction_interval
            self._claims.evicted(event.peer.prefix, now)
            evicted = self._context.random.choice(others)
            self._reserved_for = event.peer.prefix
            self._reserved_until = now + RESERVED
            reason = "room is needed for a node without any tunnel"
            self._tunnels.drain(evicted, reason, self._context.settings.eviction_patience, Drain.TUNNEL)

    def _refuse(self, event: TunnelRequested, reason: RefusalReason, detail: str) -> None:
        hints: tuple[Peer, ...] = ()
        if reason is RefusalReason.FULL:
            hints = self._book.draw_roomy(HINTS, exclude=event.peer.prefix)
        self._context.emit(RefuseTunnel(event.request, reason, detail, hints))
