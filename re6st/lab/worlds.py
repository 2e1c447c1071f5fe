"""Topologies of any size, for benchmarks: made by a rule instead of read from a file (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from re6st.lab.topology import HostSpec, NetworkSpec, Role, RouterKind, RouterSpec, Topology

REGISTRY = "registry"
HOSTING = "hosting"
ISP = "isp"

_NETWORKS = {
    HOSTING: NetworkSpec(prefix=IPv4Network("20.16.0.0/22")),
    ISP: NetworkSpec(prefix=IPv4Network("20.17.0.0/22")),
}
_REGISTRY_HOST = HostSpec(network=HOSTING, roles=(Role.REGISTRY, Role.NODE))
_SITUATIONS = (
    None,
    RouterKind.UPNP,
    RouterKind.PLAIN,
    None,
    RouterKind.UPNP,
    RouterKind.PLAIN,
    None,
    RouterKind.UPNP,
)
"""How the nodes after the registry's are connected, again and again: in eight, what the demo has."""


def mixed(count: int) -> Topology:
    """Return a world of ``count`` nodes in the demo's mixture of public addresses and routers."""
    routers: dict[str, RouterSpec] = {}
    hosts = {REGISTRY: _REGISTRY_HOST}
    for number in range(1, count):
        kind = _SITUATIONS[(number - 1) % len(_SITUATIONS)]
        _add(hosts, routers, f"node{number}", kind)
    return Topology(networks=_NETWORKS, routers=routers, hosts=hosts)


def crowd_around(name: str, peers: int) -> Topology:
    """Return a world where ``name``, behind a UPnP router, has ``peers`` tunnels: one to each other node.

    All others have public addresses.
    """
    routers: dict[str, RouterSpec] = {}
    hosts = {REGISTRY: _REGISTRY_HOST}
    _add(hosts, routers, name, RouterKind.UPNP)
    for number in range(1, peers):
        _add(hosts, routers, f"node{number}", None)
    return Topology(networks=_NETWORKS, routers=routers, hosts=hosts)


def with_guests(world: Topology, guests: Mapping[str, RouterKind | None]) -> Topology:
    """Return ``world`` and in it a further node per guest: behind a router of that kind, or public."""
    routers, hosts = dict(world.routers), dict(world.hosts)
    for name, kind in guests.items():
        _add(hosts, routers, name, kind)
    return Topology(networks={**_NETWORKS, **world.networks}, routers=routers, hosts=hosts, mesh=world.mesh)


def _add(
    hosts: dict[str, HostSpec], routers: dict[str, RouterSpec], name: str, kind: RouterKind | None
) -> None:
    if kind is None:
        hosts[name] = HostSpec(network=HOSTING, roles=(Role.NODE,))
        return
    router = f"r-{name}"
    routers[router] = RouterSpec(network=ISP, kind=kind, lan=IPv4Network("192.168.1.0/24"))
    hosts[name] = HostSpec(network=router, roles=(Role.NODE,))
