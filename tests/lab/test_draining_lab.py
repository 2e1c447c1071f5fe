"""Planned removals lose nothing: a node that stops while it relays, and tunnels that rotate.

registry  node1  node2  node3  node4  node5
   |        |      |      |      |      |
===+========+======+======+======+======+===  internet: all addresses are public

Pings run 50 times a second, and octets flow over TCP, while tunnels in use are taken away.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from conftest import FORMING, formed_lab
from msgspec import structs
from observing import Transfer, lost

from re6st import status
from re6st.lab import worlds
from re6st.lab.bench_outage import cut_until_relayed
from re6st.lab.lab import Lab
from re6st.lab.ping_train import PingTrain
from re6st.status import TunnelStatus

pytestmark = pytest.mark.timeout(300)

SETTINGS = {"outgoing-tunnels": 2, "tunnel-refresh": 10.0}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    guests = {f"node{number}": None for number in range(1, 6)}
    world = worlds.with_guests(worlds.mixed(1), guests)
    world = structs.replace(world, mesh=structs.replace(world.mesh, settings=SETTINGS))
    with formed_lab(world, "drain") as built:
        yield built


def drained_tunnels(lab: Lab) -> set[tuple[str, int]]:
    """Return the tunnels that drain now, by node and number."""
    return {
        (name, tunnel.tunnel)
        for name, node in lab.nodes.items()
        for tunnel in status.fetch(node.runtime, "tunnels", list[TunnelStatus])
        if tunnel.state == "draining"
    }


def outgoing(lab: Lab, name: str) -> set[tuple[str, int]]:
    """Return the tunnels that the node has dialled and that are up, as (peer, number)."""
    found = status.fetch(lab.nodes[name].runtime, "tunnels", list[TunnelStatus])
    return {(one.peer, one.tunnel) for one in found if one.direction == "out" and one.state == "up"}


def replaced(lab: Lab, name: str, before: set[tuple[str, int]]) -> bool:
    """Whether the node has a new tunnel in the place of one that it had ``before``."""
    now = outgoing(lab, name)
    return bool(now - before and before - now)


def test_tunnels_that_rotate_lose_nothing(lab):
    pairs = [(f"node{number}", f"node{number % 5 + 1}") for number in range(1, 6)]
    with ExitStack() as stack:
        trains = [
            stack.enter_context(PingTrain(lab.hosts[source].namespace, lab.nodes[target].address()))
            for source, target in pairs
        ]
        transfer = Transfer(lab, "node1", "node3")
        before = {name: outgoing(lab, name) for name in lab.nodes}
        begun, seen = time.monotonic(), set()
        while time.monotonic() < begun + 120:
            draining = drained_tunnels(lab)
            seen |= draining
            if len(seen) >= 2 and not draining and any(replaced(lab, *one) for one in before.items()):
                break
            time.sleep(0.2)
        assert len(seen) >= 2, "nothing rotates"
        assert any(replaced(lab, *one) for one in before.items()), "what ends is not replaced"
        ended = time.monotonic()
        assert all(train.wait_steady(1, FORMING, since=ended) for train in trains)
        assert lost(trains, begun) == []
        assert transfer.complete()
    assert lab.wait_for_all_pairs(FORMING).complete


def test_a_relay_that_stops_loses_nothing(lab):
    pair, relay = cut_until_relayed(lab, random.Random(2))
    source, target = pair
    try:
        with PingTrain(lab.hosts[source].namespace, lab.nodes[target].address()) as train:
            transfer = Transfer(lab, source, target)
            assert train.wait_steady(1, FORMING)
            begun = time.monotonic()
            lab.nodes[relay].stop()
            assert train.wait_steady(1, FORMING, since=time.monotonic())
            assert lost([train], begun) == []
            assert transfer.complete()
    finally:
        lab.heal_all()
