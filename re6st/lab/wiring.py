"""Wiring of a topology: who is plugged in where, with which address (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TypeVar

from msgspec import structs

from re6st.lab.topology import INTERNET, HostSpec, RouterSpec, Topology

HOST_INTERFACE = "eth0"
"""Uplink of a host."""

SECOND_HOST_INTERFACE = "eth1"
"""Second uplink of a host."""

SECOND_METRIC = 100
"""Of the default routes through it."""

ROUTER_OUTSIDE = "wan"
"""Uplink of a router."""

ROUTER_INSIDE = "lan"
"""Bridge of a router, into which its LAN is plugged."""


Interface = IPv4Interface | IPv6Interface
Kind = TypeVar("Kind", IPv4Interface, IPv6Interface)
Kept = TypeVar("Kept", HostSpec, RouterSpec)


@dataclass(frozen=True, slots=True)
class Segment:
    """One network or LAN: a bridge in the namespace of the router that serves it."""

    name: str
    owner: str
    """Host name of the router, or ``internet``."""
    bridge: str
    """Interface name of the bridge."""
    gateway: IPv4Interface | None
    """The router's IPv4 address on it, the first of the prefix; None where there is no IPv4."""
    gateway6: IPv6Interface | None
    """The same for IPv6."""
    mtu: int

    @property
    def gateways(self) -> list[Interface]:
        """The router's addresses on it."""
        return [one for one in (self.gateway, self.gateway6) if one is not None]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One cable: an uplink of a host or router, plugged into a segment."""

    owner: str
    interface: str
    segment: Segment
    address4: IPv4Interface | None
    address6: IPv6Interface | None
    port: str
    """Name of the cable's other end, at the segment's bridge."""
    metric: int = 0
    """Of the default routes through it."""

    @property
    def addresses(self) -> list[Interface]:
        """All addresses, IPv4 first."""
        return [one for one in (self.address4, self.address6) if one is not None]

    @property
    def address(self) -> Interface:
        """The first of the addresses; each owner has one."""
        return self.addresses[0]


@dataclass(frozen=True, slots=True)
class Wiring:
    """All segments and all cables of a lab."""

    segments: dict[str, Segment]
    attachments: dict[str, Attachment]
    """By name of the owner."""
    second_attachments: dict[str, Attachment]
    """The same for hosts that are plugged in twice."""

    @property
    def machines(self) -> list[str]:
        """Names of all machines, each of which is a namespace."""
        return [INTERNET, *self.attachments]


def wire(topology: Topology) -> Wiring:
    """Return the wiring of ``topology``, which was checked; the same one each time."""
    segments = {
        name: Segment(name, INTERNET, name, _gateway4(network.prefix), _gateway6(network.ipv6), network.mtu)
        for name, network in topology.networks.items()
    }
    segments |= {
        name: Segment(name, name, ROUTER_INSIDE, _gateway4(router.lan), None, router.lan_mtu)
        for name, router in topology.routers.items()
    }
    specs: dict[str, RouterSpec | HostSpec] = {**topology.routers, **topology.hosts}
    taken: dict[str, set[object]] = {
        name: {gateway.ip for gateway in segment.gateways} for name, segment in segments.items()
    }
    for spec in specs.values():
        taken[spec.network] |= {spec.address, _wished6(spec)}
    attachments = {}
    for name, spec in specs.items():
        segment, busy = segments[spec.network], taken[spec.network]
        is_router = name in topology.routers
        address4 = _free(segment.gateway, spec.address, busy)
        # Routers know IPv4 only.
        address6 = None if is_router else _free(segment.gateway6, _wished6(spec), busy)
        interface = ROUTER_OUTSIDE if is_router else HOST_INTERFACE
        attachments[name] = Attachment(name, interface, segment, address4, address6, name)
        busy.update(one.ip for one in attachments[name].addresses)
    second = {}
    for name, host in topology.hosts.items():
        if host.second_network is not None:
            busy = taken[host.second_network]
            second[name] = _second(name, segments[host.second_network], busy)
            busy.update(one.ip for one in second[name].addresses)
    return Wiring(segments, attachments, second)


def _second(host: str, segment: Segment, taken: Collection[object]) -> Attachment:
    address4, address6 = _free(segment.gateway, None, taken), _free(segment.gateway6, None, taken)
    port = f"{host}-2"
    return Attachment(host, SECOND_HOST_INTERFACE, segment, address4, address6, port, SECOND_METRIC)


def moved(topology: Topology, machine: str, place: str) -> Topology:
    """Return ``topology`` with the host or router ``machine`` plugged into the network or router ``place``,
    where it gets other addresses, also if it is there already. All others keep theirs.
    """
    wiring = wire(topology)
    attachments = wiring.attachments

    def pinned(name: str, spec: Kept) -> Kept:
        changes: dict[str, object] = {}
        if (address4 := attachments[name].address4) is not None:
            changes["address"] = address4.ip
        if (address6 := attachments[name].address6) is not None:
            changes["ipv6"] = address6.ip
        return structs.replace(spec, **changes)

    hosts = {name: pinned(name, spec) for name, spec in topology.hosts.items()}
    routers = {name: pinned(name, spec) for name, spec in topology.routers.items()}
    changes: dict[str, object] = {"network": place, "address": None}
    if machine in hosts:
        changes["ipv6"] = None
    if place in wiring.segments:
        segment = wiring.segments[place]
        cables = (*attachments.values(), *wiring.second_attachments.values())
        taken = {gateway.ip for gateway in segment.gateways}
        taken |= {one.ip for cable in cables if cable.segment == segment for one in cable.addresses}
        if (address4 := _free(segment.gateway, None, taken)) is not None:
            changes["address"] = address4.ip
        if machine in hosts and (address6 := _free(segment.gateway6, None, taken)) is not None:
            changes["ipv6"] = address6.ip
    if machine in hosts:
        hosts[machine] = structs.replace(hosts[machine], **changes)
    else:
        routers[machine] = structs.replace(routers[machine], **changes)
    return structs.replace(topology, hosts=hosts, routers=routers)


def _wished6(spec: RouterSpec | HostSpec) -> object:
    return spec.ipv6 if isinstance(spec, HostSpec) else None


def _free(gateway: Kind | None, wish: object, taken: Collection[object]) -> Kind | None:
    """Return the address ``wish``, or else the first one beside ``gateway`` that nobody has ``taken``."""
    if gateway is None:
        return None
    address = wish or next(one for one in _hosts(gateway) if one not in taken)
    return type(gateway)(f"{address}/{gateway.network.prefixlen}")


def _hosts(gateway: Interface) -> Iterator[object]:
    return iter(gateway.network.hosts())


def _gateway4(prefix: IPv4Network | None) -> IPv4Interface | None:
    return None if prefix is None else IPv4Interface((prefix[1], prefix.prefixlen))


def _gateway6(prefix: IPv6Network | None) -> IPv6Interface | None:
    return None if prefix is None else IPv6Interface((prefix[1], prefix.prefixlen))
