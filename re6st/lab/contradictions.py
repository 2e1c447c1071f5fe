"""Mistakes of a topology that single values do not show: names taken twice, addresses out of place.

Each mistake is one line, which begins with the key in question.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from re6st import config
from re6st.errors import ConfigError
from re6st.lab.specs import INTERNET, Role, Topology
from re6st.prefix import parse_network

RESERVED_NAMES = frozenset({INTERNET, "lo", "lan", "wan", "eth0", "eth1"})
"""Names that the lab itself gives to namespaces and interfaces."""

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,14}")
"""Names of networks, routers and hosts: they become names of interfaces, at most 15 characters."""

SECOND_CABLE_NAME_LENGTH = 13
"""Longest name of a host with two cables: the second one is called by it and ``-2``."""


def contradictions(topology: Topology, given: list[tuple[str, str]]) -> Iterator[str]:
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
                    f" {spec.network!r}{hint(spec.network, places)}"
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
            yield f"{key}: there is no network or router {second!r}{hint(second, places)}"
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


def hint(word: str, known: Iterable[str]) -> str:
    """Return a question whether another one of the ``known`` words was meant, empty if none is similar."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
