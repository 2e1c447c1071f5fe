"""Reads the addresses of this host, and which one it would use: the only place that knows netifaces."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from re6st.errors import NetlinkError

INET6_TABLE = Path("/proc/thread-self/net/if_inet6")
"""Says of each IPv6 address what netifaces does not: its flags (``addrconf.c`` of the kernel)."""

ROUTE_TABLE = Path("/proc/thread-self/net/route")
"""The routes for IPv4, best ones first (``fib_trie.c`` of the kernel). netifaces starts programs for it."""

UNSTABLE = 0x01 | 0x08 | 0x20 | 0x40
"""Temporary, duplicate, deprecated or tentative (``linux/if_addr.h``)."""

Address = IPv4Address | IPv6Address

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_IFF_RUNNING = 0x40  # netdevice(7)


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of this host."""

    interface: str
    address: Address
    prefix_length: int
    stable: bool = True
    """It is neither a temporary address (RFC 8981) nor one that is about to go or not yet there."""


def host_addresses() -> tuple[HostAddress, ...]:
    """Return all addresses of this host, IPv4 first. Raises :class:`NetlinkError`."""
    import netifaces

    try:
        unstable = unstable_addresses(INET6_TABLE.read_text()) if INET6_TABLE.exists() else frozenset()
        found: list[HostAddress] = []
        for name in netifaces.interfaces():
            families = _addresses(name)
            for family in (netifaces.AF_INET, netifaces.AF_INET6):
                entries = families.get(family, [])
                found += [_host_address(name, entry, unstable) for entry in entries if "addr" in entry]
    except (OSError, ValueError) as error:
        raise NetlinkError(f"cannot read the addresses of this host: {error}") from error
    return tuple(sorted(found, key=lambda one: one.address.version))


def default_router() -> IPv4Address | None:
    """Return the next hop of the default route for IPv4, None if there is none."""
    try:
        with ROUTE_TABLE.open() as table:
            return next_hop(table)
    except OSError:
        return None


def next_hop(table: Iterable[str]) -> IPv4Address | None:
    """Return the next hop of the first default route in the lines of :data:`ROUTE_TABLE` that has one."""
    for line in table:
        _, destination, gateway, _, _, _, _, mask, *_ = line.split()
        if destination == mask == gateway:
            continue  # the default route of a link without routers
        if destination == mask == "00000000":
            return IPv4Address(int(gateway, 16).to_bytes(4, sys.byteorder))
    return None


def source_towards(address: Address, interface: str = "") -> Address | None:
    """Return the address from which this host would send to ``address``; None when it has no route there.

    With ``interface`` only routes through it count. Nothing is sent: connecting a datagram socket only looks
    up the route.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            bind_to_interface(probe, interface)
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def bind_to_interface(bound: socket.socket, interface: str) -> None:
    """Let ``bound`` use only routes through ``interface`` (SO_BINDTODEVICE, socket(7)); none: all routes.

    Raises :class:`OSError`, for example when there is no such interface.
    """
    if interface:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())


def is_running(interface: str) -> bool:
    """Return whether ``interface`` is there, up and has a carrier (IFF_RUNNING, netdevice(7))."""
    request = struct.pack("16sH14x", interface.encode(), 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
    except OSError:
        return False
    flags: int = struct.unpack("16sH14x", answer)[1]
    return bool(flags & _IFF_RUNNING)


def _addresses(interface: str) -> dict[int, list[dict[str, str]]]:
    import netifaces

    try:
        addresses: dict[int, list[dict[str, str]]] = netifaces.ifaddresses(interface)
    except (OSError, ValueError):
        # It has vanished since the names were listed.
        return {}
    return addresses


def _host_address(name: str, entry: dict[str, str], unstable: Collection[Address]) -> HostAddress:
    # A link-local address may come with its zone, a mask with the address before it.
    address = ipaddress.ip_address(entry["addr"].partition("%")[0])
    mask = int(ipaddress.ip_address(entry["mask"].partition("/")[0])) if "mask" in entry else -1
    length = mask.bit_count() if mask >= 0 else address.max_prefixlen
    return HostAddress(name, address, length, stable=address not in unstable)


def unstable_addresses(table: str) -> frozenset[Address]:
    """Return the addresses that ``table``, the text of :data:`INET6_TABLE`, marks as not to be relied on."""
    found = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= 5 and int(fields[4], 16) & UNSTABLE:
            found.add(IPv6Address(bytes.fromhex(fields[0])))
    return frozenset(found)
