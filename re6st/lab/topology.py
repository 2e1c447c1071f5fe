"""Topologies: which networks, routers and hosts a lab has, read from TOML.

A topology has three kinds of tables, and everything in them has a name of its own:

``[networks.NAME]``
    A routed network of the internet: ``prefix`` (IPv4), ``ipv6`` or both (globally routable, because real
    software treats private and documentation addresses differently; they never leave the namespaces),
    ``mtu`` and ``black-hole``.
``[routers.NAME]``
    A home router or a carrier's NAT box: ``network`` outside, ``kind`` and the prefix of its ``lan``. Its
    name is also the name of the LAN, so a router behind a router (CGNAT) only names the other one. Routers
    know IPv4 only.
``[hosts.NAME]``
    A machine: the ``network`` (or router) that it is plugged into, its ``roles``, if wanted its ``address``
    and ``ipv6`` address. It has an address of each kind that its network has. A host with a
    ``second-network`` is plugged into that as well, and its default route there has a higher metric.

``[mesh]`` holds what the daemons need to know. All mistakes of a file are reported at once.
"""

from __future__ import annotations

import difflib
import enum
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from re6st import config
from re6st.errors import ConfigError
from re6st.prefix import parse_network

INTERNET = "internet"
"""Name of the namespace that routes between the networks."""

RESERVED_NAMES = frozenset({INTERNET, "lo", "lan", "wan", "eth0", "eth1"})
"""Names that the lab itself gives to namespaces and interfaces."""

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,14}")
"""Names of networks, routers and hosts: they become names of interfaces, at most 15 characters."""

SECOND_CABLE_NAME_LENGTH = 13
"""Longest name of a host with two cables: the second one is called by it and ``-2``."""

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


Spec = TypeVar("Spec", bound=Struct)


