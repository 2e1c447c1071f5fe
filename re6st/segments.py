"""Keeps the segments of TCP connections so small that they pass any path, even unmeasured ones (I/O).

TCP learns from routers that its segments are too large, and stalls where these drop them without a word. The
connections between nodes, and to registries, have to work there, as a tunnel that fits such a path is
negotiated through them. They carry little, so small segments cost nothing that matters.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

LARGEST_SEGMENT = 1120
"""Octets. With headers of IPv6 and TCP (60), inside of a tunnel over IPv6 (72), that is less than 1280, which
every path of IPv6 carries (RFC 8200, 5), so that it passes a tunnel on such a path in one piece as well. What
it makes on an IPv4 underlay, 1160, is the least that a path must carry: tunnels make no larger packets."""


def make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a non-blocking socket for a connection to ``address``, an entry of getaddrinfo(3).

    Raises :class:`OSError`.
    """
    made = socket.socket(*address[:3])
    made.setblocking(False)
    limit_segments(made)
    return made


def limit_segments(limited: socket.socket) -> None:
    """Let ``limited``, which is not connected yet, send and take small segments only (TCP_MAXSEG, tcp(7)).

    A listening socket hands this on to the connections that it accepts. Where the kernel does not want to,
    nothing changes.
    """
    with contextlib.suppress(OSError):
        limited.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, LARGEST_SEGMENT)
