"""Babel packets sent beside babeld: to its neighbours as if it had sent them, or to it as if one had (I/O).

babeld cannot be told everything that we know, but neighbours may tell each other a lot (RFC 8966). Both kinds
of packets use babeld's own UDP port. A UDP socket there could catch packets that are meant for babeld; raw
ones only copy them.
"""

from __future__ import annotations

import socket
import struct

from re6st.errors import NetlinkError

BABEL_GROUP = "ff02::1:6"
"""Link-local multicast group of all Babel routers (RFC 8966, 4)."""

_MAGIC, _VERSION = 42, 2
_UDP = 17
_CHECKSUM_OFFSET = 6
"""Where the checksum is in a UDP header."""


def assemble(records: list[tuple[int, bytes]]) -> bytes:
    """Return the packet of these TLVs: type and value of each (RFC 8966, 4.2 and 4.3)."""
    body = b"".join(struct.pack("!BB", kind, len(value)) + value for kind, value in records)
    return struct.pack("!BBH", _MAGIC, _VERSION, len(body)) + body


def send_packet(interface: str, port: int, payload: bytes) -> None:
    """Send ``payload`` to all routers on ``interface``, from and to the UDP port ``port``.

    Raises :class:`NetlinkError`, for example when the link is not yet up.
    """
    datagram = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    try:
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP) as sender:
            sender.setblocking(False)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _CHECKSUM_OFFSET)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            sender.sendto(datagram, (BABEL_GROUP, 0, 0, index))
    except OSError as error:
        raise NetlinkError(f"cannot speak to the neighbour on {interface}: {error.strerror}") from error


def inject_packet(interface: str, port: int, neighbour: str, payload: bytes) -> None:
    """Hand ``payload`` to the babeld of this host as if ``neighbour`` (a link-local address) had sent it.

    The packet does not leave the host: its destination is our own address on ``interface``. Raises
    :class:`NetlinkError`, for example when the link is down.
    """
    try:
        index = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((neighbour, port, 0, index))
            own = probe.getsockname()[0].partition("%")[0]
        packet = _ipv6_datagram(neighbour, own, port, payload)
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            sender.setblocking(False)
            sender.sendto(packet, (own, 0, 0, index))
    except OSError as error:
        raise NetlinkError(f"cannot reach babeld on {interface}: {error}") from error


def _ipv6_datagram(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """Return an IPv6 packet with a UDP datagram from and to ``port`` (RFC 8200, 3 and 8.1; RFC 768)."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    length = 8 + len(payload)
    datagram = struct.pack("!HHHH", port, port, length, 0) + payload
    summed = addresses + struct.pack("!II", length, _UDP) + datagram + bytes(length % 2)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = ~total & 0xFFFF or 0xFFFF
    header = struct.pack("!IHBB", 6 << 28, length, _UDP, 1) + addresses
    return header + datagram[:6] + struct.pack("!H", checksum) + payload
