"""What ``re6st-node doctor`` looks at, in which order, and what it makes of what was found (pure).

Each check gives one finding. The order is that in which things depend on each other, so that the first
finding that is not in order is the one to begin with. What there is to see is gathered by
:mod:`re6st.node.examination`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv6Address

from msgspec import Struct

from re6st.status import (
    LanStatus,
    MappingStatus,
    NodeStatus,
    OutsideStatus,
    PeerStatus,
    Reachability,
    RouteStatus,
    TunnelStatus,
)
from re6st.tunnel.path_mtu import SMALLEST, Origin

CLOCK_WARNING = 30.0
"""Seconds by which the clock may differ from the registry's."""

CLOCK_FAILURE = 3600.0
"""Seconds after which certificates begin to look invalid: they are antedated by so much."""

EXPIRES_SOON = 7 * 86_400.0
"""Seconds before its expiry at which a certificate ought to have been renewed long ago."""

_CUT = (Origin.FRAGMENTS.value, Origin.PIECES.value)

UNREACHABLE = 65535
"""Cost of a neighbour with which packets do not pass in both directions (RFC 8966, 2.3)."""

PERMANENT = 0x80
"""Flag of an address that no router advertisement has made (``linux/if_addr.h``)."""


class Verdict(enum.Enum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    """The node works, though not as well as it could."""
    FAILED = "failed"


class Finding(Struct, frozen=True):
    """The result of one check."""

    check: str
    verdict: Verdict
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


def ok(check: str, detail: str) -> Finding:
    """Return a finding that is in order."""
    return Finding(check, Verdict.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Return a finding that could be better."""
    return Finding(check, Verdict.WARNING, detail, remedy)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """Return a finding that keeps the node from working."""
    return Finding(check, Verdict.FAILED, detail, remedy)


def certificate(expires: float, wall: float) -> Finding:
    """Judge a valid certificate that ``expires`` (both: seconds since the epoch)."""
    days = (expires - wall) / 86_400
    if expires - wall < EXPIRES_SOON:
        return warning(
            "certificate",
            f"expires in {days:.1f} days and was not renewed",
            "see that the registry is reachable; the running node renews by itself",
        )
    return ok("certificate", f"valid for {days:.0f} days")


def clock(difference: float) -> Finding:
    """Judge how many seconds this host's clock is ahead of the registry's."""
    direction = "ahead of" if difference > 0 else "behind"
    detail = f"{abs(difference):.0f} s {direction} that of the registry"
    remedy = "synchronise the clock: apt-get install systemd-timesyncd, or chrony"
    if abs(difference) >= CLOCK_FAILURE:
        return failed("clock", detail, remedy)
    if abs(difference) >= CLOCK_WARNING:
        return warning("clock", detail, remedy)
    return ok("clock", f"agrees with that of the registry ({difference:+.0f} s)")


OPEN_PORTS = "enable UPnP or PCP on the router, or forward the ports by hand and set advertise"


def reachability(status: NodeStatus) -> Finding:
    """Judge what the node thinks of its own place."""
    if status.reachability is Reachability.NONE:
        remedies = [one.remedy for one in status.mappings if one.protocol == "tcp" and one.remedy]
        return warning(
            "address",
            f"others cannot dial this node: {status.reachability_reason}",
            f"nothing needs to be done, it dials others; better: {(*remedies, OPEN_PORTS)[0]}",
        )
    return ok("address", f"{status.reachability.value}: {status.reachability_reason}")


def mapping(mappings: Sequence[MappingStatus], control_port: int) -> Finding:
    """Judge what became of the control port on the home router."""
    for one in mappings:
        if one.protocol == "tcp" and one.internal_port == control_port:
            if one.external_port:
                how = f" ({one.method})" if one.method else ""
                return ok("port mapping", f"the home router forwards TCP port {one.external_port}{how}")
            return warning(
                "port mapping",
                f"TCP port {control_port} is not forwarded: {one.reason}",
                one.remedy or "see whether it is in a minute; the router is being asked",
            )
    return ok("port mapping", "none is needed or wanted")


def outside(status: OutsideStatus) -> Finding:
    """Judge what a peer says of our endpoints."""
    if status.reached:
        detail = f"{status.tester} reaches {', '.join(status.reached)}"
        if not status.unreached:
            return ok("from outside", detail)
        return warning(
            "from outside",
            f"{detail}, but not {', '.join(status.unreached)}",
            "let TCP and UDP of the control and tunnel ports through the firewall for that address, too",
        )
    if status.unreached:
        return failed(
            "from outside",
            f"{status.tester} reaches none of {', '.join(status.unreached)}",
            "let the control port and the tunnel ports through the firewalls of this host and of its router",
        )
    return ok("from outside", f"not tested: {status.reason}")


def forwarding(settings: Mapping[str, str]) -> Finding:
    """Judge IPv6 forwarding; ``settings`` maps ``<interface>/<name>`` to values."""
    if settings.get("all/forwarding") != "1":
        return failed(
            "forwarding",
            "this host does not forward IPv6",
            "something else has switched it off: look for net.ipv6.conf.all.forwarding in /etc/sysctl.d",
        )
    return ok("forwarding", "this host forwards IPv6")


def advertisements(
    settings: Mapping[str, str], addresses: Collection[tuple[str, IPv6Address, int]]
) -> Finding:
    """Judge whether the host keeps its own IPv6; ``addresses`` are interface, address and flags."""
    dynamic = {name for name, address, flags in addresses if address.is_global and not flags & PERMANENT}
    lost = sorted(name for name in dynamic if settings.get(f"{name}/accept_ra") == "1")
    if lost:
        names = ", ".join(lost)
        return warning(
            "router advertisements",
            f"{names} has its address from a router and ignores the router from now on",
            f"sysctl -w {' '.join(f'net.ipv6.conf.{name}.accept_ra=2' for name in lost)}",
        )
    return ok("router advertisements", "the host's own IPv6 is not touched")


def tunnels(found: Sequence[TunnelStatus]) -> Finding:
    """Judge the tunnels."""
    up = [tunnel for tunnel in found if tunnel.state == "up"]
    if not up:
        return failed(
            "tunnels",
            "no tunnel is up",
            "see the log of the node; outgoing TCP to the control ports of others, and UDP or TCP to their"
            " tunnel ports, must be allowed",
        )
    over_tcp = sum(tunnel.established in ("tcp", "proxy") for tunnel in up)
    if over_tcp == len(up):
        return warning(
            "tunnels",
            f"{len(up)} up, all over TCP: UDP does not get through",
            "allow outgoing UDP on the router or firewall",
        )
    return ok("tunnels", f"{len(up)} up, {over_tcp} of them over TCP")


def packet_size(found: Sequence[TunnelStatus]) -> Finding:
    """Judge how large packets are that the tunnels carry."""
    up = [tunnel for tunnel in found if tunnel.state == "up"]
    measured = [tunnel for tunnel in up if tunnel.mtu_origin != Origin.START.value]
    if not measured:
        return ok("packet size", "not measured yet")
    if lost := [tunnel.peer for tunnel in measured if tunnel.mtu_origin == Origin.NARROW.value]:
        return warning(
            "packet size",
            f"packets of {SMALLEST} octets do not pass to {', '.join(lost)}: routers drop them silently",
            "the node asks for tunnels that cut packets; if this stays, those peers need a newer re6st; let"
            " ICMP and ICMPv6 through the firewalls on the way",
        )
    sizes = sorted(tunnel.mtu for tunnel in measured)
    detail = (
        f"tunnels carry {sizes[0]} octets"
        if sizes[0] == sizes[-1]
        else (f"tunnels carry {sizes[0]} to {sizes[-1]} octets")
    )
    cut = [tunnel.peer for tunnel in measured if tunnel.mtu_origin in _CUT]
    if cut:
        detail += f"; paths too narrow for that, where packets are cut, lead to {', '.join(cut)}"
    if len(cut) == len(measured):
        return warning(
            "packet size",
            detail,
            "everything works, at more cost: this host's own line is narrow; if it should not be, see the MTU"
            " of its router, and let ICMP and ICMPv6 through",
        )
    if sizes[-1] == SMALLEST:
        return warning(
            "packet size",
            f"{detail}, the least there can be",
            "let ICMP and ICMPv6 through the firewall of the router; or set tunnel-mtu higher if it is 1280",
        )
    return ok("packet size", detail)


def routing(status: NodeStatus, found: Sequence[RouteStatus]) -> Finding:
    """Judge the routing daemon: its state, its neighbours and what it has learnt."""
    if status.routing != "running":
        return failed("routing", f"babeld: {status.routing}", "see the log of the node")
    neighbours = {route.next_hop or route.interface for route in found}
    if not status.routes:
        return failed(
            "routing",
            "babeld runs and has no route to any node",
            "if tunnels are up, see that no firewall drops UDP port 6696 on them",
        )
    return ok("routing", f"babeld runs, {len(neighbours)} neighbours, {status.routes} routes")


def lan(status: LanStatus) -> Finding:
    """Judge the trusted LANs."""
    check = "lan"
    if not status.interfaces:
        return ok(check, "none is configured (lan-interfaces)")
    if not status.keyed:
        return warning(
            check,
            "there is no key, so no neighbour is looked for",
            "see that the registry or another node can be reached; an operator makes the first key with"
            " re6st-registry lan-key rotate",
        )
    if status.down:
        return warning(
            check,
            f"no link on {', '.join(status.down)}",
            "see that the interface exists, is up and has a link-local address; or correct lan-interfaces",
        )
    deaf = [one.address for one in status.neighbours if one.cost >= UNREACHABLE]
    if deaf:
        return warning(
            check,
            f"{', '.join(deaf)} cannot be used: it does not hear this node",
            f"let UDP port {status.port} in from the LAN there; see that all have the same key",
        )
    names = ", ".join(one.peer or one.address for one in status.neighbours)
    where = f"{', '.join(status.interfaces)}, UDP port {status.port}"
    return ok(check, f"{names or 'no neighbour'} on {where}")


def registry_node(
    addresses: Collection[str], own: NodeStatus, peers: Sequence[PeerStatus], routes: Sequence[RouteStatus]
) -> Finding:
    """Judge the route to the node on the registry's host, which has the underlay ``addresses``."""
    check = "registry's node"

    def lives_there(endpoints: Sequence[str]) -> bool:
        hosts = {endpoint.partition(":")[2].rpartition(":")[0].strip("[]") for endpoint in endpoints}
        return bool(hosts & set(addresses))

    if lives_there(own.endpoints):
        return ok(check, "this is it")
    peer = next((one for one in peers if lives_there(one.endpoints)), None)
    if peer is None:
        return ok(check, "none is known, there need not be one")
    route = next((one for one in routes if one.prefix == peer.prefix and one.installed), None)
    if route is None:
        return failed(check, f"no route to {peer.name}", "wait a minute; then see the log of the node")
    return ok(check, f"{peer.name} is reached by {route.next_hop or route.interface}, metric {route.metric}")
