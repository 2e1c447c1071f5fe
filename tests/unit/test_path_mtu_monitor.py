"""When the MTU of a tunnel is measured again, on a path whose width changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from re6st.messages import Endpoint, Transport
from re6st.node import path_mtu_monitor
from re6st.node.path_mtu_monitor import PathMtuMonitor
from re6st.tunnel.path_mtu import OVERHEAD_IPV4, SMALLEST, Measured, Origin, TunnelPath

ETHERNET = 1500
DEADLINE = 120.0
"""Seconds that a test may take on a busy machine."""

real_sleep = asyncio.sleep


class Rig:
    """A monitor, one tunnel and its path; nothing takes time but probes that are lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.carries = ETHERNET
        """The largest packet of the underlay that arrives."""
        self.believed = ETHERNET
        """What the kernel takes that for."""
        self.told = ETHERNET
        """What routers say that it is."""
        self.used = True
        self.measured = Measured()
        self.narrow = 0
        self.mtus = [SMALLEST]
        """All that the interface was given."""
        monkeypatch.setattr(path_mtu_monitor, "path_mtu", lambda *_: self.believed)
        monkeypatch.setattr(asyncio, "sleep", lambda _: real_sleep(0))
        self.monitor = PathMtuMonitor(self, self, self._on_measured, self._on_narrow)
        self.monitor._prober = cast(
            "Any", SimpleNamespace(send=self._send, forget=lambda _: None, close=lambda: None)
        )
        given = TunnelPath(1, "re6st0", Endpoint(Transport.UDP, "192.0.2.1", 4227), Transport.UDP, 9000)
        self.monitor.begin(given)

    async def mtu(self, _: str) -> int | None:
        return SMALLEST

    async def set_mtu(self, name: str, mtu: int) -> None:
        self.mtus.append(mtu)

    def in_use(self, _: str) -> bool:
        return self.used

    def patience(self, _: str) -> float | None:
        return 0.002

    def _send(self, interface: str, number: int, size: int) -> None:
        if size + OVERHEAD_IPV4 <= self.carries:
            self.monitor._on_answer(interface, number)
        elif size:
            self.believed = min(self.believed, self.told)

    def _on_measured(self, _: int, measured: Measured) -> None:
        self.measured = measured

    def _on_narrow(self, _: int) -> None:
        self.narrow += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await real_sleep(0.001)

    async def until_underlay_of(self, octets: int) -> None:
        await self.until(lambda: self.measured.mtu == octets - OVERHEAD_IPV4)


async def test_a_wider_path_is_used_at_once_when_the_host_has_moved(monkeypatch):
    rig = Rig(monkeypatch)
    rig.carries, rig.used = 1400, False
    await rig.until(lambda: rig.measured == Measured(1400 - OVERHEAD_IPV4, Origin.PROBES))
    rig.carries = ETHERNET
    rig.monitor.measure_again()
    await rig.until_underlay_of(ETHERNET)
    rig.monitor.end(1, "re6st0")


async def test_a_narrower_path_is_noticed_when_the_host_has_moved_also_by_an_idle_tunnel(monkeypatch):
    rig = Rig(monkeypatch)
    rig.used = False
    await rig.until_underlay_of(ETHERNET)
    rig.carries = SMALLEST
    rig.monitor.measure_again()
    await rig.until(lambda: rig.measured == Measured(SMALLEST, Origin.NARROW) and rig.narrow > 0)
    rig.monitor.end(1, "re6st0")


async def test_larger_packets_are_tried_when_the_kernel_has_forgotten_what_a_router_told(monkeypatch):
    rig = Rig(monkeypatch)
    rig.carries = rig.told = 1400
    await rig.until_underlay_of(1400)
    rig.carries = rig.told = rig.believed = ETHERNET
    await rig.until_underlay_of(ETHERNET)
    rig.monitor.end(1, "re6st0")


async def test_what_ends_while_a_large_probe_is_out_has_its_mtu_back_when_the_monitor_has_stopped(
    monkeypatch,
):
    rig = Rig(monkeypatch)
    rig.carries = 1400
    await rig.until(lambda: rig.mtus[-1] > SMALLEST)
    rig.monitor.end(1, "re6st0")
    await rig.monitor.stop()
    assert rig.mtus[-1] == SMALLEST
