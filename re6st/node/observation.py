"""Gathers what the daemon tells about itself from the parts that know it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

import re6st
from re6st.core import NodeCore
from re6st.messages import NodeReport, TunnelReport
from re6st.node.credentials import Credentials
from re6st.node.documents import Documents
from re6st.node.liveness_monitor import LivenessMonitor
from re6st.node.outside import OutsideTester
from re6st.node.reachability import ReachabilityKeeper
from re6st.node.registry_link import RegistryLink
from re6st.node.tunnel import Stage, Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.peers import Peer
from re6st.routing.babeld import Babeld
from re6st.status import (
    LanNeighbourStatus,
    LanStatus,
    NodeStatus,
    OutsideStatus,
    PacketSizeStatus,
    PeerStatus,
    RouteStatus,
    TunnelStatus,
)
from re6st.tunnel.path_mtu import SMALLEST, Measured, Origin

REPORTED_TUNNELS = 64
"""As many as a report may hold; a node hardly ever has more, though it has more interfaces."""


class Observation:
    """Implements :class:`re6st.node.status_server.Observed`."""

    def __init__(
        self,
        *,
        core: NodeCore,
        credentials: Callable[[], Credentials],
        documents: Documents,
        operator: TunnelOperator,
        babeld: Babeld,
        reachability: ReachabilityKeeper,
        registry: RegistryLink,
        outside: OutsideTester,
        monitor: LivenessMonitor,
    ) -> None:
        self._core = core
        self._credentials = credentials
        self._documents = documents
        self._operator = operator
        self._babeld = babeld
        self._reachability = reachability
        self._registry = registry
        self._outside = outside
        self._monitor = monitor
        self._started = time.monotonic()
        self.ready = False
        """The daemon has finished its start; set by the daemon."""
        self._restarts_refused = 0
        self._restart_refused = ""

    def restart_was_refused(self, reason: str) -> None:
        """Take note that the daemon was asked to restart in place and did not."""
        self._restarts_refused += 1
        self._restart_refused = reason

    def status(self) -> NodeStatus:
        """Return the node in short."""
        certificate = self._credentials().certificate
        up = [tunnel for tunnel in self._operator.tunnels() if tunnel.stage is Stage.UP]
        incoming = sum(tunnel.incoming for tunnel in up)
        situation = self._reachability.situation
        return NodeStatus(
            name=certificate.name,
            network=str(self._credentials().trust.network),
            prefix=str(certificate.prefix),
            further_prefixes=tuple(str(prefix) for prefix in certificate.further),
            address=str(certificate.address),
            software=f"re6st {re6st.__version__}",
            pid=os.getpid(),
            uptime=time.monotonic() - self._started,
            reachability=situation.reachability,
            reachability_reason=situation.reason,
            endpoints=[str(endpoint) for endpoint in situation.endpoints],
            tunnels_out=len(up) - incoming,
            tunnels_in=incoming,
            routes=len({route.prefix for route in self._babeld.table.routes() if route.installed}),
            peers=self._core.counts().peers,
            mappings=self._reachability.mappings(),
            registry=self._registry.state,
            registry_reachable=self._registry.reachable,
            parameters_version=self._documents.parameters.version,
            revocations_version=self._documents.revocations.version,
            certificate_expires=certificate.not_after,
            routing=self._babeld.state,
            packet_sizes=packet_sizes(up, self._core.beyond_narrow_paths()),
            lan=self._lan(),
            ready=self.ready,
            restarts_refused=self._restarts_refused,
            restart_refused=self._restart_refused,
        )

    def _names(self) -> dict[IPv6Network, str]:
        """Return whose each known prefix is."""
        return {
            prefix: entry.peer.name
            for entry in self._core.peers()
            for prefix in (*entry.peer.further, entry.peer.prefix)
        }

    def _lan(self) -> LanStatus:
        """Return the neighbours in LANs, whose own prefix is what each of them announces as nobody else's."""
        names = self._names()
        table = self._babeld.table
        interfaces = self._babeld.lan_interfaces
        own = {
            (route.interface, route.via): names.get(route.prefix, "")
            for route in table.routes()
            if route.refmetric == 0
        }
        return LanStatus(
            interfaces=interfaces,
            keyed=self._babeld.has_lan_key,
            port=self._babeld.port,
            down=tuple(name for name in interfaces if not table.is_up(name)),
            neighbours=tuple(
                LanNeighbourStatus(
                    interface=name,
                    address=neighbour.address,
                    peer=own.get((name, neighbour.address), ""),
                    cost=neighbour.cost,
                )
                for name in interfaces
                for neighbour in sorted(table.neighbours(name), key=lambda one: one.address)
            ),
        )

    def report(self) -> NodeReport:
        """Return what the registry's operators may know of this node."""
        status = self.status()
        now = time.monotonic()
        return NodeReport(
            time=time.time(),
            uptime=status.uptime,
            software=status.software[:32],
            reachability=status.reachability.value,
            reason=status.reachability_reason[:256],
            routes=status.routes,
            peers=status.peers,
            parameters_version=status.parameters_version,
            revocations_version=status.revocations_version,
            tunnels=tuple(
                TunnelReport(
                    peer=str(tunnel.peer.prefix),
                    outgoing=not tunnel.incoming,
                    established=tunnel.established,
                    age=round(now - tunnel.up_since),
                    round_trip=self._monitor.round_trip(tunnel.interface),
                )
                for tunnel in self._operator.tunnels()
                if tunnel.stage is Stage.UP
            )[:REPORTED_TUNNELS],
        )

    async def outside_status(self) -> OutsideStatus:
        """Have a peer test whether this node can be reached."""
        return await self._outside.ask()

    def peer_statuses(self) -> list[PeerStatus]:
        """Return the address book, by name."""
        return [
            PeerStatus(
                name=entry.peer.name,
                prefix=str(entry.peer.prefix),
                address=str(entry.peer.address),
                endpoints=[str(endpoint) for endpoint in entry.peer.endpoints],
                connected=entry.connected,
                failures=entry.failures,
                certificate_expires=entry.peer.expires,
                software=entry.peer.software,
            )
            for entry in sorted(self._core.peers(), key=lambda entry: entry.peer.name)
        ]

    def tunnel_statuses(self) -> list[TunnelStatus]:
        """Return all tunnels, by the name of the peer."""
        now = time.monotonic()
        tunnels = sorted(self._operator.tunnels(), key=lambda tunnel: tunnel.peer.name)
        return [tunnel.status(now) for tunnel in tunnels]

    def route_statuses(self) -> list[RouteStatus]:
        """Return babel's routes to other nodes, used ones first."""
        names = self._names()
        by_interface = {tunnel.interface: tunnel.peer.name for tunnel in self._operator.tunnels()}
        in_lan = {(one.interface, one.address): one.peer for one in self._lan().neighbours}
        return [
            RouteStatus(
                prefix=str(route.prefix),
                peer=names.get(route.prefix, ""),
                metric=route.metric,
                interface=route.interface,
                via=route.via,
                next_hop=by_interface.get(route.interface) or in_lan.get((route.interface, route.via), ""),
                installed=route.installed,
            )
            for route in sorted(
                self._babeld.table.routes(),
                key=lambda route: (route.prefix, not route.installed, route.metric),
            )
        ]


def packet_sizes(tunnels: Iterable[Tunnel], uncut: Iterable[Peer] = ()) -> tuple[PacketSizeStatus, ...]:
    """Return what ``tunnels`` carry, smallest first, and that nobody cuts packets to the peers ``uncut``."""
    peers: defaultdict[Measured, list[str]] = defaultdict(list)
    hopeless = {peer.prefix: peer.name for peer in uncut}
    for tunnel in tunnels:
        if tunnel.measured.origin is not Origin.NARROW or tunnel.peer.prefix not in hopeless:
            hopeless.pop(tunnel.peer.prefix, None)
            peers[tunnel.measured].append(tunnel.peer.name)
    peers[Measured(SMALLEST, Origin.UNCUT)].extend(hopeless.values())
    return tuple(
        PacketSizeStatus(
            mtu=measured.mtu,
            origin=measured.origin.value,
            explanation=measured.origin.explanation,
            peers=tuple(sorted(names)),
        )
        for measured, names in sorted(peers.items(), key=lambda item: (item[0].mtu, item[0].origin.value))
        if names
    )
