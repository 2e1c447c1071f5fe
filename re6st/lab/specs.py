"""What a lab consists of: networks, routers, hosts and the mesh, as values."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from msgspec import Meta, Struct

INTERNET = "internet"
"""Name of the namespace that routes between the networks."""

Mtu = Annotated[int, Meta(ge=576, le=9000)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Settings = dict[str, str | bool | int | float | list[str]]


class RouterKind(enum.Enum):
    """What a router does for those behind it. All of them drop what nobody inside asked for."""

    UPNP = "upnp"
    """Network address translation, and a UPnP gateway that maps ports on request."""
    PCP = "pcp"
    """The same, but it maps ports by PCP and NAT-PMP only."""
    PLAIN = "plain"
    """Network address translation that keeps the port where possible (endpoint-independent mapping)."""
    SYMMETRIC = "symmetric"
    """Another random port for each flow: hole punching is hopeless."""

    @property
    def maps_ports(self) -> bool:
        """Whether a port is forwarded on request."""
        return self in (RouterKind.UPNP, RouterKind.PCP)


class Role(enum.Enum):
    """Which daemon runs on a host."""

    REGISTRY = "registry"
    NODE = "node"


class NetworkSpec(Struct, frozen=True, kw_only=True, rename="kebab"):
    """A routed network of the internet."""

    prefix: IPv4Network | None = None
    ipv6: IPv6Network | None = None
    mtu: Mtu = 1500
    """Of all links of this network, octets."""
    black_hole: Mtu | None = None
    """Larger packets vanish on its cables, octets (see :meth:`re6st.lab.lab.Lab.swallow`)."""


class RouterSpec(Struct, frozen=True, kw_only=True, rename="kebab"):
    """A router with network address translation and the LAN behind it."""

    network: str
    """What its outside is plugged into: a network, or another router's LAN."""
    kind: RouterKind = RouterKind.PLAIN
    lan: IPv4Network
    lan_mtu: Mtu = 1500
    blocks_udp: bool = False
    """It forwards no UDP, in neither direction (see :meth:`re6st.lab.lab.Lab.block_udp`)."""
    allows_tcp: tuple[Port, ...] = ()
    """It lets nothing out but TCP to these ports, unless there are none."""
    proxy: bool = False
    """It lets nothing out at all, but runs an HTTP proxy that connects to TCP port 443."""
    address: IPv4Address | None = None
    """Of its outside; the next free one by default."""
    claims: IPv4Address | None = None
    """What its gateway says that its outside address is; the truth by default."""


class HostSpec(Struct, frozen=True, kw_only=True, rename="kebab"):
    """A machine."""

    network: str
    """What it is plugged into: a network, or a router's LAN."""
    second_network: str | None = None
    """The same for its second interface, if it has one."""
    roles: tuple[Role, ...] = ()
    address: IPv4Address | None = None
    """The next free one by default, if there are any."""
    ipv6: IPv6Address | None = None
    """The same for IPv6."""
    settings: Settings = {}
    """Added to the configuration of its node, after those of the mesh."""


class MeshSpec(Struct, frozen=True, kw_only=True, rename="kebab"):
    """What the daemons need to know."""

    network: IPv6Network = IPv6Network("2001:db8:42::/48")
    """The prefix of the overlay."""
    settings: Settings = {}
    """Added to the configuration of every node (see :class:`re6st.config.NodeConfig`)."""
    registry_port: Port = 8443
    """TCP port of the registry."""


class Topology(Struct, frozen=True, kw_only=True):
    """A whole lab."""

    networks: dict[str, NetworkSpec]
    routers: dict[str, RouterSpec] = {}
    hosts: dict[str, HostSpec] = {}
    mesh: MeshSpec = MeshSpec()

    @property
    def registry(self) -> str | None:
        """Name of the host that runs the registry."""
        return next((name for name, host in self.hosts.items() if Role.REGISTRY in host.roles), None)

    @property
    def nodes(self) -> list[str]:
        """Names of the hosts that run a node, that of the registry first."""
        names = [name for name, host in self.hosts.items() if Role.NODE in host.roles]
        return sorted(names, key=lambda name: name != self.registry)

    def situation(self, host: str) -> str:
        """Return, for people, how ``host`` is connected to the internet."""
        path = []
        place = self.hosts[host].network
        while place in self.routers:
            path.append(f"{self.routers[place].kind.value} router {place}")
            place = self.routers[place].network
        if path:
            return " behind ".join(path)
        network = self.networks[self.hosts[host].network]
        if network.ipv6 is None:
            return "public address"
        return "public IPv6 address" if network.prefix is None else "public IPv4 and IPv6 addresses"


def convert_address(kind: type, value: object) -> object:
    """Decode addresses and prefixes for msgspec. Raises :class:`ValueError` as msgspec expects it."""
    if kind in (IPv4Address, IPv4Network, IPv6Address, IPv6Network):
        return kind(value)
    raise NotImplementedError(f"{kind} in a topology")
