"""Decides where this node can be reached from outside, and which endpoints of peers are worth a try (pure).

What is published in the peer record must work from anywhere: addresses that the owner advertises, public
addresses of this host, and ports that the home router forwards. Private, link-local, temporary and
overlay addresses never are. A tunnel's endpoints go to one peer only, so an address of our LAN may be
among them when that peer is likely to be in the same LAN.

A tunnel must never run through the overlay, which would carry itself then. Addresses inside the network's
prefix betray themselves. That another address is reached through an overlay, of this network or of
another one on the same host, shows in the source address that the kernel would choose: routes of an overlay
have the node address as their preferred source.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.messages import Endpoint, Transport
from re6st.node.addresses import Address, HostAddress
from re6st.status import Reachability
from re6st.upnp.actions import Mapping

PUBLISHED = 16
"""Endpoints that fit in a peer record."""

OFFERED = 8
"""Endpoints that fit in an offer of a tunnel."""

Source = Callable[[Address], Address | None]
"""Says from which address of ours packets to another one would leave; None when there is no route."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """What is known of the network below."""

    network: IPv6Network
    """The overlay's prefix: never part of the underlay."""
    addresses: tuple[HostAddress, ...] = ()
    """Of this host."""
    advertised: tuple[Address, ...] = ()
    """Where the owner says that our ports are reached."""
    external: Address | None = None
    """The home router's outside address, if it is public."""

    def public(self) -> tuple[HostAddress, ...]:
        """Return the addresses of this host that others can reach from anywhere, IPv4 first."""
        return tuple(
            one
            for one in self.addresses
            if one.stable and self._is_global(one.address) and not _is_overlay_like(one)
        )

    def private(self) -> tuple[HostAddress, ...]:
        """Return the addresses of this host that only its own LAN can reach."""
        return tuple(
            one
            for one in self.addresses
            if not one.address.is_global
            and not one.address.is_loopback
            and not one.address.is_link_local
            and one.address not in self.network
            and not _is_overlay_like(one)
        )

    def on_link(self, address: Address) -> bool:
        """Whether ``address`` belongs to a network to which this host is attached."""
        return address not in self.network and any(
            address in ipaddress.ip_network((one.address, one.prefix_length), strict=False)
            for one in self.addresses
            if one.address.version == address.version and not _is_overlay_like(one)
        )

    def _is_global(self, address: Address) -> bool:
        return address.is_global and not address.is_multicast and address not in self.network


@dataclass(frozen=True, slots=True)
class Listener:
    """A port at which a tunnel's dialer is awaited."""

    transport: Transport
    port: int


@dataclass(frozen=True, slots=True)
class Situation:
    """How this node can be reached from outside."""

    reachability: Reachability
    reason: str
    """For people."""
    endpoints: tuple[Endpoint, ...]
    """Of the control API, to be published, best first."""
    mapped: bool = False
    """The home router forwards the port."""


def assess(underlay: Underlay, port: int, mapping: Mapping | None, no_mapping: str) -> Situation:
    """Return how the control API at TCP ``port`` is reached.

    ``mapping`` is that of the port if there is one; otherwise ``no_mapping`` says why not.
    """
    endpoints = _everywhere(underlay, Transport.TCP, port, mapping)[:PUBLISHED]
    public = underlay.public()
    by_version = {one.address.version: one for one in reversed(public)}
    if underlay.advertised:
        addresses = ", ".join(str(address) for address in underlay.advertised)
        return Situation(
            Reachability.CONFIGURED,
            f"the configuration advertises {addresses}",
            endpoints,
            mapping is not None,
        )
    if 4 in by_version:
        reason = f"{by_version[4].address} of {by_version[4].interface} is a public address"
        return Situation(Reachability.PUBLIC, reason, endpoints, mapping is not None)
    if mapping is not None:
        reason = f"the home router forwards TCP port {mapping.external_port} of {mapping.external_address}"
        return Situation(Reachability.MAPPED, reason, endpoints, mapped=True)
    if public:
        reason = (
            f"{public[0].address} of {public[0].interface} is public, unless a router blocks it; IPv6 only"
        )
        return Situation(Reachability.PUBLIC, reason, endpoints)
    private = underlay.private()
    if not private:
        return Situation(Reachability.NONE, "this host has no address; is it online?", ())
    where = f"{private[0].address} of {private[0].interface} is not a public address"
    return Situation(Reachability.NONE, f"{where}; {no_mapping}", ())


