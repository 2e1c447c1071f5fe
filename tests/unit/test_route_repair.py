"""Route repair that has no effect comes to an end."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv6Network

import pytest

from re6st.node import route_repair
from re6st.node.netlink import BabelRoute

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

    async def babel_routes(self, network: IPv6Network) -> list[BabelRoute]:
        return [ROUTE]

    async def remove_route(self, route: BabelRoute) -> None:
        self.asked += 1

    async def redirect_route(self, route: BabelRoute, via: str, interface: str) -> None:
        self.asked += 1


def test_it_gives_up_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Stubborn()
    monkeypatch.setattr(route_repair, "SETTLING", 0.0)
    monkeypatch.setattr(route_repair, "PAUSE", 0.0)

    async def live() -> None:
        repair = route_repair.RouteRepair(kernel, IPv6Network("2001:db8:42::/48"), list)
        repair.begin()
        for _ in range(200):
            await asyncio.sleep(0)
        await repair.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(live())
    assert kernel.asked == route_repair.LOOKS
    assert [record.message for record in caplog.records if "stay other" in record.message]
