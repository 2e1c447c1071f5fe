"""Probes: ICMPv6 echo requests to the other end of a tunnel, and their answers (RFC 4443, section 4; I/O).

A tunnel has one other end, so requests go to all nodes of the link (ff02::1) and nobody's address has to be
known. Answers count only if they come from a link-local address on the same interface (nobody but the peer
has such a one) and bear our identifier and the nonce of a request that is under way.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import secrets
import socket
import struct
from collections.abc import Callable

from re6st.errors import NetlinkError
from re6st.node.interface_index import interface_index

logger = logging.getLogger(__name__)

ALL_NODES = "ff02::1"
ECHO_REQUEST, ECHO_REPLY = 128, 129
MOST_REMEMBERED = 1024
"""Requests under way, all tunnels together; the oldest ones are forgotten first."""

_HEADER = struct.Struct("!BBHHH8s")
"""Type, code, checksum (the kernel's business), identifier, sequence number; then the nonce."""
_IPV6_HEADER = 40
_IPV6_DONTFRAG = 62  # RFC 3542, 11.2; not in Python's socket module
_ICMPV6_FILTER = 1  # icmp6(7) has no constant in Python; RFC 3542, 3.2: a set bit blocks a type
_SO_ATTACH_FILTER = 26
_MOST_AT_ONCE = 64


class Prober:
    """One raw socket for all tunnels of the network namespace in which it is opened."""

    def __init__(self, answered: Callable[[str, int], None]) -> None:
        """Call ``answered`` with interface and number of each request that was answered."""
        self._answered = answered
        self._identifier = secrets.randbits(16)
        self._socket: socket.socket | None = None
        self._waiting: dict[bytes, tuple[str, int, int]] = {}

    def open(self) -> None:
        """Begin to listen, in the running event loop. Raises :class:`NetlinkError`."""
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        except OSError as error:
            raise NetlinkError(f"cannot open a raw socket for probes: {error.strerror}") from error
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _only(ECHO_REPLY))
        _attach_identifier_filter(sock, self._identifier)
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self.read)

    def close(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def send(self, interface: str, number: int, size: int = 0) -> None:
        """Send the request ``number`` through ``interface``; if that fails, it is simply not answered.

        The packet has ``size`` octets with its IPv6 header, if that is more than it needs, in one piece.
        """
        if self._socket is None:
            return
        nonce = secrets.token_bytes(8)
        try:
            index = interface_index(self._socket, interface)
            if index is None:
                logger.debug("No probe on %s: there is no such interface", interface)
                return
            packet = _HEADER.pack(ECHO_REQUEST, 0, 0, self._identifier, number & 0xFFFF, nonce)
            packet = packet.ljust(size - _IPV6_HEADER, b"\0")
            self._socket.sendto(packet, (ALL_NODES, 0, 0, index))
        except OSError as error:
            logger.debug("No probe on %s: %s", interface, error)
            return
        self._waiting[nonce] = (interface, index, number)
        while len(self._waiting) > MOST_REMEMBERED:
            del self._waiting[next(iter(self._waiting))]

    def forget(self, interface: str) -> None:
        """Ignore answers to earlier requests on ``interface``."""
        for nonce in [nonce for nonce, (name, _, _) in self._waiting.items() if name == interface]:
            del self._waiting[nonce]

    def read(self) -> None:
        """Take the answers that have arrived."""
        for _ in range(_MOST_AT_ONCE):
            if self._socket is None:
                return
            try:
                packet, (address, _, _, scope) = self._socket.recvfrom(256)
            except OSError:
                return
            self._take(packet, address, scope)

    def _take(self, packet: bytes, address: str, scope: int) -> None:
        if len(packet) < _HEADER.size or not address.lower().startswith("fe80:"):
            return
        kind, _, _, identifier, _, nonce = _HEADER.unpack_from(packet)
        waiting = self._waiting.get(nonce)
        if kind != ECHO_REPLY or identifier != self._identifier or waiting is None or waiting[1] != scope:
            return
        del self._waiting[nonce]
        self._answered(waiting[0], waiting[2])


def _only(kind: int) -> bytes:
    """Return an ICMPv6 filter that lets only messages of type ``kind`` through."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)


def _attach_identifier_filter(sock: socket.socket, identifier: int) -> None:
    """Let the kernel drop answers to everybody else's pings, so that they do not wake us (socket(7))."""
    program = struct.pack(
        "=HBBIHBBIHBBIHBBI",
        *(0x28, 0, 0, 4),  # load the half-word at offset 4, the identifier
        *(0x15, 0, 1, identifier),  # if it is ours go on, otherwise skip one
        *(0x06, 0, 0, 0xFFFF),  # accept
        *(0x06, 0, 0, 0),  # drop
    )
    memory = ctypes.create_string_buffer(program)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(memory)))