def find(text: str) -> Path:
    """Return the file that ``text`` means: a path, or the name of a topology that comes with the lab.

    Raises :class:`ConfigError` when there is none.
    """
    shipped = Path(__file__).parent / "topologies"
    for candidate in (Path(text), shipped / f"{text}.toml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
    raise ConfigError(f"there is no topology {text!r}: give the path of a TOML file, or one of: {known}")


def load(path: Path) -> Topology:
    """Return the topology in the file ``path``. Raises :class:`ConfigError` with all mistakes."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the topology: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return from_values(values, str(path))


def from_values(values: Mapping[str, Any], origin: str) -> Topology:
    """Return the topology made of ``values``.

    Raises :class:`ConfigError` that lists every mistake, each line beginning with ``origin``.
    """
    mistakes: list[str] = []
    sections = ("mesh", "networks", "routers", "hosts")
    mistakes += [f"{key}: no such table{_hint(key, sections)}" for key in values if key not in sections]
    topology = Topology(
        networks=_entries(values.get("networks", {}), "networks", NetworkSpec, mistakes),
        routers=_entries(values.get("routers", {}), "routers", RouterSpec, mistakes),
        hosts=_entries(values.get("hosts", {}), "hosts", HostSpec, mistakes),
        mesh=_entry(values.get("mesh", {}), "mesh", MeshSpec, mistakes) or MeshSpec(),
    )
    given = [(f"{section}.{name}", name) for section in sections[1:] for name in _names(values.get(section))]
    mistakes += _contradictions(topology, given)
    if mistakes:
        raise ConfigError("\n".join(f"{origin}: {mistake}" for mistake in mistakes))
    return topology


def check(topology: Topology) -> None:
    """Raise :class:`ConfigError` that lists all mistakes of a topology that a program has made."""
    sections: dict[str, Mapping[str, Struct]] = {
        "networks": topology.networks,
        "routers": topology.routers,
        "hosts": topology.hosts,
    }
    given = [(f"{section}.{name}", name) for section, specs in sections.items() for name in specs]
    if mistakes := list(_contradictions(topology, given)):
        raise ConfigError("\n".join(mistakes))


def convert_address(kind: type, value: object) -> object:
    """Decode addresses and prefixes for msgspec. Raises :class:`ValueError` as msgspec expects it."""
    if kind in (IPv4Address, IPv4Network, IPv6Address, IPv6Network):
        return kind(value)
    raise NotImplementedError(f"{kind} in a topology")


# -- decoding, one value at a time so that every mistake is found ---------------------------------------


def _entries(table: object, section: str, kind: type[Spec], mistakes: list[str]) -> dict[str, Spec]:
    if not isinstance(table, dict):
        mistakes.append(f"{section}: must be a table of tables, [{section}.NAME]")
        return {}
    decoded = {name: _entry(entry, f"{section}.{name}", kind, mistakes) for name, entry in table.items()}
    return {name: spec for name, spec in decoded.items() if spec is not None}


def _entry(table: object, origin: str, kind: type[Spec], mistakes: list[str]) -> Spec | None:
    """Return the struct of type ``kind`` in ``table``; on mistakes add them to the list and return None."""
    if not isinstance(table, dict):
        mistakes.append(f"{origin}: must be a table, [{origin}]")
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    found = len(mistakes)
    accepted: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            mistakes.append(f"{origin}.{key}: no such key{_hint(key, fields)}")
            continue
        field = fields[key]
        try:
            accepted[field.name] = msgspec.convert(value, field.type, dec_hook=convert_address)
        except msgspec.ValidationError as error:
            mistakes.append(f"{origin}.{key} = {value!r}: {error}")
    mistakes += [
        f"{origin}.{key}: is missing" for key, field in fields.items() if field.required and key not in table
    ]
    return kind(**accepted) if len(mistakes) == found else None


def _names(table: object) -> list[str]:
    return list(table) if isinstance(table, dict) else []


def _hint(word: str, known: object) -> str:
    close = difflib.get_close_matches(word, known, n=1)  # type: ignore[call-overload]
    return f"; did you mean {close[0]}?" if close else ""


# -- what single values do not show ---------------------------------------------------------------------


def _contradictions(topology: Topology, given: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the mistakes of ``topology``, in which the keys and names ``given`` were written."""
    yield from _check_names(given)
    yield from _check_references(topology, {name for _, name in given})
    yield from _check_prefixes(topology)
    yield from _check_addresses(topology)
    yield from _check_mesh(topology)


def _check_names(given: list[tuple[str, str]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for key, name in given:
        if not NAME_PATTERN.fullmatch(name):
            yield (
                f"{key}: {name!r} cannot be a name: it becomes the name of an interface, so use at most"
                " 15 small letters, digits and '-', a letter first"
            )
        if name in RESERVED_NAMES:
            yield f"{key}: the lab uses the name {name!r} itself"
        if name in seen:
            yield f"{key}: the name is taken by {seen[name]}"
        seen[name] = key


def _check_references(topology: Topology, given: set[str]) -> Iterator[str]:
    places = [*topology.networks, *topology.routers]
    for section, specs in (("routers", topology.routers), ("hosts", topology.hosts)):
        for name, spec in specs.items():
            # A place that is there but has a mistake of its own needs no second complaint.
            if spec.network not in places and (spec.network not in given or spec.network in topology.hosts):
                yield (
                    f"{section}.{name}.network: there is no network or router"
                    f" {spec.network!r}{_hint(spec.network, places)}"
                )
    yield from _check_second_cables(topology, places, given)
    for name in topology.routers:
        if _runs_in_circles(topology, name):
            yield f"routers.{name}.network: the router is behind itself"


def _check_second_cables(topology: Topology, places: list[str], given: set[str]) -> Iterator[str]:
    for name, host in topology.hosts.items():
        key, second = f"hosts.{name}.second-network", host.second_network
        if second is None:
            continue
        if second not in places and (second not in given or second in topology.hosts):
            yield f"{key}: there is no network or router {second!r}{_hint(second, places)}"
        if second == host.network:
            yield f"{key}: {second} is its first network already"
        if len(name) > SECOND_CABLE_NAME_LENGTH:
            yield f"{key}: the name of such a host may have {SECOND_CABLE_NAME_LENGTH} letters at most"
        if f"{name}-2" in given:
            yield f"{key}: its second cable is called {name}-2, so nothing else can be"


def _runs_in_circles(topology: Topology, router: str) -> bool:
    place = topology.routers[router].network
    for _ in topology.routers:
        if place == router:
            return True
        if place not in topology.routers:
            return False
        place = topology.routers[place].network
    return False


def _check_prefixes(topology: Topology) -> Iterator[str]:
    earlier: list[tuple[str, IPv4Network | IPv6Network]] = [("the mesh", topology.mesh.network)]
    for name, network in topology.networks.items():
        if network.prefix is None and network.ipv6 is None:
            yield f"networks.{name}: needs a prefix, an ipv6 prefix, or both"
        for key, own in (("prefix", network.prefix), ("ipv6", network.ipv6)):
            if own is not None:
                yield from _check_prefix(f"networks.{name}.{key}", own, earlier)
                earlier.append((name, own))
    for name, router in topology.routers.items():
        outside = topology.networks.get(router.network)
        if outside is not None and outside.prefix is None and outside.ipv6 is not None:
            yield f"routers.{name}.network: {router.network} has no IPv4 prefix; routers know IPv4 only"
        if router.lan.is_global:
            yield f"routers.{name}.lan: {router.lan} is a public prefix; use a private one"
        upstream = topology.routers.get(router.network)
        if upstream is not None and upstream.lan.overlaps(router.lan):
            yield f"routers.{name}.lan: {router.lan} overlaps the network outside, {upstream.lan}"


def _check_prefix(
    key: str, own: IPv4Network | IPv6Network, earlier: list[tuple[str, IPv4Network | IPv6Network]]
) -> Iterator[str]:
    if not own.is_global or own.is_multicast:
        yield (
            f"{key}: {own} is not globally routable; software such as a UPnP gateway would not take it for"
            " an internet (it never leaves the namespaces, so any will do)"
        )
    for other, prefix in earlier:
        if prefix.version == own.version and prefix.overlaps(own):
            yield f"{key}: {own} overlaps that of {other}"


def _check_addresses(topology: Topology) -> Iterator[str]:
    places = {name: spec.prefix for name, spec in topology.networks.items() if spec.prefix is not None}
    places |= {name: spec.lan for name, spec in topology.routers.items()}
    inhabitants: dict[str, list[str]] = {name: [] for name in places}
    yield from _check_ipv6_addresses(topology)
    taken: dict[tuple[str, IPv4Address], str] = {}
    for section, specs in (("routers", topology.routers), ("hosts", topology.hosts)):
        for name, spec in specs.items():
            if spec.network in places:
                inhabitants[spec.network].append(name)
            if spec.address is not None:
                other = taken.setdefault((spec.network, spec.address), name)
                place = places.get(spec.network)
                yield from _check_address(f"{section}.{name}.address", spec.address, place, other, name)
    for name, host in topology.hosts.items():
        if host.second_network in places:
            inhabitants[host.second_network].append(name)
    for name, prefix in places.items():
        if prefix.num_addresses - 3 < len(inhabitants[name]):
            yield f"{name}: {prefix} has too few addresses for {len(inhabitants[name])} machines"


def _check_address(
    key: str, address: IPv4Address, prefix: IPv4Network | None, owner: str, name: str
) -> Iterator[str]:
    if prefix is None:
        yield f"{key}: the network has no IPv4 prefix"
        return
    if address not in prefix:
        yield f"{key}: {address} is outside of {prefix}"
    if address in (prefix[0], prefix[1], prefix[-1]):
        yield f"{key}: {address} is the network itself, its gateway or its broadcast address"
    if owner != name:
        yield f"{key}: {address} is taken by {owner}"


def _check_ipv6_addresses(topology: Topology) -> Iterator[str]:
    taken: dict[IPv6Address, str] = {}
    for name, spec in topology.hosts.items():
        if spec.ipv6 is None:
            continue
        network = topology.networks.get(spec.network)
        prefix = network.ipv6 if network is not None else None
        if prefix is None:
            yield f"hosts.{name}.ipv6: {spec.network} has no IPv6 prefix"
        elif spec.ipv6 not in prefix or spec.ipv6 in (prefix[0], prefix[1]):
            yield f"hosts.{name}.ipv6: {spec.ipv6} is outside of {prefix}, or its gateway"
        if (other := taken.setdefault(spec.ipv6, name)) != name:
            yield f"hosts.{name}.ipv6: {spec.ipv6} is taken by {other}"


def _check_mesh(topology: Topology) -> Iterator[str]:
    try:
        parse_network(str(topology.mesh.network))
    except ConfigError as error:
        yield f"mesh.network: {error}"
    places = {"state-directory": "/state", "runtime-directory": "/run"}
    given = {"mesh.settings": topology.mesh.settings}
    given |= {f"hosts.{name}.settings": host.settings for name, host in topology.hosts.items()}
    for key, settings in given.items():
        try:
            config.from_values({**settings, **places}, key)
        except ConfigError as error:
            yield from str(error).splitlines()
    registries = [name for name, host in topology.hosts.items() if Role.REGISTRY in host.roles]
    for name in registries[1:]:
        yield f"hosts.{name}.roles: {registries[0]} is the registry already; a mesh has one"
    if topology.nodes and not registries:
        yield f"hosts.{topology.nodes[0]}.roles: a mesh needs a host with the role registry"
    for name in registries:
        if topology.hosts[name].network in topology.routers:
            yield f"hosts.{name}.network: the registry must have a public address, it is behind a router"
