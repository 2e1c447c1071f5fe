"""Tables of a node's state, for people."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from re6st.status import (
    LanStatus,
    MappingStatus,
    NodeStatus,
    PacketSizeStatus,
    PeerStatus,
    RouteStatus,
    TunnelStatus,
)

_DAY = 86_400

MOST_NAMES = 4
"""Peers that are named in one line."""

UNREACHABLE = 65535
"""Metric and cost of what cannot be reached (RFC 8966, 2.3)."""


def _octets(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole >= _DAY:
        return f"{whole // _DAY} d {whole % _DAY // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


_NAME_WIDTH = 12
"""Columns for the name of a line of the status."""

WIDEST = 1000
"""Columns that a table may have."""


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print a table whose lines are never folded: each row stays one line, also for grep."""
    console = Console(markup=False, highlight=False)
    if not rows:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*row)
    # A console never prints wider than itself: this one is as wide as the table.
    needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    Console(markup=False, highlight=False, width=max(console.width, needed)).print(table)


def print_status(status: NodeStatus) -> None:
    """Print the node in short."""
    remaining = status.certificate_expires - time.time()
    lines = [
        ("node", f"{status.name}  {status.prefix}"),
        *((("further", ", ".join(status.further_prefixes)),) if status.further_prefixes else ()),
        ("address", status.address),
        ("network", status.network),
        ("reachable", f"{status.reachability.value}: {status.reachability_reason}"),
        ("endpoints", ", ".join(status.endpoints) or "none"),
        ("tunnels", f"{status.tunnels_out} out, {status.tunnels_in} in"),
        *(("packet size", _packet_size(size)) for size in status.packet_sizes),
        ("routes", f"{status.routes} to {status.peers} known nodes"),
        ("routing", status.routing),
        ("registry", status.registry),
        ("certificate", f"valid for {_duration(max(remaining, 0))}"),
        ("parameters", f"version {status.parameters_version}, revocations {status.revocations_version}"),
        ("daemon", f"{status.software}, pid {status.pid}, up {_duration(status.uptime)}"),
    ]
    lines += [("mapping", _mapping_line(mapping)) for mapping in status.mappings]
    lines += [("lan", line) for line in _lan_lines(status.lan)]
    console = Console(markup=False, highlight=False)
    # A person's terminal folds a long value behind its name; for programs a line stays one.
    width = max(console.width - _NAME_WIDTH, _NAME_WIDTH) if console.is_terminal else WIDEST
    for name, value in lines:
        first, *rest = textwrap.wrap(value, width) or [""]
        console.print(f"{name:<{_NAME_WIDTH}}", style="bold", end="")
        console.print(first, soft_wrap=True)
        for further in rest:
            console.print(f"{'':<{_NAME_WIDTH}}{further}", soft_wrap=True)


def _packet_size(size: PacketSizeStatus) -> str:
    peers = ", ".join(size.peers[:MOST_NAMES]) + (", ..." if len(size.peers) > MOST_NAMES else "")
    return f"{size.mtu} octets to {peers}: {size.explanation}"


def _mapping_line(mapping: MappingStatus) -> str:
    ports = f"{mapping.protocol} {mapping.internal_port} -> {mapping.external_port or 'none'}"
    if mapping.external_port:
        return f"{ports}  {mapping.state} {mapping.method}".rstrip()
    return f"{ports}  {mapping.state}: " + "; ".join(filter(None, (mapping.reason, mapping.remedy)))


def _lan_lines(lan: LanStatus) -> list[str]:
    """Return a line for each LAN: its neighbours, or why there are none."""
    lines = []
    for interface in lan.interfaces:
        neighbours = [one for one in lan.neighbours if one.interface == interface]
        names = [
            (one.peer or one.address) + ("" if one.cost < UNREACHABLE else " (does not hear us)")
            for one in neighbours
        ]
        if not lan.keyed:
            state = "no key yet"
        elif interface in lan.down:
            state = "no link"
        else:
            state = ", ".join(names) or "no neighbour"
        lines.append(f"{interface}: {state}")
    return lines


def print_tunnels(tunnels: Sequence[TunnelStatus]) -> None:
    """Print all tunnels; the uplinks only if any is bound to one."""
    is_bound = any(tunnel.uplink for tunnel in tunnels)
    _table(
        (
            *("PEER", "DIR", "STATE", "HOW", "INTERFACE"),
            *(("UPLINK",) if is_bound else ()),
            *("REMOTE", "MTU", "FROM", "AGE", "IN", "OUT"),
        ),
        [
            (
                tunnel.peer,
                tunnel.direction,
                tunnel.state,
                tunnel.established,
                tunnel.interface,
                *((tunnel.uplink or "-",) if is_bound else ()),
                tunnel.remote or "-",
                str(tunnel.mtu),
                tunnel.mtu_origin or "-",
                _duration(tunnel.age),
                _octets(tunnel.received),
                _octets(tunnel.sent),
            )
            for tunnel in tunnels
        ],
        "There is no tunnel.",
    )


def print_peers(peers: Sequence[PeerStatus]) -> None:
    """Print the address book."""
    _table(
        ("NAME", "PREFIX", "TUNNEL", "ENDPOINTS", "FAILURES", "SOFTWARE"),
        [
            (
                peer.name,
                peer.prefix,
                "yes" if peer.connected else "-",
                " ".join(peer.endpoints) or "outgoing only",
                str(peer.failures or "-"),
                peer.software,
            )
            for peer in peers
        ],
        "No other node is known yet.",
    )


def print_routes(routes: Sequence[RouteStatus]) -> None:
    """Print the routes to other nodes."""
    _table(
        ("PREFIX", "NODE", "METRIC", "INTERFACE", "NEXT HOP", "USED"),
        [
            (
                route.prefix,
                route.peer or "-",
                str(route.metric) if route.metric < UNREACHABLE else "unreachable",
                route.interface,
                route.next_hop or "-",
                "yes" if route.installed else "-",
            )
            for route in routes
        ],
        "There is no route to another node yet.",
    )
