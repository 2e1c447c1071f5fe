"""Keeps track of how this node is reached: reads addresses, asks the home router, watches changes.

What follows from what was found is decided by :mod:`re6st.node.underlay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Network

import msgspec

from re6st.config import NodeConfig
from re6st.errors import NetlinkError
from re6st.messages import Endpoint, Transport
from re6st.node.addresses import default_router, host_addresses, source_towards
from re6st.node.mapping_trust import REMEDY, MappingTrust, TrustState
from re6st.node.network_watch import NetworkChange, NetworkWatch
from re6st.node.underlay import (
    Listener,
    Situation,
    Underlay,
    assess,
    dial_order,
    join_endpoints,
    tunnel_endpoints,
    usable,
)
from re6st.peers import Peer
from re6st.status import MappingStatus, OutsideStatus, Reachability
from re6st.upnp.actions import Mapping
from re6st.upnp.mappings import USELESS
from re6st.upnp.port_mapper import PortMapper

logger = logging.getLogger(__name__)

SETTLE_TIME = 0.3
"""Seconds to wait after a change of the network, since changes come in groups."""

WATCH_RETRY = 5.0
"""Seconds until the network is watched again after that has failed."""

NO_UPNP = "port mapping is switched off (upnp = false)"


class ReachabilityKeeper:
    """What this node knows of its place in the underlay. Whoever needs some of it says so by a protocol."""

    def __init__(
        self,
        config: NodeConfig,
        network: IPv6Network,
        seed: str,
        secret: bytes,
        watch: NetworkWatch,
        changed: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        """Call ``changed`` when :attr:`situation` may have changed, ``moved`` when the host may be elsewhere.

        ``seed`` tells this node from others, ``secret`` proves to a router that a mapping is ours, ``watch``
        tells of changes of the host's network.
        """
        self._config = config
        self._watch = watch
        self._changed = changed
        self._moved = moved
        advertised = [ipaddress.ip_address(address) for address in config.advertise]
        for address in advertised:
            if address in network:
                logger.warning("%s is not advertised: it belongs to the network itself", address)
        self._underlay = Underlay(network, advertised=tuple(one for one in advertised if one not in network))
        self._mapper = (
            PortMapper(self._assess, seed, secret=secret, router=default_router) if config.upnp else None
        )
        self._trust = MappingTrust()
        self._is_mapping = False
        self._outside: IPv4Address | None = None
        """Last known outside address of the home router."""
        self.situation: Situation
        """How the node is reached now."""
        self.look()

    def look(self) -> None:
        """Read the addresses of this host anew. Raises :class:`NetlinkError`."""
        self._underlay = Underlay(
            self._underlay.network, host_addresses(), self._underlay.advertised, self._underlay.external
        )
        self.situation = self._assessed()

    async def start(self) -> None:
        """Begin to ask the home router, if there is need."""
        await self._map_if_needed()

    async def watch(self) -> None:
        """Follow changes of the host's network for ever."""
        while True:
            try:
                async for change in self._watch.changes():
                    await asyncio.sleep(SETTLE_TIME)
                    await self._on_network_change(is_route=change is NetworkChange.ROUTE)
            except NetlinkError as error:
                logger.warning("Changes of the network may be noticed late: %s", error)
            await asyncio.sleep(WATCH_RETRY)
            await self._on_network_change(is_route=True)

    async def stop(self) -> None:
        """Remove all mappings."""
        if self._mapper is not None and self._is_mapping:
            await self._mapper.stop()

    async def hand_over(self) -> None:
        """Leave the mappings as they are to the program that takes over."""
        if self._mapper is not None:
            await self._mapper.hand_over()

    def mappings(self) -> list[MappingStatus]:
        """Return what became of each port that was to be mapped."""
        found = self._mapper.status() if self._mapper is not None and self._is_mapping else []
        if not self._trust.reason:
            return found
        doubts = {"state": USELESS, "method": "", "reason": self._trust.reason, "remedy": REMEDY}
        return [msgspec.structs.replace(one, external_port=0, **doubts) for one in found]

    async def watch_mapping(self, ask: Callable[[], Awaitable[OutsideStatus]]) -> None:
        """Have a peer try the mapped control port now and then, for ever; ``ask`` asks one."""
        while True:
            await asyncio.sleep(self._trust.delay())
            self._assess()
            mapping = self._control_mapping()
            if mapping is None or not self.situation.mapped:
                continue
            endpoint, told = str(_endpoint(mapping)), await ask()
            if endpoint in (*told.reached, *told.unreached):
                self._trust.tried(told.tester, reached=endpoint in told.reached, now=time.monotonic())
                self._assess()

    # -- endpoints --------------------------------------------------------------------------------------

    async def listener_endpoints(
        self, peer: Peer, listener: Listener, local: str, remote: str
    ) -> tuple[Endpoint, ...]:
        """Return where ``peer``, which came from ``remote`` to ``local``, reaches our ``listener``.

        Over TCP the control port leads there as well (see :mod:`re6st.node.port_share`).
        """
        mapping = None
        if self._mapper is not None and self._is_mapping:
            mapping = await self._mapper.map(listener.transport, listener.port)
        if self._trust.state is TrustState.DISTRUSTED:
            mapping = None
        own = self._tunnel_endpoints(peer, listener, mapping, local, remote)
        if listener.transport is not Transport.TCP:
            return own
        port = self._config.control_port
        shared_mapping = self._control_mapping() if self.situation.mapped else None
        shared = self._tunnel_endpoints(peer, Listener(Transport.TCP, port), shared_mapping, local, remote)
        return join_endpoints(own, shared)

    def _tunnel_endpoints(
        self, peer: Peer, listener: Listener, mapping: Mapping | None, local: str, remote: str
    ) -> tuple[Endpoint, ...]:
        return tunnel_endpoints(
            self._underlay,
            listener,
            mapping,
            local=ipaddress.ip_address(local),
            remote=ipaddress.ip_address(remote),
            dialer=[ipaddress.ip_address(endpoint.address) for endpoint in peer.endpoints],
        )

    def resume(self, listener: Listener) -> None:
        """Keep the mapping of ``listener``, which an earlier run of the daemon has made."""
        if self._mapper is not None and self._is_mapping:
            self._mapper.want(listener.transport, listener.port)

    def lan_endpoints(self, port: int) -> tuple[Endpoint, ...]:
        """Return where somebody in the same LAN reaches the UDP ``port``."""
        private = [one.address for one in self._underlay.private() if one.address.version == 4]
        return tuple(Endpoint(Transport.UDP, str(address), port) for address in private)

    def addresses(self) -> list[IPv4Address]:
        """Return the IPv4 addresses of this host on the underlay."""
        found = [one.address for one in (*self._underlay.private(), *self._underlay.public())]
        return [one for one in found if isinstance(one, IPv4Address)]

    def in_lan(self, endpoint: Endpoint) -> bool:
        """Return whether somebody in a LAN of this host may be at ``endpoint``."""
        address = ipaddress.ip_address(endpoint.address)
        return self._underlay.on_link(address) and bool(self.usable([endpoint]))

    def release(self, port: int) -> None:
        """The tunnel ``port`` is no longer used."""
        if self._mapper is not None:
            self._mapper.unmap(Transport.UDP, port)
            self._mapper.unmap(Transport.TCP, port)

    def dial_order(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of a peer's ``endpoints`` that are worth a try from here, best first."""
        return dial_order(self._underlay, endpoints, source_towards)

    def usable(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of ``endpoints``, which a peer has offered, to which packets may be sent."""
        return usable(self._underlay, endpoints, source_towards)

    # -- changes ----------------------------------------------------------------------------------------

    def suspect_router(self) -> None:
        """What came in through the home router has fallen silent: look whether it is as it was."""
        if self._mapper is not None and self._is_mapping:
            self._mapper.suspect()

    def search_router(self) -> None:
        """The host was asleep: find out what is left of its mappings."""
        if self._mapper is not None and self._is_mapping:
            self._mapper.network_changed()

    async def _on_network_change(self, *, is_route: bool) -> None:
        """Look again; the home router may be another one if addresses or the default route have changed."""
        before = self._underlay.addresses
        with contextlib.suppress(NetlinkError):
            self.look()
        has_moved = self._underlay.addresses != before
        if has_moved:
            logger.info("The addresses of this host have changed")
            self._trust.reset()
            self._changed()
        if has_moved or is_route:
            self._moved()
        await self._map_if_needed()
        if has_moved or is_route:
            self.search_router()

    async def _map_if_needed(self) -> None:
        """Ask the home router only where this host has a private IPv4 address and no public one."""
        has_public = any(one.address.version == 4 for one in self._underlay.public())
        has_private = any(one.address.version == 4 for one in self._underlay.private())
        is_settled = has_public or not has_private or bool(self._underlay.advertised)
        if self._mapper is None or self._is_mapping or is_settled:
            return
        self._is_mapping = True
        self._mapper.want(Transport.TCP, self._config.control_port)
        await self._mapper.start()
        self.situation = self._assessed()

    def _assess(self) -> None:
        """Take note of what the port mapper has found."""
        external = self._mapper.external_address if self._mapper is not None else None
        self._underlay = Underlay(
            self._underlay.network, self._underlay.addresses, self._underlay.advertised, external
        )
        before, self.situation = self.situation, self._assessed()
        if self.situation != before:
            is_reachable = self.situation.reachability is not Reachability.NONE
            verdict = "Reachable" if is_reachable else "Not reachable"
            logger.info("%s from outside: %s", verdict, self.situation.reason)
            self._changed()
        if external is not None:
            has_moved = self._outside not in (None, external)
            self._outside = external
            if has_moved:
                self._moved()

    def _assessed(self) -> Situation:
        port = self._config.control_port
        if self._mapper is None:
            return assess(self._underlay, port, None, NO_UPNP)
        mapping = self._control_mapping()
        endpoint = None if mapping is None else _endpoint(mapping)
        if not self._trust.consider(endpoint, time.monotonic()):
            return assess(self._underlay, port, None, self._trust.reason)
        return assess(self._underlay, port, mapping, self._mapper.why_not(Transport.TCP, port))

    def _control_mapping(self) -> Mapping | None:
        if self._mapper is None or not self._is_mapping:
            return None
        return self._mapper.mapping(Transport.TCP, self._config.control_port)


def _endpoint(mapping: Mapping) -> Endpoint:
    return Endpoint(mapping.transport, str(mapping.external_address), mapping.external_port)
