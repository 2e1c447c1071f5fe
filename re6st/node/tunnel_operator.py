"""Carries out what the core wants done with tunnels: interface, driver, routing daemon.

Each tunnel has one lock, so that its effects are carried out one after the other and in the order in
which the core asked; those of different tunnels run side by side. Each interface has another one, for its
link: a tunnel whose driver has ended is forgotten while it is being attached, but its detachment still
comes after that, and an attachment that comes too late does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Protocol

from re6st.config import NodeConfig
from re6st.core.effects import (
    AttachTunnel,
    CloseTunnel,
    DetachTunnel,
    DialTunnel,
    Drain,
    DrainTunnel,
    OfferTunnel,
)
from re6st.core.events import Event, TrafficCounted, TunnelCancelled, TunnelDown, TunnelDrained, TunnelUp
from re6st.errors import ChildError, LocalProtocolError, Re6stError, StorageError
from re6st.messages import Endpoint, Transport
from re6st.node.addresses import is_running, source_towards
from re6st.node.drainage import Drainage
from re6st.node.tasks import Tasks
from re6st.node.tunnel import Stage, Tunnel
from re6st.node.uplinks import Uplinks, is_bound
from re6st.peers import Peer
from re6st.tunnel.driver import Closed, Connected, Counters, Driver, DriverEvent, Link, PeerLeft
from re6st.tunnel.path_mtu import SMALLEST, Measured, TunnelPath

logger = logging.getLogger(__name__)


class Notices(Protocol):
    """Who tells peers what becomes of a tunnel; see :mod:`re6st.node.peer_notices`."""

    def end(self, peer: Peer, name: str) -> None:
        """Tell ``peer`` that the tunnel ``name`` ends; do not wait for that."""


class Interfaces(Protocol):
    """The kernel's interfaces, as far as tunnels need them."""

    async def ensure_tun(self, name: str, *, mtu: int, alias: str) -> None:
        """Make the persistent tun device ``name`` unless it exists; set MTU and alias; leave it down."""

    async def set_link(self, name: str, *, up: bool) -> None:
        """Set the link up or down."""


class RoutingDaemon(Protocol):
    """The routing daemon, as far as tunnels need it."""

    async def attach(self, interface: str, cost: int, peer: IPv6Network | None = None) -> None:
        """Give ``interface``, which is down, this cost for the next time it is set up.

        The node prefix of ``peer`` makes the first exchange of routes much faster.
        """

    async def resume(self, interface: str, cost: int, peer: IPv6Network) -> None:
        """Go on to use ``interface``, which is up and was attached by the daemon before."""

    def drain(self, interface: str) -> None:
        """Move routes away from ``interface``, which stays usable."""

    def detach(self, interface: str) -> None:
        """Take note that the link of ``interface`` was set down."""


class Watch(Protocol):
    """Who watches whether tunnels still carry packets; see :mod:`re6st.node.liveness_monitor`."""

    def watch(self, tunnel: int, interface: str) -> None:
        """Watch ``tunnel``, whose ``interface`` is up."""

    def forget(self, tunnel: int, interface: str) -> None:
        """Do not watch it any more."""

    def suspect_all(self) -> None:
        """See now whether all tunnels carry packets, also idle ones."""


class Sizes(Protocol):
    """Who finds the MTU of tunnels; see :mod:`re6st.node.path_mtu_monitor`."""

    def begin(self, given: TunnelPath) -> None:
        """Measure a tunnel whose interface is up."""

    def end(self, tunnel: int, interface: str) -> None:
        """Do not measure it any more."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A tunnel that waits for its dialer."""

    name: str
    key: str = field(repr=False)
    mtu: int
    driver: str


