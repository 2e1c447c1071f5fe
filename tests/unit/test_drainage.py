"""re6st.node.drainage: when a drained tunnel may end."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any, cast

import pytest
from test_node_core import peer

from re6st.core.effects import Drain
from re6st.node import drainage
from re6st.node.drainage import CONFIRMATIONS, Drainage
from re6st.node.tunnel import Stage, Tunnel


class Ends:
    """Both ends of a tunnel; ``answers`` are what the peer says, the last one again and again."""

    def __init__(self, *answers: bool | None, routes: set[IPv6Network] | None = None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.routes = routes or set()
        self.tunnel = Tunnel(1, "name", peer(7), 3, "re6st3", incoming=False, driver="openvpn")
        self.tunnel.enter(Stage.DRAINING)
        self.drainage = Drainage(cast("Any", self), cast("Any", self), cast("Any", self))
        self.remains: set[str] = set()

    def is_drained(self, interface: str, but: IPv6Network | None = None) -> bool:
        return not self.routes - {cast("Any", but)}

    async def leads_through(self, interface: str, but: IPv6Network | None = None) -> bool:
        return interface in self.remains

    async def drain(self, other: Any, name: str, *, leaving: bool) -> bool | None:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainage, "INTERVAL", 0.0)


async def test_both_ends_must_say_several_times_in_a_row_that_no_route_is_left() -> None:
    ends = Ends(True, True, False, True)
    assert await ends.drainage.complete(ends.tunnel, leaving=False)
    assert ends.asked == 3 + CONFIRMATIONS


async def test_a_peer_that_cannot_say_is_taken_at_its_silence_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drainage, "UNTOLD", 0.01)
    ends = Ends(None)
    assert await ends.drainage.complete(ends.tunnel, leaving=False)
    assert ends.asked > CONFIRMATIONS


async def test_a_tunnel_that_ends_is_no_longer_waited_for() -> None:
    ends = Ends(False)
    ends.tunnel.enter(Stage.CLOSED)
    assert not await ends.drainage.complete(ends.tunnel, leaving=False)


async def test_a_node_that_stops_waits_for_the_routes_of_others_only() -> None:
    ends = Ends(True, routes={peer(8).prefix})
    assert await ends.drainage.complete(ends.tunnel, leaving=True)


async def test_the_route_to_a_peer_that_leaves_does_not_count() -> None:
    ends = Ends(True, routes={peer(7).prefix})
    assert await ends.drainage.is_drained_here(ends.tunnel, leaving=True)
    assert not await ends.drainage.is_drained_here(ends.tunnel, leaving=False)
    ends.tunnel.drain = Drain.NODE
    assert await ends.drainage.is_drained_here(ends.tunnel, leaving=False), "of two that stop, neither waits"


async def test_routes_that_an_earlier_babeld_has_left_count_as_well() -> None:
    ends = Ends(True)
    ends.remains = {"re6st3"}
    assert not await ends.drainage.is_drained_here(ends.tunnel, leaving=False)
    ends.remains = {"re6st4"}
    assert await ends.drainage.is_drained_here(ends.tunnel, leaving=False)
