"""The table of all tunnels of a node: it moves their life-cycles, and owns slots, ports and handles.

The table knows how tunnels live (:mod:`re6st.tunnel.lifecycle`), not which ones are wanted: that is the
matter of dialling, admission, rotation and validity. A *slot* is one interface of a fixed pool
(:mod:`re6st.tunnel.pool`); each tunnel holds its slot from the request on, so that an accepted offer never
lacks one. A *handle* is the number by which adapters call a tunnel.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import (
    AttachTunnel,
    CancelRequest,
    CloseTunnel,
    DetachTunnel,
    DialTunnel,
    Drain,
    DrainTunnel,
    OfferTunnel,
    RequestTunnel,
)
from re6st.core.events import TunnelAdopted
from re6st.core.narrow_paths import NarrowPaths
from re6st.messages import Transport, TunnelOffer
from re6st.peers import Peer
from re6st.tunnel.lifecycle import Action, Direction, Input, Lifecycle, TunnelState
from re6st.tunnel.pool import PortPool, SlotPool

logger = logging.getLogger(__name__)

LOWEST_COST = 64
"""The cheapest tunnel. All costs lie below twice this value, so that two hops never beat a direct tunnel."""

HELLOS_UNTIL_QUIET = 18
"""Hello intervals after which babel has surely forgotten a neighbour (16 bits of history, and some slack)."""


def tunnel_cost(one: IPv6Network, other: IPv6Network) -> int:
    """Return the babel cost of a tunnel between two nodes: 64 to 127, the same from both ends.

    It is drawn evenly from that whole range by a hash: the more the costs of a node's tunnels differ, the
    more often one of its neighbours is closer to a destination than the node itself, which makes that
    neighbour a feasible successor (RFC 8966, 3.5.1), so that losing a tunnel needs no new sequence number.
    """
    text = " ".join(str(prefix) for prefix in sorted((one, other)))
    return LOWEST_COST + hashlib.sha256(text.encode()).digest()[0] % LOWEST_COST


@dataclass(slots=True, eq=False)
class Tunnel:
    """One end of one tunnel."""

    handle: int
    peer: Peer
    direction: Direction
    life: Lifecycle
    slot: int
    cost: int = 0
    """Babel cost; 0 before it is up."""
    hello_interval: float = 0.0
    """Seconds between babel hellos; babeld reads it only when the link comes up. 0 before."""
    transport: Transport = Transport.UDP
    port: int | None = None
    """Local port of a listener."""
    punched: bool = False
    """Both ends open their routers for it; the request goes over the overlay."""
    local_port: int = 0
    """Port from which a dialer must dial; 0: any."""
    boot_id: str = ""
    """Which run of the peer's daemon it belongs to; empty while unknown."""
    fragments: bool = False
    """Both ends cut packets, since its path is narrow."""
    replacing: bool = False
    """It shall take the place of another tunnel to the same peer."""
    expires: float = float("inf")
    """When the first certificate of the two expires (seconds since the epoch)."""
    replace_at: float = float("inf")
    """From when on it should be replaced by one with newer certificates (seconds since the epoch)."""
    octets: int = 0
    """Carried since it is up."""
    counted: int = 0
    """Of these, carried before the current period of rotation."""
    ended_for: str = ""
    """Why we end it, or have ended it."""
    drain: Drain | None = None
    """Why it drains, if it does."""
    drained: bool = False
    """It drains, and routes use it no more at either end."""
    renews: bool = False
    """It drains, and its dialer asks for a new one to the same peer when it has ended."""

    @property
    def state(self) -> TunnelState:
        """Where it is in its life."""
        return self.life.state

    @property
    def up(self) -> bool:
        """Whether it carries packets, and shall go on to do so."""
        return self.life.state is TunnelState.UP

    @property
    def draining(self) -> bool:
        """Whether it carries packets until routes have left it."""
        return self.life.state is TunnelState.DRAINING

    @property
    def outgoing(self) -> bool:
        """Whether this node dialled it."""
        return self.direction is Direction.OUTGOING

    @property
    def title(self) -> str:
        """What it is called in the log."""
        return f"{'out to' if self.outgoing else 'in from'} {self.peer.name}"