class TunnelOperator:
    """All tunnels of this node."""

    def __init__(
        self,
        config: NodeConfig,
        driver: Driver,
        interfaces: Interfaces,
        routing: RoutingDaemon,
        watch: Watch,
        sizes: Sizes,
        tasks: Tasks,
        report: Callable[[Event], None],
        ended: Callable[[Tunnel], None],
        notices: Notices,
        drainage: Drainage,
        note: Callable[[Tunnel, AttachTunnel], str],
        *,
        uplinks: Uplinks,
    ) -> None:
        """Report to the core through ``report``; call ``ended`` when nothing is left of a tunnel.
        ``note`` says what the next daemon has to know of one.
        """
        self._config = config
        self._driver = driver
        self._interfaces = interfaces
        self._routing = routing
        self._watch = watch
        self._sizes = sizes
        self._tasks = tasks
        self._report = report
        self._ended = ended
        self._notices = notices
        self._drainage = drainage
        self._note = note
        self._uplinks = uplinks
        self._tunnels: dict[int, Tunnel] = {}
        self._links: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        driver.set_listener(self._on_driver_event)

    def tunnels(self) -> list[Tunnel]:
        """Return all tunnels there are."""
        return list(self._tunnels.values())

    def find(self, peer: IPv6Network, name: str) -> Tunnel | None:
        """Return the tunnel to ``peer`` that both ends call ``name``."""
        return next((t for t in self._tunnels.values() if t.name == name and t.peer.prefix == peer), None)

    # -- effects ----------------------------------------------------------------------------------------

    def expect(self, effect: OfferTunnel) -> Tunnel:
        """Take note of a tunnel that a peer asked for; :meth:`listen` makes our end of it."""
        tunnel = self._add(effect.tunnel, secrets.token_hex(8), effect.peer, effect.slot, incoming=True)
        tunnel.port = effect.port
        return tunnel

    async def listen(
        self, tunnel: Tunnel, mtu: int, transport: Transport = Transport.UDP, *, fragments: bool = False
    ) -> Listening:
        """Make our end of a tunnel that a peer asked for. Raises :class:`Re6stError`."""
        tunnel.fragments = fragments
        tunnel.transport = transport
        async with tunnel.lock:
            try:
                if tunnel.number not in self._tunnels:
                    raise LocalProtocolError("it was closed before it began")
                key = await self._driver.prepare()
                link = await self._prepare_link(tunnel, key, mtu)
                await self._driver.listen(link, tunnel.port, transport)
            except Re6stError as error:
                self._forget(tunnel, str(error))
                raise
        return Listening(name=tunnel.name, key=key, mtu=mtu, driver=tunnel.driver)

    def dial(self, effect: DialTunnel) -> None:
        """Make our end of a tunnel that a peer has offered."""
        tunnel = self._add(effect.tunnel, effect.offer.tunnel, effect.peer, effect.slot, incoming=False)
        tunnel.mapped = "upnp" in effect.peer.capabilities
        tunnel.punched = effect.local_port != 0
        tunnel.fragments = effect.offer.fragments
        # Holes are made, and observed, on the way that the host's routes lead.
        tunnel.uplink = "" if tunnel.punched else self._choose_uplink(effect.offer.endpoints)
        self._tasks.spawn(self._dial(tunnel, effect), f"dial {effect.peer.name}")

    def _choose_uplink(self, endpoints: Sequence[Endpoint]) -> str:
        """Return through which uplink a tunnel to one of ``endpoints`` is dialled, empty for the routes'."""
        targets = [ipaddress.ip_address(one.address) for one in endpoints if is_bound(one)]

        def is_usable(uplink: str) -> bool:
            return is_running(uplink) and any(source_towards(target, uplink) for target in targets)

        load = Counter(tunnel.uplink for tunnel in self._tunnels.values())
        return self._uplinks.choose(load, is_usable, time.monotonic())

    def silent(self, number: int) -> bool:
        """Take note that nothing comes through a tunnel any more; its uplink may have failed as a whole.

        Return whether the peer has dialled it.
        """
        tunnel = self._tunnels.get(number)
        if tunnel is None:
            return False
        if tunnel.uplink:
            self._uplinks.failed(tunnel.uplink, time.monotonic())
            self._watch.suspect_all()
        return tunnel.incoming

    async def _dial(self, tunnel: Tunnel, effect: DialTunnel) -> None:
        async with tunnel.lock:
            try:
                mtu = min(effect.offer.mtu, self._config.tunnel_mtu)
                link = await self._prepare_link(tunnel, effect.offer.key, mtu)
                await self._driver.dial(
                    link,
                    effect.offer.endpoints,
                    effect.local_port,
                    lambda endpoint: tunnel.uplink if is_bound(endpoint) else "",
                )
            except Re6stError as error:
                self._forget(tunnel, str(error))

    def attach(self, effect: AttachTunnel) -> None:
        """Let routes use a tunnel."""
        tunnel = self._tunnels.get(effect.tunnel)
        if tunnel is not None:
            tunnel.cost = effect.cost
            self._tasks.spawn(self._attach(tunnel, effect), f"attach the tunnel to {tunnel.peer.name}")

    async def _attach(self, tunnel: Tunnel, effect: AttachTunnel) -> None:
        async with tunnel.lock, self._links[tunnel.interface]:
            if tunnel.number in self._tunnels:
                await self._routing.attach(tunnel.interface, tunnel.cost, tunnel.peer.prefix)
            if tunnel.number in self._tunnels:
                await self._interfaces.set_link(tunnel.interface, up=True)
            if tunnel.number in self._tunnels:
                self._watch.watch(tunnel.number, tunnel.interface)
                self._measure(tunnel)
                tunnel.enter(Stage.UP)
                self._keep(tunnel, effect)

    def _measure(self, tunnel: Tunnel) -> None:
        self._sizes.begin(
            TunnelPath(
                tunnel=tunnel.number,
                interface=tunnel.interface,
                remote=tunnel.remote,
                transport=tunnel.transport,
                ceiling=tunnel.mtu,
                uplink=tunnel.uplink,
                fragments=tunnel.fragments,
            )
        )

    def measured(self, number: int, measured: Measured) -> None:
        """Take note of what the path of a tunnel carries."""
        tunnel = self._tunnels.get(number)
        if tunnel is not None:
            tunnel.measured = measured

    def _keep(self, tunnel: Tunnel, effect: AttachTunnel) -> None:
        """Let the next daemon know what it needs to adopt ``tunnel``."""
        try:
            self._driver.annotate(tunnel.number, self._note(tunnel, effect))
        except StorageError as error:
            logger.warning("The tunnel to %s will not outlive this daemon: %s", tunnel.peer.name, error)

    async def restore(self, tunnel: Tunnel) -> None:
        """Take over ``tunnel``, which the daemon before has attached. Raises :class:`Re6stError`."""
        self._tunnels[tunnel.number] = tunnel
        try:
            await self._routing.resume(tunnel.interface, tunnel.cost, tunnel.peer.prefix)
        except Re6stError:
            self._tunnels.pop(tunnel.number, None)
            raise
        if tunnel.number not in self._tunnels:
            raise ChildError("its process has ended meanwhile")
        self._watch.watch(tunnel.number, tunnel.interface)
        self._measure(tunnel)
        tunnel.enter(Stage.UP)

    def drain(self, effect: DrainTunnel) -> None:
        """Have routes leave a tunnel that goes on to carry packets."""
        tunnel = self._tunnels.get(effect.tunnel)
        if tunnel is not None:
            self._tasks.spawn(self._drain(tunnel, effect.drain), f"drain the tunnel to {tunnel.peer.name}")

    async def _drain(self, tunnel: Tunnel, drain: Drain) -> None:
        async with tunnel.lock, self._links[tunnel.interface]:
            if tunnel.number not in self._tunnels or tunnel.stage not in (Stage.UP, Stage.DRAINING):
                return
            if tunnel.stage is Stage.UP:
                self._routing.drain(tunnel.interface)
                tunnel.enter(Stage.DRAINING)
            tunnel.drain = drain
        if drain is not Drain.PEER and await self._drainage.complete(tunnel, leaving=drain is Drain.NODE):
            self._report(TunnelDrained(tunnel.number))

    def detach(self, effect: DetachTunnel) -> None:
        """Take a tunnel away from routes."""
        tunnel = self._tunnels.get(effect.tunnel)
        interface = self._config.interface(effect.slot)
        self._tasks.spawn(self._detach(tunnel, interface), f"detach {interface}")

    async def _detach(self, tunnel: Tunnel | None, interface: str) -> None:
        async with tunnel.lock if tunnel else contextlib.nullcontext(), self._links[interface]:
            if tunnel is not None:
                self._watch.forget(tunnel.number, interface)
                self._sizes.end(tunnel.number, interface)
            await self._interfaces.set_link(interface, up=False)
            self._routing.detach(interface)
            if tunnel is not None:
                tunnel.enter(Stage.DETACHED)

    def close(self, effect: CloseTunnel) -> None:
        """End a tunnel."""
        tunnel = self._tunnels.get(effect.tunnel)
        if tunnel is None:
            return
        logger.info("Closing the tunnel to %s: %s", tunnel.peer.name, effect.reason)
        tunnel.closing = True
        if effect.notify:
            self._notices.end(tunnel.peer, tunnel.name)
        self._tasks.spawn(self._close(tunnel), f"close the tunnel to {tunnel.peer.name}")

    async def _close(self, tunnel: Tunnel) -> None:
        async with tunnel.lock:
            await self._driver.close(tunnel.number)
            # The driver says so itself, unless the tunnel had not begun.
            self._forget(tunnel, "it was closed before it began")

    async def close_all(self) -> None:
        """End all tunnels and wait until nothing of them is left."""
        await asyncio.gather(*(self._close(tunnel) for tunnel in self.tunnels()), return_exceptions=True)

    # -- the life of one tunnel -------------------------------------------------------------------------

    def _add(self, number: int, name: str, peer: Peer, slot: int, *, incoming: bool) -> Tunnel:
        tunnel = Tunnel(
            number=number,
            name=name,
            peer=peer,
            slot=slot,
            interface=self._config.interface(slot),
            incoming=incoming,
            driver=self._driver.name,
        )
        self._tunnels[number] = tunnel
        return tunnel

    async def _prepare_link(self, tunnel: Tunnel, key: str, mtu: int) -> Link:
        tunnel.mtu = mtu
        await self._interfaces.ensure_tun(tunnel.interface, mtu=SMALLEST, alias=tunnel.peer.name)
        return Link(
            tunnel=tunnel.number,
            interface=tunnel.interface,
            peer_address=tunnel.peer.address,
            peer_name=tunnel.peer.name,
            peer_fingerprint=tunnel.peer.fingerprint,
            key=key,
            mtu=mtu,
            fragments=tunnel.fragments,
        )

    def _on_driver_event(self, event: DriverEvent) -> None:
        tunnel = self._tunnels.get(event.tunnel)
        if tunnel is None:
            return
        match event:
            case Connected():
                tunnel.remote, tunnel.proxied = event.remote, event.proxied
                if event.proxied or (event.remote is not None and not is_bound(event.remote)):
                    tunnel.uplink = ""
                self._uplinks.succeeded(tunnel.uplink)
                if event.remote is not None:
                    tunnel.transport = event.remote.transport
                tunnel.up_since = time.monotonic()
                tunnel.enter(Stage.CONNECTED)
                self._report(TunnelUp(event.tunnel))
            case Counters():
                tunnel.received, tunnel.sent = event.received, event.sent
                self._report(TrafficCounted(((event.tunnel, event.received + event.sent),)))
            case PeerLeft():
                self._report(TunnelCancelled(event.tunnel, "the peer ended it"))
            case Closed():
                if not tunnel.up_since and not tunnel.closing:
                    self._uplinks.failed(tunnel.uplink, time.monotonic())
                if event.crashed:
                    self._notices.end(tunnel.peer, tunnel.name)
                self._forget(tunnel, event.reason)

    def _forget(self, tunnel: Tunnel, reason: str) -> None:
        if self._tunnels.pop(tunnel.number, None) is not None:
            self._watch.forget(tunnel.number, tunnel.interface)
            self._sizes.end(tunnel.number, tunnel.interface)
            tunnel.enter(Stage.CLOSED)
            # Why one is closed has been said, and the core says why one that was up ends.
            level = logging.DEBUG if tunnel.closing or tunnel.up_since else logging.INFO
            logger.log(level, "The tunnel to %s has ended: %s", tunnel.peer.name, reason)
            self._report(TunnelDown(tunnel.number, reason))
            self._ended(tunnel)
