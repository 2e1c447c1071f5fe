"""Brings the kernel's babel routes in line with a babeld that has begun anew (I/O).

The routes of a babeld that was killed stay in the kernel, and traffic goes on by them. Its successor finds
them there: for a destination that has one, what it adds is refused by the kernel (EEXIST), and it takes no
notice; a destination that it never hears of keeps the old one for ever. So once it must know all there is to
know, each route of the kernel that differs from babeld's own is replaced by that, or removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Network
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

    async def remove_route(self, route: BabelRoute) -> None:
        """Remove ``route``."""


class RouteRepair:
    """Looks at the routes some time after each start of babeld."""

    def __init__(
        self, kernel: Routes, network: IPv6Network, installed: Callable[[], Iterable[Route]]
    ) -> None:
        """``installed`` returns the routes that babeld says it has installed, one for each prefix."""
        self._kernel = kernel
        self._network = network
        self._installed = installed
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

    async def _run(self) -> None:
        try:
            await asyncio.sleep(SETTLING)
            for _ in range(LOOKS):
                if not await self.repair():
                    return
                await asyncio.sleep(PAUSE)
            logger.warning(
                "Routes of the kernel stay other than babeld's: compare 'ip -6 route show proto 44'"
                " with 're6st-node routes'"
            )
        except NetlinkError as error:
            logger.warning("Old routes may be left in the kernel: %s", error)
        except Exception:
            logger.exception("While repairing routes")

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
