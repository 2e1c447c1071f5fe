"""Punches holes: observes where packets of a local port come from, and opens the own router for a peer (I/O).

    dialer                                            listener
      | asks two STUN servers from port P: D            |
      | --------- over the overlay: D ----------------> | asks two STUN servers from port L: E
      |                                                 | one packet L -> D that dies behind the own router
      | <-------- over the overlay: E ----------------- | opens the tunnel's end at L
      | the tunnel's packets P -> E                     | packets L -> D that arrive, several times

The first packet of the listener must not arrive. Some routers answer packets that nobody inside has asked
for, and their connection tracking then takes the dialer's flow for another one and gives it another port than
D. So it has a TTL that suffices for one's own router only. Where there are more of them (CGNAT), the later
packets open these. The dialer has sent by then, so that they are no surprise to its router; the tunnel drops
them, since they prove no key. They come from a raw socket, because the port belongs to the tunnel.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from re6st import stun
from re6st.errors import ProtocolError, RemoteProtocolError
from re6st.messages import Endpoint, Hole, Transport
from re6st.peers import PUNCHING, Peer

logger = logging.getLogger(__name__)

SERVERS = 6
"""STUN servers that are asked: some may not answer."""

OBSERVERS = 2
"""As many answers are enough."""

OWN_ROUTER = 2
"""TTL of a packet that passes one router and dies at the next one."""

WAITS = (0.3, 0.6, 0.8)
"""Seconds for which the answer to each request to a server is waited for before the next one."""

OPENING = (1.5, 1.0, 1.5, 2.0)
"""Seconds between the packets that open all routers of the listener."""

_IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
_UDP_HEADER = struct.Struct("!HHHH")
_TTL = 64
_PAYLOAD = b"re6st"


@dataclass(slots=True)
class Burrow:
    """A local UDP port, and where its packets come from outside."""

    hole: Hole
    port: int
    socket: socket.socket

    def open(self, target: Endpoint) -> None:
        """Make one's own router expect packets from ``target``, without any packet getting there."""
        try:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, OWN_ROUTER)
            self.socket.sendto(_PAYLOAD, (target.address, target.port))
        except OSError as error:
            raise ProtocolError(f"no packet can be sent to {target}: {error}") from error

    def close(self) -> None:
        """Leave the port to the tunnel."""
        self.socket.close()


async def observe(servers: Sequence[Endpoint]) -> Burrow:
    """Take a free local port and ask STUN ``servers`` at IPv4 addresses where its packets come from.

    Raises :class:`ProtocolError` when none answers.
    """
    if not servers:
        raise ProtocolError("no reachable node is known that could tell our address outside")
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind(("", 0))
        answers = await _ask(bound, servers[:SERVERS])
    except OSError as error:
        bound.close()
        raise ProtocolError(f"no STUN server can be asked: {error}") from error
    except BaseException:
        bound.close()
        raise
    if not answers:
        bound.close()
        raise ProtocolError("no STUN server answers: UDP may be blocked here")
    first = answers[0]
    predictable = all(answer == first for answer in answers)
    hole = Hole(endpoint=Endpoint(Transport.UDP, str(first[0]), first[1]), predictable=predictable)
    return Burrow(hole, bound.getsockname()[1], bound)


async def _ask(bound: socket.socket, servers: Sequence[Endpoint]) -> list[tuple[IPv4Address, int]]:
    loop = asyncio.get_running_loop()
    waiting = {(server.address, server.port): stun.new_transaction() for server in servers}
    answers: list[tuple[IPv4Address, int]] = []
    enough = asyncio.Event()

    def on_readable() -> None:
        try:
            message, source = bound.recvfrom(stun.LONGEST + 1)
            transaction = waiting.get(source)
            if transaction is None:
                return
            address, port = stun.read_response(message, transaction)
        except (OSError, RemoteProtocolError):
            return
        if isinstance(address, IPv4Address):
            del waiting[source]
            answers.append((address, port))
            if len(answers) >= min(OBSERVERS, len(servers)):
                enough.set()

    loop.add_reader(bound, on_readable)
    try:
        for wait in WAITS:
            for target, transaction in list(waiting.items()):
                await _send(bound, stun.binding_request(transaction), target)
            try:
                await asyncio.wait_for(enough.wait(), wait)
            except TimeoutError:
                continue
            break
    finally:
        loop.remove_reader(bound)
    return answers[:OBSERVERS]


async def _send(bound: socket.socket, message: bytes, target: tuple[str, int]) -> None:
    try:
        await asyncio.get_running_loop().sock_sendto(bound, message, target)
    except OSError as error:
        logger.debug("STUN server %s is not asked: %s", target, error)


async def keep_opening(port: int, target: Endpoint) -> None:
    """Send packets from the local UDP ``port``, which belongs to another process, to ``target``."""
    packet = _datagram(port, target)
    try:
        # This kind of raw socket, unlike others, gets no copy of what comes in (raw(7)).
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.setblocking(False)
            for wait in OPENING:
                await asyncio.sleep(wait)
                await asyncio.get_running_loop().sock_sendto(raw, packet, (target.address, 0))
    except OSError as error:
        logger.info("Routers on our side may stay closed for %s: %s", target, error)


def _datagram(port: int, target: Endpoint) -> bytes:
    """Return an IPv4 datagram; the kernel fills in length, source and checksum (raw(7))."""
    header = _IP_HEADER.pack(
        0x45, 0, 0, 0, 0, _TTL, socket.IPPROTO_UDP, 0, bytes(4), IPv4Address(target.address).packed
    )
    return header + _UDP_HEADER.pack(port, target.port, _UDP_HEADER.size + len(_PAYLOAD), 0) + _PAYLOAD


def stun_servers(peers: Iterable[Peer]) -> list[Endpoint]:
    """Return where those of ``peers`` answer STUN that have a public address of their own, in their order.

    A router that forwards the TCP port of a peer's control API does not forward the same one of UDP.
    """
    return list(
        dict.fromkeys(
            Endpoint(Transport.UDP, endpoint.address, endpoint.port)
            for peer in peers
            if "upnp" not in peer.capabilities and PUNCHING in peer.capabilities
            for endpoint in peer.endpoints
            if is_outside(Endpoint(Transport.UDP, endpoint.address, endpoint.port))
        )
    )


def is_outside(endpoint: Endpoint) -> bool:
    """Whether ``endpoint`` can be where packets of somebody come from: UDP at a public IPv4 address."""
    try:
        address = ipaddress.ip_address(endpoint.address)
    except ValueError:
        return False
    is_public = address.is_global and not address.is_multicast
    return endpoint.transport is Transport.UDP and address.version == 4 and is_public
