"""Brings the kernel's babel routes in line with a babeld that has begun anew (I/O).

The routes of a babeld that was killed stay in the kernel, and traffic goes on by them. Its successor finds
them there: for a destination that has one, what it adds is refused by the kernel (EEXIST), and it takes no
notice; a destination that it never hears of keeps the old one for ever. So once it must know all there is to
know, each route of the kernel that differs from babeld's own is replaced by that, or removed.

Until then the old ones matter. When their interface goes down, the kernel drops them, and babeld takes no
notice of that either: what it believes to have installed is added soon. And an interface through which they
lead is not drained, although babeld has no route there. Those into a prefix of this node are removed soon: a
peer has claimed a part of it, which the new babeld denies (:mod:`re6st.routing.configuration`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Protocol

from re6st.errors import NetlinkError
from re6st.node.netlink import BabelRoute
from re6st.routing.monitor import Route

logger = logging.getLogger(__name__)

SETTLING = 20.0
"""Seconds that a new babeld has to learn its routes: several hello intervals."""

PAUSE = 1.0
"""Seconds between two looks, until one finds nothing to do."""

LOOKS = 10
"""Looks in a row that find something to do, after which it will not be otherwise."""


class Routes(Protocol):
    """The kernel's routes."""

    async def babel_routes(self, network: IPv6Network) -> list[BabelRoute]:
        """Return babeld's routes to destinations inside ``network``."""

    async def redirect_route(self, route: BabelRoute, via: str, interface: str) -> None:
        """Let ``route`` lead to the next hop ``via`` on ``interface``."""

    async def add_route(self, route: BabelRoute, via: str, interface: str) -> None:
        """Add ``route`` by the next hop ``via`` on ``interface`` unless there is one already."""

    async def remove_route(self, route: BabelRoute) -> None:
        """Remove ``route``."""


class RouteRepair:
    """Looks at the routes some time after each start of babeld."""

    def __init__(
        self,
        kernel: Routes,
        network: IPv6Network,
        address: IPv6Address,
        installed: Callable[[], Iterable[Route]],
        own: Callable[[], Collection[IPv6Network]],
    ) -> None:
        """``address`` is the node's, ``own`` returns its prefixes. ``installed`` returns the routes that
        babeld says it has installed, one for each prefix.
        """
        self._kernel = kernel
        self._network = network
        self._address = address
        self._installed = installed
        self._own = own
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take note that a babeld has begun."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(), name="repair routes")

    async def stop(self) -> None:
        """Repair nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def leads_through(self, interface: str, but: IPv6Network | None = None) -> bool:
        """Return whether a route that babeld may not know, other than that to ``but``, leads through
        ``interface``; also when that cannot be found out.
        """
        if self._task is None or self._task.done():
            return False
        try:
            present = await self._kernel.babel_routes(self._network)
        except NetlinkError as error:
            logger.debug("%s", error)
            return True
        return any(route.interface == interface and route.destination != but for route in present)

    async def _run(self) -> None:
        try:
            settled = time.monotonic() + SETTLING
            while time.monotonic() < settled:
                await asyncio.sleep(PAUSE)
                await self._look(self.restore)
            for _ in range(LOOKS):
                if not await self._look(self.repair):
                    return
                await asyncio.sleep(PAUSE)
            logger.warning(
                "Routes of the kernel stay other than babeld's: compare 'ip -6 route show proto babel'"
                " with 're6st-node routes'"
            )
        except Exception:
            logger.exception("While repairing routes")

    @staticmethod
    async def _look(work: Callable[[], Awaitable[int]]) -> bool:
        """Do ``work``; return whether there was anything to do, or it could not be done this time."""
        try:
            return await work() > 0
        except NetlinkError as error:
            logger.warning("Old routes may be left in the kernel: %s", error)
            return True

    async def restore(self) -> int:
        """Add what babeld believes to have installed and what is not there, and remove what leads into a
        prefix of this node; return how many routes those were.

        Raises :class:`NetlinkError` when the kernel's routes cannot be read, or one not be removed.
        """
        routes = await self._kernel.babel_routes(self._network)
        stolen = [route for route in routes if self._is_own(route.destination)]
        for claim in stolen:
            logger.info("Removing the route to %s, a part of a prefix of this node", claim.destination)
            await self._kernel.remove_route(claim)
        present = {route.destination for route in routes}
        missing = [
            route
            for route in self._installed()
            if route.prefix not in present and not self._is_own(route.prefix)
        ]
        for route in missing:
            logger.info("Adding the missing route to %s", route.prefix)
            try:
                absent = BabelRoute.of(route.prefix, self._address)
                await self._kernel.add_route(absent, route.via, route.interface)
            except NetlinkError as error:
                # Its interface has just gone down.
                logger.debug("%s", error)
        return len(stolen) + len(missing)

    def _is_own(self, destination: IPv6Network) -> bool:
        return any(destination.subnet_of(prefix) for prefix in self._own())

    async def repair(self) -> int:
        """Repair all routes once; return how many were wrong. Raises :class:`NetlinkError`."""
        present = await self._kernel.babel_routes(self._network)
        wrong = differing(present, {route.prefix: route for route in self._installed()})
        for route, wanted in wrong:
            if wanted is None:
                logger.info("Removing an old route to %s", route.destination)
                await self._kernel.remove_route(route)
            else:
                logger.info("Correcting the route to %s", route.destination)
                await self._kernel.redirect_route(route, wanted.via, wanted.interface)
        return len(wrong)


def differing(
    present: Iterable[BabelRoute], installed: Mapping[IPv6Network, Route]
) -> list[tuple[BabelRoute, Route | None]]:
    """Return those of the kernel's routes that are not what babeld has ``installed``, with what should be."""
    wrong = []
    for route in present:
        wanted = installed.get(route.destination)
        if wanted is None or (wanted.via, wanted.interface) != (route.via, route.interface):
            wrong.append((route, wanted))
    return wrong
