"""Tells the core what babeld tells of routes, many changes at once, and which slots are free again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from re6st.core.events import Event, RoutesKnown, SlotQuiet
from re6st.node.route_repair import RouteRepair
from re6st.routing.babeld import Started
from re6st.routing.monitor import Route
from re6st.routing.table import Change, InterfaceQuiet, RoutesChanged

DELAY = 2.0
"""Seconds for which changes of routes are collected before the core hears of them."""


class RouteNews:
    """Takes what :class:`re6st.routing.babeld.Babeld` reports."""

    def __init__(
        self,
        interface_prefix: str,
        installed: Callable[[], Iterable[Route]],
        repair: RouteRepair,
        report: Callable[[Event], None],
    ) -> None:
        """Tunnels have interfaces ``interface_prefix``N; ``installed`` returns the routes in use, and
        ``repair`` hears of each babeld that begins. Report to the core through ``report``.
        """
        self._interface_prefix = interface_prefix
        self._installed = installed
        self._repair = repair
        self._report = report
        self._timer: asyncio.TimerHandle | None = None

    def take(self, change: Change | Started) -> None:
        """Take a change of neighbours or routes."""
        match change:
            case Started():
                self._repair.begin()
            case InterfaceQuiet(interface=interface):
                self._report(SlotQuiet(int(interface.removeprefix(self._interface_prefix))))
            case RoutesChanged() if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(DELAY, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._report(RoutesKnown(frozenset(route.prefix for route in self._installed())))

    def stop(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
