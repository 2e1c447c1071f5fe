"""Lets tunnels over TCP come in at the port of the control API, for dialers that reach no other one.

A dialer that is only let out to TCP port 443 finds a node whose control port is 443, but not the port of the
tunnel that it is offered there. So the control port takes both: what begins like TLS is for the API,
anything else must be the first packet of a tunnel that waits for its dialer, which the tunnel's key proves
(:mod:`re6st.tunnel.tls_crypt`). Its octets are then passed on to the tunnel's own port on this host.

That costs processing time in this process for every octet, and ends with it. The tunnel's own port is
therefore offered first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine

from re6st.tunnel.tls_crypt import LENGTH_OCTETS, LONGEST_PACKET, SHORTEST_PACKET, is_from_dialer

FIRST_PACKET_TIMEOUT = 5.0
"""Seconds within which a connection must show what it is for."""

CHUNK = 128 * 1024
"""Octets that are passed on at a time."""

_TLS_HANDSHAKE = b"\x16"
"""The first octet of a TLS connection (RFC 8446, 5.1: content type ``handshake``)."""


class PortShare:
    """The tunnels that may come in, by the port of this host at which each waits."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}

    def expect(self, port: int, key: str) -> None:
        """Pass on to TCP ``port`` of this host the dialer that holds ``key``, until :meth:`forget`."""
        self._keys[port] = key

    def forget(self, port: int) -> None:
        """Pass nobody on to ``port`` any more; who was passed on stays."""
        self._keys.pop(port, None)

    async def take(self, accepted: socket.socket) -> Coroutine[None, None, None] | None:
        """Return what passes a connection on to its tunnel until its end, or None if it is for the API.

        The socket belongs to the caller. Raises :class:`OSError` when it is neither or fails before that is
        known, with :class:`TimeoutError` when nothing comes.
        """
        accepted.setblocking(False)
        async with asyncio.timeout(FIRST_PACKET_TIMEOUT):
            if await _peek(accepted) == _TLS_HANDSHAKE:
                return None
            first = await _read_exactly(accepted, LENGTH_OCTETS)
            length = int.from_bytes(first)
            if not SHORTEST_PACKET <= length <= LONGEST_PACKET:
                raise ConnectionAbortedError("what came first is neither TLS nor of a tunnel")
            packet = await _read_exactly(accepted, length)
        port = next((port for port, key in self._keys.items() if is_from_dialer(packet, key)), None)
        if port is None:
            raise ConnectionAbortedError("what came first is of no tunnel that is waited for")
        self.forget(port)
        return _serve(accepted, port, first + packet)


async def _serve(accepted: socket.socket, port: int, begin: bytes) -> None:
    """Pass on ``accepted``, of which ``begin`` was read, to ``port`` here. Raises :class:`OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as inner:
        inner.setblocking(False)
        for end in (inner, accepted):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(inner, ("127.0.0.1", port))
        await loop.sock_sendall(inner, begin)
        await _join(accepted, inner)


async def _peek(connection: socket.socket) -> bytes:
    """Return the first octet that has arrived without taking it; empty at the end."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(connection, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK)


async def _read_exactly(connection: socket.socket, count: int) -> bytes:
    """Return ``count`` octets. Raises :class:`ConnectionResetError` when there are fewer."""
    found = b""
    while len(found) < count:
        part = await asyncio.get_running_loop().sock_recv(connection, count - len(found))
        if not part:
            raise ConnectionResetError("the connection ended within its first packet")
        found += part
    return found


async def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass on octets in both directions until either end has no more."""
    ways = [asyncio.create_task(_pass_on(one, other)), asyncio.create_task(_pass_on(other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = bytearray(CHUNK)
    with contextlib.suppress(OSError), memoryview(buffer) as view:
        while count := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(target, view[:count])
