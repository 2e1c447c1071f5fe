"""Moves routes away from tunnels that still carry packets, and hurries babel when one has failed.

babeld reads the cost of an interface only when the link comes up. But each router uses the cost that its
neighbour at the other end says in an *IHU* (RFC 8966, 4.6.6). So both ends of a tunnel that shall be
drained get, a few times per second, an IHU with a cost that no other way has: the neighbour by a packet
that our babeld could have sent, and our own babeld by one that the neighbour could have sent. The tunnel
stays usable; routes leave it as soon as there is another way (3.7.2).

Three things could make them wait, and are dealt with (all of RFC 8966):

- A way that is no feasible successor (3.5.1) is taken only after its destination has raised its sequence
  number, which babeld asks for when it hears of that way the next time, and only if the way is much
  better (by 512). The cost of a draining tunnel is; and neighbours that know a way are asked to tell it now
  (*Route Request*, 4.6.9).
- babeld gathers what is not urgent, sequence number requests among it, for up to a second or so at hello
  intervals of 4 s. An *Acknowledgment Request* (4.6.3) that has to be answered at once makes it send what it
  has for that neighbour. The same is done when a tunnel has failed: it takes most of the waiting
  out of the search for a new way.
- babeld itself goes on to send IHUs with the old cost, one in three hello intervals. Ours come so often that
  this hardly shows.

After a failure one more thing can last for a whole update interval: babeld may look for no other way. A
neighbour that has retracted its route is remembered as a way that leads nowhere, and is always feasible
(3.5.1). When the route in use is lost, babeld takes such a way if there is no better feasible one, and as it
then has a route it asks nobody. Nor does that neighbour tell by itself that it has another route by now,
unless that is better by 1024. So all neighbours are asked for what is lost; an answer that is not feasible
makes babeld ask the destination for a new sequence number.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network

from re6st.errors import NetlinkError
from re6st.routing.monitor import INFINITY, Route
from re6st.routing.packets import assemble, inject_packet, send_packet
from re6st.routing.table import RoutingTable

logger = logging.getLogger(__name__)

DEAR = 8192
"""Cost of a tunnel that is drained: dearer than any other way, and four are not yet infinity."""

INTERVAL = 0.3
"""Seconds between packets to both ends of a tunnel that is drained."""

ASKED_AT_ONCE = 56
"""Most prefixes in one packet, which then fits the smallest MTU."""

ASKING = 6
"""Every so many acknowledgments neighbours are also asked for routes that were lost."""

HURRY = tuple(0.05 for _ in range(10)) + tuple(0.1 for _ in range(20))
"""Seconds between the acknowledgments that are asked for after a tunnel has failed."""

_ACKNOWLEDGMENT_REQUEST, _IHU, _ROUTE_REQUEST = 2, 5, 9
_WILDCARD, _IPV6 = 0, 2


def dear_packet(hello_interval: float) -> bytes:
    """Return the packet that makes its receiver's link dear, for a while that ``hello_interval`` (seconds) of
    the sender's babeld decides; what the receiver has gathered for the sender it sends at once.
    """
    interval = max(1, min(0xFFFF, round(3 * hello_interval * 100)))
    ihu = (_IHU, struct.pack("!BBHH", _WILDCARD, 0, DEAR, interval))
    return assemble([ihu, _flush_request()])


def flush_packet() -> bytes:
    """Return the packet that makes its receiver send at once what it has gathered for the sender."""
    return assemble([_flush_request()])


def route_requests(prefixes: Iterable[IPv6Network]) -> bytes:
    """Return the packet that asks for the routes to ``prefixes``."""
    records = []
    for prefix in prefixes:
        address = prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]
        records.append((_ROUTE_REQUEST, struct.pack("!BB", _IPV6, prefix.prefixlen) + address))
    return assemble([*records, _flush_request()])


def _flush_request() -> tuple[int, bytes]:
    return _ACKNOWLEDGMENT_REQUEST, struct.pack("!HHH", 0, 0, 1)


class RouteMover:
    """Drains interfaces of our babeld, and hurries it."""

    def __init__(
        self,
        port: int,
        table: Callable[[], RoutingTable],
        attached: Callable[[], Iterable[str]],
    ) -> None:
        """``table`` returns what babeld knows, ``attached`` the interfaces whose links are meant to be up."""
        self._port = port
        self._table = table
        self._attached = attached
        self._draining: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._hurry: asyncio.Task[None] | None = None

    def drain(self, interface: str, hello_interval: float) -> None:
        """Make ``interface`` dear at both ends until :meth:`forget` is called."""
        self._draining[interface] = hello_interval
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="drain tunnels")

    def is_draining(self, interface: str) -> bool:
        """Return whether ``interface`` is being made dear."""
        return interface in self._draining

    def forget(self, interface: str) -> None:
        """The link of ``interface`` was set down."""
        self._draining.pop(interface, None)

    def hurry(self) -> None:
        """A link has failed: have babeld and its neighbours look for other ways without delay."""
        if self._hurry is not None:
            self._hurry.cancel()
        self._hurry = asyncio.create_task(self._keep_hurrying(), name="hurry babel")

    async def stop(self) -> None:
        """Send nothing any more."""
        tasks = [task for task in (self._task, self._hurry) if task is not None]
        self._draining.clear()
        self._task = self._hurry = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self) -> None:
        while self._draining:
            for interface, hello_interval in self._draining.items():
                packet = dear_packet(hello_interval)
                self._send(interface, packet)
                self._inject(interface, packet)
            self._ask_for_other_ways()
            await asyncio.sleep(INTERVAL)

    def _ask_for_other_ways(self) -> None:
        """Have the routes told again that lead elsewhere to where a draining tunnel is still used."""
        table, attached = self._table(), set(self._attached())
        stuck = {route.prefix for route in table.installed() if route.interface in self._draining}
        asked: dict[str, list[Route]] = {}
        for route in table.routes() if stuck else ():
            usable = route.interface in attached and route.interface not in self._draining
            if route.prefix in stuck and usable and route.metric < INFINITY:
                asked.setdefault(route.interface, []).append(route)
        for interface, routes in asked.items():
            prefixes = [route.prefix for route in routes[:ASKED_AT_ONCE]]
            self._send(interface, route_requests(prefixes))
            self._inject(interface, flush_packet())

    async def _keep_hurrying(self) -> None:
        for number, delay in enumerate(HURRY):
            await asyncio.sleep(delay)
            lost = self._table().lost()[:ASKED_AT_ONCE] if number % ASKING == 0 else []
            packet = route_requests(lost) if lost else flush_packet()
            for interface in self._attached():
                self._send(interface, packet)
                self._inject(interface, flush_packet())

    def _send(self, interface: str, packet: bytes) -> None:
        try:
            send_packet(interface, self._port, packet)
        except NetlinkError as error:
            logger.debug("%s", error)

    def _inject(self, interface: str, packet: bytes) -> None:
        for neighbour in self._table().neighbours(interface):
            try:
                inject_packet(interface, self._port, str(neighbour.address), packet)
            except NetlinkError as error:
                logger.debug("%s", error)
