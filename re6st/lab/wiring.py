"""Wiring of a topology: who is plugged in where, with which address (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from re6st.lab.topology import INTERNET, HostSpec, RouterSpec, Topology

HOST_INTERFACE = "eth0"
"""Uplink of a host."""

ROUTER_OUTSIDE = "wan"
"""Uplink of a router."""

ROUTER_INSIDE = "lan"
"""Bridge of a router, into which its LAN is plugged."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One network or LAN: a bridge in the namespace of the router that serves it."""

    name: str
    owner: str
    """Host name of the router, or ``internet``."""
    bridge: str
    """Interface name of the bridge."""
    gateway: IPv4Interface
    """The router's address on it, the first of the prefix."""
    mtu: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """One cable: an uplink of a host or router, plugged into a segment."""

    owner: str
    interface: str
    segment: Segment
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class Wiring:
    """All segments and all cables of a lab."""

    segments: dict[str, Segment]
    attachments: dict[str, Attachment]
    """By name of the owner."""

    @property
    def machines(self) -> list[str]:
        """Names of all machines, each of which is a namespace."""
        return [INTERNET, *self.attachments]


def wire(topology: Topology) -> Wiring:
    """Return the wiring of ``topology``, which was checked; the same one each time."""
    segments = {
        name: Segment(name, INTERNET, name, _gateway(network.prefix), network.mtu)
        for name, network in topology.networks.items()
    }
    segments |= {
        name: Segment(name, name, ROUTER_INSIDE, _gateway(router.lan), router.lan_mtu)
        for name, router in topology.routers.items()
    }
    specs: dict[str, RouterSpec | HostSpec] = {**topology.routers, **topology.hosts}
    taken: dict[str, set[IPv4Address]] = {name: {segment.gateway.ip} for name, segment in segments.items()}
    for spec in specs.values():
        if spec.address is not None:
            taken[spec.network].add(spec.address)
    attachments = {}
    for name, spec in specs.items():
        segment = segments[spec.network]
        prefix = segment.gateway.network
        address = spec.address or next(one for one in prefix.hosts() if one not in taken[spec.network])
        taken[spec.network].add(address)
        interface = ROUTER_OUTSIDE if name in topology.routers else HOST_INTERFACE
        attachments[name] = Attachment(name, interface, segment, IPv4Interface((address, prefix.prefixlen)))
    return Wiring(segments, attachments)


def _gateway(prefix: IPv4Network) -> IPv4Interface:
    return IPv4Interface((prefix[1], prefix.prefixlen))
