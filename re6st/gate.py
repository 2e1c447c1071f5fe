"""Lets connections in to an HTTPS server, so many in total and from one address (I/O).

A connection is *silent* until its TLS handshake is complete and the client has sent something. Whoever only
opens connections costs others nothing: when there are as many as allowed, the oldest silent one has to go
for the newcomer, one of the same address first. Only where all of them are in use is the newcomer refused.
IPv6 addresses count by their /64, since a host may choose the rest.

Connections of another kind may come in at the same sockets: who serves them sees each one before TLS begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

logger = logging.getLogger(__name__)

Divert = Callable[[socket.socket], Awaitable[Coroutine[None, None, None] | None]]
"""Is shown each new connection before TLS begins. Returns what serves one of another kind to its end, from
when on it is not silent, or None if it is for TLS. May raise :class:`OSError`, which ends the connection."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds that a TLS handshake may take."""

BACKLOG = 128
"""Connections that may wait in the kernel to be accepted."""

RETRY_DELAY = 1.0
"""Seconds until connections are accepted again after the system had no resources for one."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be."""

    total: int = 512
    for_each_address: int = 64
    """Nodes behind one home router share an address."""


def source_group(address: str | None) -> str:
    """Return under what name ``address`` is counted; empty for what is no IP address."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed)


@dataclass(eq=False, slots=True)
class _Connection:
    """One that was let in."""

    group: str
    accepted: socket.socket
    task: asyncio.Task[None] | None = None
    """The handshake, until it is complete."""
    transport: asyncio.BaseTransport | None = None
    """From then on."""
    is_silent: bool = True
    is_over: bool = False

    def drop(self) -> None:
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()
        else:
            # The handshake fails by this wherever it stands, and asyncio closes the socket.
            with contextlib.suppress(OSError):
                self.accepted.shutdown(socket.SHUT_RDWR)


class _Observer(asyncio.Protocol):
    """Passes everything on to the protocol of the server, and notes beginning and end."""

    def __init__(self, gate: Gate, connection: _Connection, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self._connection = connection
        self._inner = inner
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.is_silent = False
        self._inner.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._gate.release(self._connection)
        self._inner.connection_lost(error)


class Gate:
    """Accepts the connections of one server, at one or several sockets."""

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        limits: Limits,
        divert: Divert | None = None,
    ) -> None:
        """Have each connection served by a protocol that ``factory`` makes, unless ``divert`` takes it."""
        self._factory = factory
        self._divert = divert
        self._context = context
        self._limits = limits
        self._listeners: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self._connections: dict[_Connection, None] = {}
        """Oldest first."""
        self._counts: dict[str, int] = {}

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def open(self, listener: socket.socket) -> None:
        """Accept connections at ``listener``, which belongs to the gate from now on."""
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._listeners.append(listener)
        self._resume(listener)

    async def close(self) -> None:
        """Close the sockets and end handshakes; complete connections are left to their server."""
        for timer in self._retries:
            timer.cancel()
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        handshakes = [connection for connection in self._connections if connection.transport is None]
        for connection in handshakes:
            connection.drop()
        tasks = [connection.task for connection in handshakes if connection.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def release(self, connection: _Connection) -> None:
        """Forget a connection that has ended."""
        if connection.is_over:
            return
        connection.is_over = True
        del self._connections[connection]
        self._counts[connection.group] -= 1
        if not self._counts[connection.group]:
            del self._counts[connection.group]

    # -- accepting --------------------------------------------------------------------------------------

    def _resume(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            self._admit(accepted, source_group(address[0]))

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Wait a little: the kernel would report the same connection again and again."""
        if error.errno in _EXHAUSTED:
            logger.warning("Cannot accept connections now: %s; raise LimitNOFILE= if this goes on", error)
        else:
            logger.warning("Cannot accept a connection: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def again() -> None:
            self._retries.discard(timer)
            self._resume(listener)

        timer = loop.call_later(RETRY_DELAY, again)
        self._retries.add(timer)

    def _admit(self, accepted: socket.socket, group: str) -> None:
        if not self._make_room(group):
            logger.debug("Refused a connection from %s: too many are in use", group)
            accepted.close()
            return
        connection = _Connection(group, accepted)
        self._connections[connection] = None
        self._counts[group] = self._counts.get(group, 0) + 1
        connection.task = asyncio.create_task(self._shake_hands(connection))

    def _make_room(self, group: str) -> bool:
        """Return whether there is room for one more of ``group``, after dropping a silent one if need be."""
        if self._counts.get(group, 0) >= self._limits.for_each_address:
            return self._drop_silent(group)
        return len(self._connections) < self._limits.total or self._drop_silent(None)

    def _drop_silent(self, group: str | None) -> bool:
        for connection in self._connections:
            if connection.is_silent and group in (None, connection.group):
                self.release(connection)
                connection.drop()
                return True
        return False

    async def _shake_hands(self, connection: _Connection) -> None:
        try:
            if await self._is_diverted(connection):
                return
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Observer(self, connection, self._factory()),
                connection.accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
        except OSError as error:  # those of TLS as well
            logger.debug("No TLS with %s: %s", connection.group, error)
        finally:
            connection.task = None
            if connection.transport is None:
                self.release(connection)

    async def _is_diverted(self, connection: _Connection) -> bool:
        """Serve a connection of another kind to its end; return whether it was one."""
        if self._divert is None:
            return False
        is_other = True
        try:
            serve = await self._divert(connection.accepted)
            is_other = serve is not None
            if serve is not None:
                connection.is_silent = False
                await serve
        finally:
            if is_other:
                connection.accepted.close()
        return is_other