class TunnelTable:
    """All tunnels that have not ended, by handle."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._slots = SlotPool(context.settings.slots)
        self._ports = PortPool(context.settings.tunnel_ports)
        self._tunnels: dict[int, Tunnel] = {}
        self._by_peer: dict[IPv6Network, list[Tunnel]] = {}
        self._last_handle = 0
        self.hello_interval = context.settings.hello_interval
        """Seconds between babel hellos of tunnels that come up from now on."""
        self.narrow_paths = NarrowPaths(context)
        """Over these, tunnels cut packets from the start."""

    # -- questions --------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Tunnel]:
        return iter(tuple(self._tunnels.values()))

    def get(self, handle: int) -> Tunnel | None:
        """Return the tunnel called ``handle``."""
        found = self._tunnels.get(handle)
        if found is None:
            logger.debug("tunnel %d is not known (any more)", handle)
        return found

    def live(self, prefix: IPv6Network) -> list[Tunnel]:
        """Return the tunnels to the owner of ``prefix`` that are up or may come up."""
        return [tunnel for tunnel in self._by_peer.get(prefix, ()) if tunnel.life.live]

    def leaving(self, prefix: IPv6Network) -> list[Tunnel]:
        """Return the tunnels dialled by the owner of ``prefix`` that were ended and still have their port."""
        return [
            tunnel for tunnel in self._by_peer.get(prefix, ()) if not tunnel.outgoing and tunnel.life.ended
        ]

    def draining(self, prefix: IPv6Network | None = None) -> list[Tunnel]:
        """Return the tunnels to the owner of ``prefix`` (None: all) that carry packets until routes leave."""
        found = self._tunnels.values() if prefix is None else self._by_peer.get(prefix, ())
        return [tunnel for tunnel in found if tunnel.draining]

    def connected(self, prefix: IPv6Network) -> bool:
        """Whether there is a tunnel, or an attempt at one, to the owner of ``prefix``."""
        return any(not tunnel.life.ended for tunnel in self._by_peer.get(prefix, ()))

    def neighbours(self) -> list[Peer]:
        """Return the peers to which a tunnel is up."""
        return [tunnel.peer for tunnel in self._tunnels.values() if tunnel.up or tunnel.draining]

    @property
    def isolated(self) -> bool:
        """Whether no tunnel is up."""
        return not any(tunnel.up or tunnel.draining for tunnel in self._tunnels.values())

    def outgoing(self) -> list[Tunnel]:
        """Return the outgoing tunnels that are up, may come up or drain only to be made anew.

        Replacements are left out until they are up.
        """
        return [
            tunnel
            for tunnel in self._tunnels.values()
            if tunnel.outgoing
            and (tunnel.life.live or (tunnel.draining and tunnel.renews))
            and (tunnel.up or tunnel.draining or not tunnel.replacing)
        ]

    @property
    def free_slots(self) -> int:
        """Slots that can be taken now."""
        return self._slots.available

    @property
    def free_ports(self) -> int:
        """Listening ports that can be taken now."""
        return self._ports.available

    # -- beginnings -------------------------------------------------------------------------------------

    def request(
        self,
        peer: Peer,
        *,
        replace: bool,
        replacing: bool = False,
        isolated: bool = False,
        transport: Transport = Transport.UDP,
        punched: bool = False,
    ) -> Tunnel | None:
        """Ask ``peer`` for a tunnel. Return None when no slot is free."""
        slot = self._slots.take()
        if slot is None:
            return None
        tunnel = self._add(peer, Direction.OUTGOING, slot)
        tunnel.replacing = replacing
        tunnel.transport = transport
        tunnel.punched = punched
        tunnel.fragments = transport is Transport.UDP and self.narrow_paths.leads_to(peer.prefix)
        self._context.schedule(self._context.settings.request_timeout, Timer.TUNNEL, tunnel.handle)
        self._context.emit(
            RequestTunnel(tunnel.handle, peer, replace, isolated, transport, punched, tunnel.fragments)
        )
        return tunnel

    def offer(
        self,
        request: int,
        peer: Peer,
        boot_id: str,
        mtu: int,
        transport: Transport = Transport.UDP,
        *,
        fragments: bool = False,
    ) -> Tunnel | None:
        """Listen for ``peer``, which asked with ``request``. Return None when no slot or port is free."""
        slot = self._slots.take() if self._ports.available else None
        port = self._ports.take() if slot is not None else None
        if slot is None or port is None:
            return None
        tunnel = self._add(peer, Direction.INCOMING, slot)
        tunnel.port = port
        tunnel.transport = transport
        tunnel.fragments = fragments
        tunnel.boot_id = boot_id
        self._bind_certificates(tunnel)
        self._context.schedule(self._context.settings.opening_timeout, Timer.TUNNEL, tunnel.handle)
        self._context.emit(OfferTunnel(tunnel.handle, request, peer, slot, port, mtu, transport, fragments))
        return tunnel

    def adopt(self, event: TunnelAdopted) -> Tunnel | None:
        """Take over a tunnel that is up. Return None when its slot or handle is not free."""
        if event.tunnel in self._tunnels or not self._slots.claim(event.slot):
            return None
        direction = Direction.OUTGOING if event.outgoing else Direction.INCOMING
        since = min(event.since, self._context.now)
        life = Lifecycle.adopted(f"{event.tunnel} to {event.peer.name}", direction, since)
        self._last_handle = max(self._last_handle, event.tunnel)
        tunnel = self._enter(Tunnel(event.tunnel, event.peer, direction, life, event.slot, event.cost))
        self._slots.disturb(event.slot)
        if not event.outgoing and self._ports.claim(event.port):
            tunnel.port = event.port
        tunnel.transport = event.transport
        tunnel.fragments = event.fragments
        if event.fragments:
            self.narrow_paths.found(event.peer.prefix)
        tunnel.boot_id = event.boot_id
        self._bind_certificates(tunnel, event.expires)
        return tunnel

    def _add(self, peer: Peer, direction: Direction, slot: int) -> Tunnel:
        self._last_handle += 1
        life = Lifecycle(f"{self._last_handle} to {peer.name}", direction, self._context.now)
        return self._enter(Tunnel(self._last_handle, peer, direction, life, slot))

    def _enter(self, tunnel: Tunnel) -> Tunnel:
        self._tunnels[tunnel.handle] = tunnel
        self._by_peer.setdefault(tunnel.peer.prefix, []).append(tunnel)
        return tunnel

    def _bind_certificates(self, tunnel: Tunnel, expires: float | None = None) -> None:
        """Take note of when the first certificate of ``tunnel`` expires, by default of the present ones."""
        own = self._context.own_expires if self._context.own_expires is not None else float("inf")
        tunnel.expires = min(own, tunnel.peer.expires) if expires is None else expires
        if self._context.wall is not None:
            remaining = tunnel.expires - self._context.wall
            margin = min(self._context.settings.certificate_margin, remaining / 4)
            tunnel.replace_at = tunnel.expires - self._context.random.uniform(0.8, 1.0) * margin

    # -- moves ------------------------------------------------------------------------------------------

    def accept(self, tunnel: Tunnel, offer: TunnelOffer, peer: Peer, local_port: int = 0) -> None:
        """Dial the listener of ``offer``, which ``peer`` made for ``tunnel``."""
        tunnel.peer = peer
        tunnel.local_port = local_port
        tunnel.boot_id = offer.boot_id
        tunnel.fragments = offer.fragments
        self._bind_certificates(tunnel)
        self._feed(tunnel, Input.OFFERED, offer=offer)
        self._context.schedule(self._context.settings.opening_timeout, Timer.TUNNEL, tunnel.handle)

    def refused(self, tunnel: Tunnel) -> None:
        """Take note that the request for ``tunnel`` came to nothing."""
        self._feed(tunnel, Input.REFUSED)

    def came_up(self, tunnel: Tunnel) -> bool:
        """Take note that packets pass; return whether ``tunnel`` has come up by that."""
        before = tunnel.up
        self._feed(tunnel, Input.CONNECTED)
        if tunnel.up and not before:
            self._context.deadlines.clear(Timer.TUNNEL, tunnel.handle)
            logger.info("Tunnel %s is up", tunnel.title)
            return True
        return False

    def gone(self, tunnel: Tunnel) -> None:
        """Take note that the driver of ``tunnel`` has ended."""
        self._feed(tunnel, Input.GONE)

    def drain(self, tunnel: Tunnel, reason: str, patience: float, drain: Drain) -> None:
        """Have routes leave ``tunnel``, which is up, before it ends; end it after ``patience`` in any case.

        One that is not up ends at once.
        """
        if not tunnel.up:
            self.end(tunnel, reason, notify=True)
            return
        logger.info("Draining the tunnel to %s: %s", tunnel.peer.name, reason)
        tunnel.ended_for = reason
        tunnel.drain = drain
        self._feed(tunnel, Input.DRAIN, drain=drain)
        self._context.schedule(patience, Timer.TUNNEL, tunnel.handle)

    def leave(self, tunnel: Tunnel) -> None:
        """Have the core told when ``tunnel``, which a peer drains, is drained: this node stops."""
        tunnel.drain = Drain.NODE
        self._context.emit(DrainTunnel(tunnel.handle, tunnel.slot, tunnel.peer, Drain.NODE))

    def end(self, tunnel: Tunnel, reason: str, *, notify: bool) -> None:
        """End ``tunnel``, and tell the peer if ``notify``."""
        if tunnel.life.ended:
            return
        tunnel.ended_for = reason
        self._feed(tunnel, Input.END, notify=notify)
        if tunnel.handle in self._tunnels:
            self._context.schedule(self._context.settings.closing_timeout, Timer.TUNNEL, tunnel.handle)

    def press(self, tunnel: Tunnel) -> None:
        """Time is up for the driver of an ended ``tunnel``: ask it once more, then give it up."""
        patience = self._context.settings.closing_timeout
        if self._context.now - tunnel.life.since < 1.5 * patience:
            self._context.emit(CloseTunnel(tunnel.handle, tunnel.ended_for, notify=False))
            self._context.schedule(patience, Timer.TUNNEL, tunnel.handle)
            return
        logger.warning("The driver of the tunnel to %s does not end; given up", tunnel.peer.name)
        self._feed(tunnel, Input.GIVEN_UP)

    def quiet(self, slot: int) -> None:
        """Take note that the routing daemon has forgotten the neighbours on ``slot``."""
        if any(tunnel.slot == slot and (tunnel.up or tunnel.draining) for tunnel in self._tunnels.values()):
            return
        self._context.deadlines.clear(Timer.SLOT, slot)
        self._slots.calm(slot)

    def _feed(
        self,
        tunnel: Tunnel,
        happened: Input,
        *,
        offer: TunnelOffer | None = None,
        notify: bool = False,
        drain: Drain = Drain.TUNNEL,
    ) -> None:
        for action in tunnel.life.feed(happened, self._context.now):
            self._perform(tunnel, action, offer, notify, drain)

    def _perform(
        self, tunnel: Tunnel, action: Action, offer: TunnelOffer | None, notify: bool, drain: Drain
    ) -> None:
        emit = self._context.emit
        match action:
            case Action.CANCEL_REQUEST:
                emit(CancelRequest(tunnel.handle))
            case Action.DIAL if offer is not None:
                emit(DialTunnel(tunnel.handle, tunnel.peer, tunnel.slot, offer, tunnel.local_port))
            case Action.ATTACH:
                self._slots.disturb(tunnel.slot)
                tunnel.cost = tunnel_cost(self._context.settings.prefix, tunnel.peer.prefix)
                tunnel.hello_interval = self.hello_interval
                emit(
                    AttachTunnel(
                        tunnel.handle,
                        tunnel.slot,
                        tunnel.peer,
                        tunnel.cost,
                        boot_id=tunnel.boot_id,
                        expires=tunnel.expires,
                    )
                )
            case Action.DRAIN:
                emit(DrainTunnel(tunnel.handle, tunnel.slot, tunnel.peer, drain))
            case Action.DETACH:
                # The peer may have had other parameters when its link came up.
                slowest = max(tunnel.hello_interval, self.hello_interval)
                self._context.schedule(HELLOS_UNTIL_QUIET * slowest, Timer.SLOT, tunnel.slot)
                emit(DetachTunnel(tunnel.handle, tunnel.slot))
            case Action.END_DRIVER:
                emit(CloseTunnel(tunnel.handle, tunnel.ended_for, notify))
            case Action.RELEASE:
                self._release(tunnel)

    def _release(self, tunnel: Tunnel) -> None:
        del self._tunnels[tunnel.handle]
        siblings = self._by_peer[tunnel.peer.prefix]
        siblings.remove(tunnel)
        if not siblings:
            del self._by_peer[tunnel.peer.prefix]
        self._context.deadlines.clear(Timer.TUNNEL, tunnel.handle)
        self._slots.release(tunnel.slot)
        if tunnel.port is not None:
            self._ports.release(tunnel.port)
