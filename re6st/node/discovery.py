"""Nodes in one LAN find each other without the Internet: multicast datagrams, and what follows from them.

A node that takes part sends, on each of its LANs, its prefix and the port of its control API to a multicast
group that routers do not forward (TTL 1). It says nothing else, and nothing in it is believed: whoever hears
of a node to which it has no route asks the control API there, whose certificate proves who it is, exchanges
peer records with it, and dials it. While routes lead everywhere, nothing follows from a datagram.

Anybody in the LAN can send datagrams in any number. So each leads at most to a connection to the address in
this LAN from which it came, few of them are looked at in a second, few nodes are remembered, and each is
asked seldom.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network

from re6st.errors import ConfigError, RemoteProtocolError
from re6st.messages import Endpoint, LanAnnouncement, Transport, decode, encode
from re6st.node.token_bucket import TokenBucket
from re6st.prefix import parse_prefix

logger = logging.getLogger(__name__)

GROUP = "239.255.42.25"
"""Multicast group, of those for use inside a site (RFC 2365, 6.1)."""

PORT = 4225
"""UDP port."""

INTERVAL = 15.0
"""Seconds between announcements, roughly."""

REMEMBERED_FOR = 60.0
"""Seconds for which a node is where it was heard last."""

MEET_INTERVAL = 10.0
"""Seconds between two attempts to talk with one node."""

MOST_NODES = 64
"""Nodes that are remembered."""

MEET_RATE, MEET_BURST = 1.0, 4.0
"""Attempts to talk with nodes, in a second in the long run and at once."""

RATE, BURST = 10.0, 40.0
"""Datagrams that are looked at, in a second in the long run and at once."""

_LONGEST = 256
_BATCH = 16
_IP_MULTICAST_ALL = 49  # ip(7)


def read_announcement(message: bytes, network: IPv6Network, own: IPv6Network) -> tuple[IPv6Network, int]:
    """Return node prefix and port that ``message`` announces (pure).

    Raises :class:`RemoteProtocolError` when it is none, or not of another node in ``network``.
    """
    if len(message) > _LONGEST:
        raise RemoteProtocolError("the announcement is too long")
    announcement = decode(message, LanAnnouncement)
    try:
        prefix = parse_prefix(announcement.prefix)
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from error
    if prefix == own or prefix.prefixlen <= network.prefixlen or not prefix.subnet_of(network):
        raise RemoteProtocolError(f"{prefix} is no other node of this network")
    return prefix, announcement.port


@dataclass(slots=True)
class _Sighting:
    """Where a node was heard."""

    endpoint: Endpoint
    heard: float


class Sightings:
    """Who was heard where, lately, and who was asked; bounded (pure).

    Neither another endpoint nor being forgotten among many lets a node be asked earlier.
    """

    def __init__(self) -> None:
        self._nodes: dict[IPv6Network, _Sighting] = {}
        self._asked: dict[IPv6Network, float] = {}
        """When, for those that may not be asked again yet; the bucket bounds how many these are."""
        self._bucket = TokenBucket(MEET_RATE, MEET_BURST)

    def note(self, prefix: IPv6Network, endpoint: Endpoint, now: float) -> None:
        """The node with ``prefix`` was heard from ``endpoint`` at ``now`` (monotonic seconds)."""
        self._nodes.pop(prefix, None)
        self._nodes[prefix] = _Sighting(endpoint, now)
        if len(self._nodes) > MOST_NODES:
            del self._nodes[next(iter(self._nodes))]

    def endpoint(self, prefix: IPv6Network, now: float) -> Endpoint | None:
        """Return where the node with ``prefix`` is, None if it was not heard lately."""
        found = self._nodes.get(prefix)
        return found.endpoint if found is not None and now - found.heard < REMEMBERED_FOR else None

    def may_ask(self, prefix: IPv6Network, now: float) -> bool:
        """Return whether it is time to ask that node; if so, note that it is done."""
        self._asked = {one: when for one, when in self._asked.items() if now - when < MEET_INTERVAL}
        if prefix not in self._nodes or prefix in self._asked or not self._bucket.take(now):
            return False
        self._asked[prefix] = now
        return True


class Discovery:
    """Announces this node in its LANs and listens to others there."""

    def __init__(
        self,
        *,
        prefix: IPv6Network,
        network: IPv6Network,
        port: int,
        addresses: Callable[[], Sequence[IPv4Address]],
        reachable_here: Callable[[Endpoint], bool],
        routed: Callable[[IPv6Network], bool],
        meet: Callable[[IPv6Network, Endpoint], None],
    ) -> None:
        """Announce ``prefix`` and control ``port`` from each of ``addresses``, the host's own.

        ``reachable_here`` says whether an endpoint is in one of its LANs, ``routed`` whether there is a
        route to a node, and ``meet`` begins to get to know one.
        """
        self._prefix = prefix
        self._network = network
        self._addresses = addresses
        self._reachable_here = reachable_here
        self._routed = routed
        self._meet = meet
        self._announcement = encode(LanAnnouncement(prefix=str(prefix), port=port))
        self._sightings = Sightings()
        self._bucket = TokenBucket(RATE, BURST)
        self._socket: socket.socket | None = None
        self._joined: set[IPv4Address] = set()
        """Addresses on whose interfaces the socket is a member of the group."""

    async def start(self) -> None:
        """Begin to listen. A port that is taken is no reason for a node not to run."""
        try:
            self._socket = _open()
        except OSError as error:
            logger.warning("Nodes in the LAN are not discovered: UDP port %d: %s", PORT, error)
            return
        asyncio.get_running_loop().add_reader(self._socket, self._on_readable)

    async def stop(self) -> None:
        """Neither listen nor announce any more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def announce(self) -> None:
        """Announce this node for ever."""
        while True:
            self._announce_once()
            await asyncio.sleep(INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311 - not for security

    def endpoint(self, prefix: IPv6Network) -> Endpoint | None:
        """Return where in a LAN the control API of the node with ``prefix`` is, if it was heard lately."""
        return self._sightings.endpoint(prefix, time.monotonic())

    def _announce_once(self) -> None:
        if self._socket is None:
            return
        addresses = tuple(self._addresses())
        self._join_at(addresses)
        for address in addresses:
            self._announce_from(self._socket, address)

    def _join_at(self, addresses: Sequence[IPv4Address]) -> None:
        """Hear the group on the interfaces of ``addresses``.

        Memberships of interfaces that vanished stay with a socket, which can have only a few
        (igmp_max_memberships), and cannot be left without the index that the interface had. So the socket is
        opened anew when an address is gone, or when one can be joined again: its interface is another one.
        """
        if not self._joined <= set(addresses):
            self._reopen()
        fresh = {address for address in addresses if self._join(address)}
        if fresh & self._joined:
            self._reopen()
            fresh = {address for address in addresses if self._join(address)}
        self._joined |= fresh

    def _join(self, address: IPv4Address) -> bool:
        """Join the group on the interface of ``address``; return whether it was no member there."""
        if self._socket is None:
            return False
        membership = struct.pack("4s4s", socket.inet_aton(GROUP), address.packed)
        try:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # as a rule it has joined before
                logger.warning("Nodes in the LAN of %s are not discovered: %s", address, error)
            return False
        return True

    def _reopen(self) -> None:
        """Take a new socket, without memberships; keep the old one if there is none."""
        try:
            opened = _open()
        except OSError as error:
            logger.warning("Nodes in new LANs may not be discovered: UDP port %d: %s", PORT, error)
            return
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket)
            self._socket.close()
        loop.add_reader(opened, self._on_readable)
        self._socket = opened
        self._joined = set()

    def _announce_from(self, sender: socket.socket, address: IPv4Address) -> None:
        try:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
            sender.sendto(self._announcement, (GROUP, PORT))
        except OSError as error:
            logger.debug("No announcement from %s: %s", address, error)

    def _on_readable(self) -> None:
        for _ in range(_BATCH):
            try:
                if self._socket is None:
                    return
                message, source = self._socket.recvfrom(_LONGEST + 1)
            except BlockingIOError:
                return
            except OSError as error:
                logger.debug("Cannot hear the LAN: %s", error)
                return
            now = time.monotonic()
            if self._bucket.take(now):
                self._hear(message, source[0], now)

    def _hear(self, message: bytes, source: str, now: float) -> None:
        try:
            prefix, port = read_announcement(message, self._network, self._prefix)
        except RemoteProtocolError as error:
            logger.debug("Not an announcement from %s: %s", source, error)
            return
        endpoint = Endpoint(Transport.TCP, source, port)
        if not self._reachable_here(endpoint):
            return
        self._sightings.note(prefix, endpoint, now)
        if not self._routed(prefix) and self._sightings.may_ask(prefix, now):
            logger.debug("There may be a node in the LAN that no route leads to: %s at %s", prefix, endpoint)
            self._meet(prefix, endpoint)


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # Another network on this host listens as well.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        opened.setblocking(False)
        opened.bind((GROUP, PORT))
    except OSError:
        opened.close()
        raise
    return opened
