"""Asks the router at the other end of a tunnel for its whole table, on babeld's behalf.

babeld asks for the table of a neighbour once, when the link comes up. What is lost at that moment - the
other end comes up a little later - is announced again only with the next full update. A wildcard Route
Request (RFC 8966, 4.6.10) prompts it at once; who receives it takes it for babeld's own.
"""

from __future__ import annotations

import socket
import struct

from re6st.errors import NetlinkError

BABEL_GROUP = "ff02::1:6"
"""Link-local multicast group of all Babel routers (RFC 8966, 4)."""

_CHECKSUM_OFFSET = 6
"""Where the checksum is in a UDP header."""


def wildcard_request() -> bytes:
    """Return the packet: header (magic 42, version 2, body length), then one TLV with the empty prefix."""
    route_request = bytes((9, 2, 0, 0))  # type, length, address encoding "wildcard", prefix length
    return struct.pack("!BBH", 42, 2, len(route_request)) + route_request


def send_wildcard_request(interface: str, port: int) -> None:
    """Send a wildcard request out of ``interface``, from and to the UDP port ``port``.

    Raises :class:`NetlinkError`, for example when the link is down.
    """
    payload = wildcard_request()
    # A UDP socket on babeld's port could catch packets that are meant for babeld; a raw one only copies them.
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
        raise NetlinkError(f"cannot ask for routes on {interface}: {error.strerror}") from error
