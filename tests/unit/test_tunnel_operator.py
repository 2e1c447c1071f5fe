"""Attaching and detaching a tunnel whose driver ends in the middle of it."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Network
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_node_core import peer

from re6st.core.effects import AttachTunnel, DetachTunnel, Drain, DrainTunnel, OfferTunnel
from re6st.core.events import TunnelDrained
from re6st.errors import ChildError
from re6st.node.drainage import Drainage
from re6st.node.tunnel import Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.node.uplinks import Uplinks
from re6st.tunnel.driver import Closed


class Rig:
    """A tunnel operator in whose surroundings each step waits until it is let go on."""

    def __init__(self, hold: str) -> None:
        self.hold = hold
        self.held, self.go_on = asyncio.Event(), asyncio.Event()
        self.links: dict[str, bool] = {}
        self.watched: set[int] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.notes: dict[int, str] = {}
        self.reported: list[Any] = []
        driver = SimpleNamespace(
            name="openvpn",
            set_listener=lambda report: setattr(self, "tell", report),
            annotate=lambda tunnel, note: self.notes.update({tunnel: note}),
        )
        config = SimpleNamespace(interface=lambda slot: f"re6st{slot}")
        self.tell: Any = None
        self.operator = TunnelOperator(
            *cast("tuple[Any, Any]", (config, driver)),
            interfaces=self,
            routing=cast(
                "Any",
                SimpleNamespace(
                    attach=self.attach,
                    resume=self.attach,
                    detach=lambda interface: None,
                    drain=lambda interface: None,
                ),
            ),
            watch=cast("Any", SimpleNamespace(watch=self.watch, forget=self.forget)),
            sizes=cast("Any", SimpleNamespace(begin=lambda *_: None, end=lambda *_: None)),
            tasks=cast("Any", SimpleNamespace(spawn=self.spawn)),
            report=self.reported.append,
            ended=lambda tunnel: None,
            notices=cast("Any", SimpleNamespace(end=lambda peer, name: None)),
            drainage=Drainage(
                cast("Any", self), cast("Any", self), cast("Any", SimpleNamespace(drain=self.drain_at_peer))
            ),
            note=lambda tunnel, effect: f"note of {tunnel.number}",
            uplinks=Uplinks(),
        )

    def is_drained(self, interface: str, but: IPv6Network | None = None) -> bool:
        return True

    async def leads_through(self, interface: str, but: IPv6Network | None = None) -> bool:
        return False

    async def drain_at_peer(self, peer: Any, name: str, *, leaving: bool) -> bool | None:
        return True

    def spawn(self, work: Any, name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))

    def watch(self, tunnel: int, interface: str) -> None:
        self.watched.add(tunnel)

    def forget(self, tunnel: int, interface: str) -> None:
        self.watched.discard(tunnel)

    async def _pass(self, step: str) -> None:
        if step == self.hold:
            self.held.set()
            await self.go_on.wait()

    async def attach(self, interface: str, cost: int, peer: IPv6Network | None = None) -> None:
        await self._pass("attach")

    async def ensure_tun(self, name: str, *, mtu: int, alias: str) -> None:
        self.links[name] = False

    async def set_link(self, name: str, *, up: bool) -> None:
        if up:
            await self._pass("up")
        self.links[name] = up


@pytest.mark.parametrize("hold", ["attach", "up"])
async def test_the_link_of_a_tunnel_that_ends_while_it_is_attached_is_down(hold: str) -> None:
    rig = Rig(hold)
    rig.operator.expect(OfferTunnel(1, 1, peer(7), 3, 4227, 1280))
    rig.operator.attach(AttachTunnel(1, 3, peer(7), 70))
    await rig.held.wait()
    rig.tell(Closed(1, "ping timeout", crashed=False))
    rig.operator.detach(DetachTunnel(1, 3))
    for _ in range(5):
        await asyncio.sleep(0)
    rig.go_on.set()
    await asyncio.gather(*rig.tasks)
    assert rig.links == {"re6st3": False}
    assert not rig.watched
    assert not rig.notes


async def test_a_tunnel_that_ends_while_it_is_adopted_is_not_watched() -> None:
    rig = Rig("attach")
    found = Tunnel(1, "name", peer(7), 3, "re6st3", incoming=False, driver="openvpn")
    adoption = asyncio.create_task(rig.operator.restore(found))
    await rig.held.wait()
    rig.tell(Closed(1, "ping timeout", crashed=False))
    rig.go_on.set()
    with pytest.raises(ChildError, match="ended meanwhile"):
        await adoption
    assert not rig.watched
    assert not rig.operator.tunnels()


async def test_a_tunnel_that_stays_is_up_and_watched() -> None:
    rig = Rig("nothing")
    rig.operator.expect(OfferTunnel(1, 1, peer(7), 3, 4227, 1280))
    rig.operator.attach(AttachTunnel(1, 3, peer(7), 70))
    await asyncio.gather(*rig.tasks)
    assert rig.links == {"re6st3": True}
    assert rig.watched == {1}
    assert rig.notes == {1: "note of 1"}


async def test_a_node_that_stops_hears_when_a_tunnel_is_drained_that_its_peer_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("re6st.node.drainage.INTERVAL", 0.0)
    rig = Rig("nothing")
    rig.operator.expect(OfferTunnel(1, 1, peer(7), 3, 4227, 1280))
    rig.operator.attach(AttachTunnel(1, 3, peer(7), 70))
    rig.operator.drain(DrainTunnel(1, 3, peer(7), Drain.PEER))
    await asyncio.gather(*rig.tasks)
    assert not rig.reported
    rig.operator.drain(DrainTunnel(1, 3, peer(7), Drain.NODE))
    await asyncio.gather(*rig.tasks)
    assert rig.reported == [TunnelDrained(1)]
