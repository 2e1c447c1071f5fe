"""re6st.node.route_repair: routes of a babeld that has ended."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv6Address, IPv6Network

import pytest

from re6st.errors import NetlinkError
from re6st.node import route_repair
from re6st.node.netlink import BabelRoute
from re6st.routing.monitor import Route

NETWORK = IPv6Network("2001:db8:42::/48")
ADDRESS = IPv6Address("2001:db8:42:1::1")
ROUTE = BabelRoute(
    destination=IPv6Network("2001:db8:42:7::/64"),
    via="fe80::7",
    interface="re6st0",
    metric=1024,
    table=254,
    kind=1,
    source=None,
)


class Stubborn:
    """A kernel that keeps its routes, whatever it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.added: list[tuple[BabelRoute, str, str]] = []

    async def babel_routes(self, network: IPv6Network) -> list[BabelRoute]:
        return [ROUTE]

    async def remove_route(self, route: BabelRoute) -> None:
        self.asked += 1

    async def redirect_route(self, route: BabelRoute, via: str, interface: str) -> None:
        self.asked += 1

    async def add_route(self, route: BabelRoute, via: str, interface: str) -> None:
        self.added.append((route, via, interface))


def test_it_gives_up_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Stubborn()
    monkeypatch.setattr(route_repair, "SETTLING", 0.0)
    monkeypatch.setattr(route_repair, "PAUSE", 0.0)

    async def live() -> None:
        repair = route_repair.RouteRepair(kernel, NETWORK, ADDRESS, list, tuple)
        repair.begin()
        for _ in range(200):
            await asyncio.sleep(0)
        await repair.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(live())
    assert kernel.asked == route_repair.LOOKS
    assert not kernel.added
    assert [record.message for record in caplog.records if "stay other" in record.message]


class Busy(Stubborn):
    """A kernel that cannot say anything at first, and does as it is told then."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 2
        self.present = [ROUTE]

    async def babel_routes(self, network: IPv6Network) -> list[BabelRoute]:
        if self.failures:
            self.failures -= 1
            raise NetlinkError("Device or resource busy")
        return list(self.present)

    async def remove_route(self, route: BabelRoute) -> None:
        self.present.remove(route)


def test_it_tries_again_when_the_kernel_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Busy()
    monkeypatch.setattr(route_repair, "SETTLING", 0.0)
    monkeypatch.setattr(route_repair, "PAUSE", 0.0)

    async def live() -> None:
        repair = route_repair.RouteRepair(kernel, NETWORK, ADDRESS, list, tuple)
        repair.begin()
        for _ in range(50):
            await asyncio.sleep(0)
        await repair.stop()

    asyncio.run(live())
    assert not kernel.present


def learnt(prefix: str, interface: str) -> Route:
    destination = IPv6Network(prefix)
    return Route("1", destination, IPv6Network("::/0"), True, "id", 100, 0, "fe80::9", interface)


async def test_routes_of_the_babeld_before_count_until_they_are_repaired() -> None:
    repair = route_repair.RouteRepair(Stubborn(), NETWORK, ADDRESS, list, tuple)
    assert not await repair.leads_through("re6st0"), "there was none"
    repair.begin()
    assert await repair.leads_through("re6st0")
    assert not await repair.leads_through("re6st0", but=ROUTE.destination)
    assert not await repair.leads_through("re6st1")
    await repair.stop()


async def test_what_went_with_an_interface_and_babeld_takes_for_installed_is_added() -> None:
    kernel = Stubborn()
    known = [learnt(str(ROUTE.destination), "re6st1"), learnt("2001:db8:42:8::/64", "re6st1")]
    repair = route_repair.RouteRepair(kernel, NETWORK, ADDRESS, lambda: known, tuple)
    assert await repair.restore() == 1
    wanted = BabelRoute.of(IPv6Network("2001:db8:42:8::/64"), ADDRESS)
    assert kernel.added == [(wanted, "fe80::9", "re6st1")]
