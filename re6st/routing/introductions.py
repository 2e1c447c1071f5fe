"""Sends the packets of babel's first exchanges, when links come up and when a router has begun again (I/O).

What they say and why it helps is told in :mod:`re6st.routing.first_exchange`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from re6st.errors import NetlinkError
from re6st.routing.first_exchange import first_packet, greeting, wildcard_request
from re6st.routing.links import Links
from re6st.routing.monitor import Neighbour
from re6st.routing.packets import inject_packet, send_packet
from re6st.routing.table import RoutingTable

logger = logging.getLogger(__name__)

NUDGE_DELAYS = (0.14, 0.14, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds after each packet of a first exchange. An urgent answer is ready after 125 ms."""

GREETING_DELAYS = (0.1, 0.2, 0.4, 0.8)
"""Seconds after each greeting of a neighbour that has begun again."""

INTRODUCTION_INTERVAL = 0.02
"""Seconds between packets in the name of neighbours that the babeld before has used."""

INTRODUCTIONS = 50

_NOT_READY_DELAY = 0.01
_READY_ATTEMPTS = 200


class Introductions:
    """Speaks to neighbours for babeld, and to babeld for neighbours, until they have found each other."""

    def __init__(self, port: int, links: Links, table: Callable[[], RoutingTable]) -> None:
        """``port`` is babeld's; ``table`` returns what it knows."""
        self._port = port
        self._links = links
        self._table = table
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """What is under way on each interface."""
        self._introducing: set[asyncio.Task[None]] = set()

    def nudge(self, interface: str) -> None:
        """Make the first exchange with the neighbour on ``interface`` happen now."""
        self.forget(interface)
        if self._links.is_attached(interface):
            self._tasks[interface] = asyncio.create_task(self._nudge(interface), name=f"nudge {interface}")

    def greet_again(self, interface: str) -> None:
        """Greet the router on ``interface``, which has begun again, until it surely listens."""
        task = self._tasks.get(interface)
        if task is None or task.done():
            self._tasks[interface] = asyncio.create_task(
                self._greet_again(interface), name=f"greet {interface}"
            )

    def announce(self, interface: str) -> None:
        """Keep the link usable for the neighbour although our babeld has begun again.

        Nothing happens while the link is down.
        """
        self._send(interface, self._first_packet(interface, multicast_hellos=2))

    def forget(self, interface: str) -> None:
        """Say nothing more on ``interface``."""
        task = self._tasks.pop(interface, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Say nothing more at all."""
        tasks = [*self._tasks.values(), *self._introducing]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _nudge(self, interface: str) -> None:
        for delay in NUDGE_DELAYS:
            await self._send_first_packet(interface)
            await asyncio.sleep(delay)
            if self._table().is_reachable(interface) and self._table().has_heard_routes(interface):
                break
        await asyncio.sleep(max(self._links[interface].hello_interval, 1.0) + 1.5)
        self._send(interface, wildcard_request())

    async def _send_first_packet(self, interface: str) -> None:
        """Send the packet as soon as the kernel takes it.

        A link that was set up gets its multicast route a moment later, and if many links change at the
        same time up to a second later.
        """
        packet = self._first_packet(interface)
        for _ in range(_READY_ATTEMPTS):
            if self._send(interface, packet):
                return
            await asyncio.sleep(_NOT_READY_DELAY)

    async def _greet_again(self, interface: str) -> None:
        for delay in GREETING_DELAYS:
            link = self._links[interface]
            packet = greeting(cost=link.cost, hello_interval=link.hello_interval, number=0)
            self._send(interface, packet)
            await asyncio.sleep(delay)

    def used_neighbours(self) -> list[Neighbour]:
        """Return the neighbours that babeld has used when it was last heard of."""
        table = self._table()
        return [neighbour for name in self._links.attached() for neighbour in table.usable_neighbours(name)]

    def begin(self, neighbours: list[Neighbour]) -> None:
        """Do :meth:`introduce` in the background."""
        task = asyncio.create_task(self.introduce(neighbours), name="introduce former neighbours")
        self._introducing.add(task)
        task.add_done_callback(self._introducing.discard)

    async def introduce(self, neighbours: list[Neighbour]) -> None:
        """Have a new babeld use ``neighbours`` at once, whom the one before has used."""
        for _ in range(INTRODUCTIONS):
            neighbours = [
                neighbour
                for neighbour in neighbours
                if self._links.is_attached(neighbour.interface)
                and not self._table().is_reachable(neighbour.interface)
            ]
            for neighbour in neighbours:
                self._greet_for(neighbour)
            if not neighbours:
                return
            await asyncio.sleep(INTRODUCTION_INTERVAL)

    def _greet_for(self, neighbour: Neighbour) -> None:
        interval = self._links[neighbour.interface].hello_interval
        packet = greeting(cost=neighbour.txcost, hello_interval=interval, number=-2)
        try:
            inject_packet(neighbour.interface, self._port, neighbour.address, packet)
        except NetlinkError as error:
            logger.debug("%s", error)

    def _first_packet(self, interface: str, multicast_hellos: int = 1) -> bytes:
        link = self._links[interface]
        number = link.number
        link.number += 2
        return first_packet(
            cost=link.cost,
            hello_interval=link.hello_interval,
            number=number,
            peer=link.peer,
            multicast_hellos=multicast_hellos,
        )

    def _send(self, interface: str, packet: bytes) -> bool:
        """Send ``packet`` as if babeld did; return whether that was possible."""
        try:
            send_packet(interface, self._port, packet)
        except NetlinkError as error:
            logger.debug("%s", error)
            return False
        return True