def tunnel_endpoints(
    underlay: Underlay,
    listener: Listener,
    mapping: Mapping | None,
    *,
    local: Address,
    remote: Address,
    dialer: Iterable[Address] = (),
) -> tuple[Endpoint, ...]:
    """Return where a dialer reaches our ``listener``, best first; empty when it cannot.

    Its request came from ``remote`` to our address ``local``; it publishes the addresses ``dialer``.
    Where a private source reached a private address of ours, both are in one LAN, and that way is proven.
    The same outside address suggests it: the LAN is the last candidate then, since few routers lead a
    connection from inside to their own outside address back in.
    """
    transport, port = listener.transport, listener.port
    lan = [
        Endpoint(transport, str(one.address), port) for one in underlay.private() if one.address.version == 4
    ]
    through_overlay = local in underlay.network or remote in underlay.network
    proven = [] if through_overlay else [Endpoint(transport, str(local), port)]
    everywhere = list(_everywhere(underlay, transport, port, mapping))
    is_direct = local.is_global or not remote.is_global
    candidates = [*proven, *everywhere] if is_direct else everywhere
    if underlay.external is not None and underlay.external in (remote, *dialer):
        candidates += lan
    return tuple(dict.fromkeys(candidates))[:OFFERED]


def join_endpoints(own: Sequence[Endpoint], shared: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints of a tunnel's ``own`` port and of the port ``shared`` with the control API.

    The own port comes first: the shared one costs the listener more. Both kinds are among those that fit.
    """
    room = OFFERED - min(len(shared), OFFERED // 2)
    return tuple(dict.fromkeys([*own[:room], *shared]))[:OFFERED]


def usable(underlay: Underlay, endpoints: Sequence[Endpoint], source: Source) -> tuple[Endpoint, ...]:
    """Return those of ``endpoints``, which a peer has named, to which packets may be sent from here.

    A peer cannot make us send them to this host, to many, or into an overlay.
    """
    own = {one.address for one in underlay.addresses}
    overlay = {one.address for one in underlay.addresses if _is_overlay_like(one)}
    chosen = []
    for endpoint in endpoints:
        address = _parse(endpoint.address)
        if address is None or address in own or address in underlay.network or _is_special(address):
            continue
        leaves_from = source(address)
        if leaves_from is not None and leaves_from not in underlay.network and leaves_from not in overlay:
            chosen.append(endpoint)
    return tuple(chosen)


def dial_order(underlay: Underlay, endpoints: Sequence[Endpoint], source: Source) -> tuple[Endpoint, ...]:
    """Return those of a peer's ``endpoints`` that are worth a try from here, best first.

    A member may publish whatever it likes, so its private address in a network to which this host is
    attached is more likely a stranger of our LAN than the peer. It is tried, first, if the peer is behind
    the same outside address as we are, and otherwise only if the peer has no public endpoint to be tried.
    Endpoints at our own outside address come late, since few routers lead there from inside, and private
    addresses of elsewhere last: a company may route them, and its nodes advertise them.
    """
    addresses = {endpoint: _parse(endpoint.address) for endpoint in endpoints}
    shares_router = underlay.external is not None and underlay.external in addresses.values()

    def rank(endpoint: Endpoint) -> int:
        address = ipaddress.ip_address(endpoint.address)
        if underlay.on_link(address):
            return 0 if shares_router or address.is_global else 4
        if not address.is_global:
            return 3
        return 2 if address == underlay.external else 1

    versions = {one.address.version for one in (*underlay.public(), *underlay.private())}
    ranks = {
        endpoint: rank(endpoint)
        for endpoint in usable(underlay, endpoints, source)
        if underlay.on_link(ipaddress.ip_address(endpoint.address))
        or ipaddress.ip_address(endpoint.address).version in versions
    }
    has_public = any(ipaddress.ip_address(endpoint.address).is_global for endpoint in ranks)
    chosen = [endpoint for endpoint, value in ranks.items() if value != 4 or not has_public]
    return tuple(sorted(chosen, key=lambda endpoint: ranks[endpoint]))


def _everywhere(
    underlay: Underlay, transport: Transport, port: int, mapping: Mapping | None
) -> tuple[Endpoint, ...]:
    """Return the endpoints that work from anywhere; IPv6 comes last, since home routers often block it."""
    endpoints = [Endpoint(transport, str(address), port) for address in underlay.advertised]
    public = [one.address for one in underlay.public()]
    endpoints += [Endpoint(transport, str(address), port) for address in public if address.version == 4]
    if mapping is not None:
        endpoints.append(Endpoint(transport, str(mapping.external_address), mapping.external_port))
    endpoints += [Endpoint(transport, str(address), port) for address in public if address.version == 6]
    return tuple(dict.fromkeys(endpoints))


def _is_overlay_like(one: HostAddress) -> bool:
    """Whether this is a node address: of another re6st network on the same host, for example."""
    return one.interface == "lo" and one.address.version == 6


def _is_special(address: Address) -> bool:
    return (
        address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or (address.version == 4 and address.is_reserved)
    )


def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
